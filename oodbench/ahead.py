"""What several networks will be asked of, seen by all of them in one pass beforehand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from oodbench import files
from oodbench.benchmark import Benchmark
from oodbench.checks.classes import id_samples
from oodbench.contenders import Networks, contender_of
from oodbench.data.balanced import balanced
from oodbench.data.samples import Samples, positions
from oodbench.data.transforms import Transform, content_key
from oodbench.detector import Detector
from oodbench.errors import OODBenchError, StorageError
from oodbench.hardware import Hardware
from oodbench.reporting import Report, warnings_to
from oodbench.tasks.contender import Contender
from oodbench.tasks.runner import fit_split
from oodbench.tasks.task import task_of
from oodbench.tested import Tested
from oodbench.together import extract_together
from oodbench.training.frozen import FrozenMethod
from oodbench.training.run import Run
from oodbench.training.train import train


@dataclass
class _Look:
    """Samples that a network will be asked of, and how they are made for it."""

    network: nn.Module
    samples: Samples
    transform: Transform


def look_ahead(
    asked: Sequence[Networks],
    benchmark: Benchmark,
    detectors: Sequence[Detector],
    *,
    ood: str | Sequence[str] | None = None,
    fit_on: str | float | None = None,
    hardware: Hardware | None = None,
    report: Report | None = None,
    task_options: Mapping[str, Any] | None = None,
) -> None:
    """Have networks see the benchmark's samples together, each sample decoded once for all.

    Those see them that share a preprocessing, and need not be trained any more: given ones, frozen
    ones, and those whose training is in the cache. What goes wrong here is left to the evaluation
    of the network that it goes wrong with, which tells it.

    Args:
        asked: the networks.
        benchmark: what they are evaluated on.
        detectors: what is put on them.
        ood: OOD sets to use instead of the benchmark's.
        fit_on: how many ID training images detectors are fitted on, or the share of them.
        hardware: where and how they run.
        report: told which samples are seen, by how many.
        task_options: options of the benchmark's task.

    Raises:
        StorageError: the cache cannot be written to.
    """
    hardware, say = hardware or Hardware(), report or (lambda _: None)
    task = task_of(benchmark, task_options or {})
    if not (task.rows_are_samples and task.runner.keeps_outputs):
        return
    with warnings_to(lambda _: None):  # told when their turn comes
        groups: dict[str, list[_Look]] = {}
        with contextlib.suppress(OODBenchError):
            tested = Tested(benchmark, task, ood, lambda _: None, lambda _: None)
            for networks in asked:
                for look in _looks(networks, tested, detectors, fit_on, hardware, task_options):
                    name = files.digest([look.samples.fingerprint, content_key(look.transform)])
                    groups.setdefault(name, []).append(look)
        for looks in groups.values():
            first = looks[0]
            try:
                seen = extract_together(
                    [look.network for look in looks],
                    first.samples,
                    first.transform,
                    hardware=hardware,
                )
            except StorageError:
                raise
            except OODBenchError as error:
                say(f"{first.samples.name} is not seen by the networks together: {error}")
                continue
            if seen:
                say(f"{seen} networks saw {first.samples.name} together, each image decoded once")


def _looks(
    networks: Networks,
    tested: Tested,
    detectors: Sequence[Detector],
    fit_on: str | float | None,
    hardware: Hardware,
    task_options: Mapping[str, Any] | None,
) -> Iterator[_Look]:
    """What one of the networks, or its several seeds, will be asked of."""
    benchmark = tested.benchmark
    splits = {fit_split(detector) for detector in detectors if detector.needs_fit}
    for contender, run in _contenders(networks, tested, detectors, hardware):
        task = task_of(benchmark, task_options or {})
        try:
            runner = task.start(contender, benchmark, hardware, None, tested.test.classes)
            learned = [id_samples(benchmark, split) for split in splits - {"train"}]
            learned += [balanced(id_samples(benchmark, "train"), fit_on)] * ("train" in splits)
        except OODBenchError:
            continue
        for samples in (*tested.samples, *learned):
            scored = task.samples(samples)
            yield _Look(runner.reader, scored, runner.transform_of(scored))
        if run is not None and isinstance(contender.network, FrozenMethod):
            method = contender.network
            if method.layer() is not None and not run.weights.is_file():
                for samples in _to_learn_from(run):
                    yield _Look(method.trunk, samples, method.own_preprocess)


def _contenders(
    networks: Networks, tested: Tested, detectors: Sequence[Detector], hardware: Hardware
) -> Iterator[tuple[Contender, Run | None]]:
    """The networks that can see samples now, with their trainings where they have one."""
    benchmark = tested.benchmark
    # a network of somebody else's may raise anything, which its own evaluation will tell
    with contextlib.suppress(Exception):
        if networks.is_trained_elsewhere(benchmark, detectors):
            found = networks.contenders(benchmark, detectors, tested.test, hardware, lambda _: None)
            yield next(iter(found))[0], None
            return
        for run in networks.runs(benchmark, detectors, hardware):
            if run.encoder is not None:
                yield contender_of(run, cast(FrozenMethod, run.build()).eval()), run
            elif run.weights.is_file() and not networks.retrain:
                yield contender_of(run, train(run, hardware)), run


def _to_learn_from(run: Run) -> Iterator[Samples]:
    """What a layer on a frozen network is learned from."""
    yield run.samples
    if "val" in run.benchmark.id.splits:
        with contextlib.suppress(OODBenchError):
            val = run.benchmark.id.load("val")
            if (positions(val, run.samples) < 0).any():
                yield val
