"""Honest choice of hyper-parameters: on validation data alone, never on what is tested on.

Each detector says in ``grid`` which values are worth trying. Every combination is fitted on the ID
training split and scored by the mean AUROC of the ID validation split against the benchmark's
validation OOD sets. Test splits are out of reach: what is searched is the benchmark
:meth:`~oodbench.benchmark.Benchmark.without_test`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.contenders import Networks
from oodbench.data.samples import Samples, Subset
from oodbench.detector import Detector
from oodbench.errors import BadScoresError, MissingDataError, OptionError
from oodbench.hardware import Hardware
from oodbench.options import build
from oodbench.outputs import Outputs
from oodbench.reporting import Report, of_a_kind, reason_of, track
from oodbench.runtime.process import undisturbed
from oodbench.selection import create_detectors
from oodbench.tasks.runner import NetworkRunner, SampleOutputs, Scored, fit_split, learns
from oodbench.tasks.task import Task, task_of
from oodbench.tuning import Choice, Trial, Tuning, Validation


@undisturbed()
def tune(
    benchmark: str | Benchmark,
    detectors: Sequence[str | Detector] | str | Detector,
    networks: Networks | None = None,
    *,
    fixed: Mapping[str, Collection[str]] | None = None,
    hardware: Hardware | None = None,
    report: Report | None = None,
    task_options: Mapping[str, Any] | None = None,
    fit_on: str | float | None = None,
) -> Tuning:
    """Choose the values of detectors' grids on a benchmark's validation data.

    The combination with the highest AUROC is chosen (mean over the validation OOD sets, and over
    the networks where there are several seeds, so that all have the same values); of equal ones the
    first in the grid. The values that a detector came with are always among the candidates.

    Images of ``val`` that are also in ``train`` are left out when a detector is fitted. A detector
    with ``fit_split = "val"`` is fitted on one half of ``val`` and scored on the other.

    Args:
        benchmark: its name, or the benchmark.
        detectors: names or objects, as :func:`oodbench.evaluate` takes them. An object's option
            that has another value than by default is kept.
        networks: which networks they are put on; trained ones by default.
        fixed: further options to keep, by detector.
        hardware: where and how networks run.
        report: told what happens, line by line.
        task_options: options of the benchmark's task, over those of the benchmark.
        fit_on: how many ID training images detectors are fitted on; see :func:`oodbench.evaluate`.

    Raises:
        OptionError: no detector at all, or no validation data in the benchmark.
        Exception: what the first detector raised, if all that were searched failed.
    """
    whole = benchmark if isinstance(benchmark, Benchmark) else get_benchmark(benchmark=benchmark)
    task = task_of(whole, task_options)
    search = _Search(
        whole.without_test(), task, networks or Networks(), hardware or Hardware(), report, fit_on
    )
    made = create_detectors(detectors, search.networks.method, whole)
    task.check(whole, made)
    search.networks.check(whole, made)
    return search.run(made, fixed or {})


class _Search:
    def __init__(
        self,
        benchmark: Benchmark,
        task: Task,
        networks: Networks,
        hardware: Hardware,
        report: Report | None,
        fit_on: str | float | None = None,
    ) -> None:
        self.fit_on = fit_on
        self.benchmark, self.task = benchmark, task
        self.networks, self.hardware = networks, hardware
        self.report = report or (lambda _: None)
        self.result = Tuning(benchmark.name)
        self.errors: list[Exception] = []
        self.trials: dict[int, list[Trial]] = {}

    def run(self, detectors: list[Detector], fixed: Mapping[str, Collection[str]]) -> Tuning:
        for detector in detectors:
            try:
                values = candidates(detector, fixed.get(detector.label, ()), self.benchmark.id.name)
            except OptionError as error:
                self._fail(detector, error)
                continue
            if len(values) > 1:
                self.trials[id(detector)] = [Trial(one) for one in values]
                continue
            reason = "all of its grid is set" if detector.grid else "it has no grid"
            self.result.untuned[detector.label] = reason
            self.report(f"not tuned: {detector.label}: {reason}")
        searched = [d for d in detectors if id(d) in self.trials]
        if searched:
            self._search(searched)
        for detector in searched:
            if all(detector is not failed for failed in self.result._failed):
                self._choose(detector)
        if self.errors and not self.result.choices and len(self.errors) == len(detectors):
            raise self.errors[0]
        return self.result

    def _search(self, detectors: list[Detector]) -> None:
        validation = self.result.validation = Validation(self.benchmark, self.report, self.fit_on)
        for contender, its_detectors in self.networks.contenders(
            self.benchmark, detectors, validation.val, self.hardware, self.report
        ):
            runner = self.task.start(
                contender, self.benchmark, self.hardware, classes=validation.val.classes
            )
            stage = _Stage(runner, validation, its_detectors)
            for on_halves in (False, True):
                turns = [
                    (detector, trial)
                    for detector in its_detectors
                    if (learns(detector) and fit_split(detector) == "val") == on_halves
                    for trial in self.trials[id(detector)]
                ]
                if turns:
                    self._try(stage, turns, on_halves)

    def _try(self, stage: _Stage, turns: Sequence[tuple[Detector, Trial]], on_halves: bool) -> None:
        """Score each combination of values; what one of them raises is its own failure."""
        tried: list[tuple[Detector, Trial]] = []

        def taken() -> Iterator[Detector]:
            bar = track([detector for detector, _ in turns], self.hardware.progress)
            for (detector, trial), _ in zip(turns, bar, strict=True):
                if trial.refused or any(detector is failed for failed in self.result._failed):
                    continue
                tried.append((detector, trial))
                yield _with(detector, trial.values)

        for number, scored in enumerate(stage.score(taken(), on_halves)):
            detector, trial = tried[number]
            trial.warnings += scored.notes
            if scored.failure is None:
                trial.aurocs.append(float(np.mean([row["auroc"] for row in scored.figures])))
            elif isinstance(scored.failure, OptionError | BadScoresError):  # not for this data
                trial.refused = reason_of(scored.failure)
                self.report(f"skipped: {detector.label}, {words(trial.values)}: {trial.refused}")
            else:
                self._fail(detector, scored.failure)

    def _choose(self, detector: Detector) -> None:
        trials = self.trials[id(detector)]
        usable = [(trial.auroc, trial) for trial in trials if trial.auroc is not None]
        if not usable:
            reason = next(trial.refused for trial in trials if trial.refused)
            self._fail(detector, OptionError(f"no value of its grid can be used here: {reason}"))
            return
        highest = max(auroc for auroc, _ in usable)
        best = next(trial for auroc, trial in usable if auroc == highest)
        chosen = _with(detector, best.values)
        validation = self.result.validation
        assert validation is not None  # noqa: S101 - for the type checker
        tuned = {
            "ood": list(validation.ood),
            "fingerprint": validation.fingerprint,
            "auroc": highest,
            "tried": len(usable),
        }
        object.__setattr__(chosen, "tuned", tuned)  # somebody's detector may be frozen
        self.result.choices.append(Choice(detector, chosen, trials, best))
        for text in of_a_kind(best.warnings):  # of the others a reader need not know
            self.result.warnings.append(text)
            self.report(f"warning: {text}")
        self.report(
            f"tuned: {detector.label}: {words(best.values)} (best of {len(usable)}; AUROC "
            f"{100 * highest:.2f} % on {validation.val.name} against {', '.join(validation.ood)})"
        )

    def _fail(self, detector: Detector, error: Exception) -> None:
        self.errors.append(error)
        self.result._failed.append(detector)
        self.result.failures[detector.label] = reason_of(error)


class _Stage:
    """One network and the validation data; it sees each image once, whatever is tried."""

    def __init__(
        self, runner: NetworkRunner, validation: Validation, detectors: Sequence[Detector]
    ) -> None:
        self.runner, self.validation = runner, validation
        self.reads_train = any(d.needs_fit and fit_split(d) == "train" for d in detectors)
        self.ood = [runner.outputs_of(samples) for samples in validation.ood.values()]

    @cached_property
    def train(self) -> SampleOutputs:
        return self.runner.outputs_of(self.validation.train)

    @cached_property
    def fitted_on(self) -> SampleOutputs:
        samples = self.validation.fitted_on
        is_whole = samples is self.validation.train
        return self.train if is_whole else self._part(self.train, samples)

    @cached_property
    def val(self) -> SampleOutputs:
        data = self.validation
        try:
            rows = data.rows_in_train
        except MissingDataError:  # of no matter to a detector that is not fitted
            rows = None
        if rows is None or not self.runner.rows_are_samples:
            return self.runner.outputs_of(data.val)
        if not (self.reads_train or self.runner.is_cached(data.train)):
            return self.runner.outputs_of(data.val)
        return SampleOutputs(data.val, lambda: _rows(self.train.outputs, rows, data.val))

    @cached_property
    def halves(self) -> tuple[SampleOutputs, SampleOutputs]:
        first, second = self.validation.halves
        return self._part(self.val, first), self._part(self.val, second)

    def _part(self, whole: SampleOutputs, samples: Samples) -> SampleOutputs:
        """What the network outputs for some of the samples that it saw already."""
        if not self.runner.rows_are_samples:
            return self.runner.outputs_of(samples)
        assert isinstance(samples, Subset)  # noqa: S101 - for the type checker
        rows = samples.rows
        return SampleOutputs(samples, lambda: _rows(whole.outputs, rows, samples))

    def score(self, detectors: Iterable[Detector], on_halves: bool) -> Iterator[Scored]:
        """Figures of ``val`` against the OOD sets.

        Args:
            detectors: what is tried.
            on_halves: whether they learn from one half of ``val`` and are scored on the other.
        """
        known = self.halves[1] if on_halves else self.val
        tested = [known, *self.ood]
        yield from self.runner.score(detectors, _Learned(self), tested, with_intervals=False)


class _Learned(dict[str, SampleOutputs]):
    """What detectors learn from, by split; looked up when one does."""

    def __init__(self, stage: _Stage) -> None:
        super().__init__()
        self.stage = stage

    def __missing__(self, split: str) -> SampleOutputs:
        return self.stage.halves[0] if split == "val" else self.stage.fitted_on


def _rows(outputs: Outputs, rows: np.ndarray, samples: Samples) -> Outputs:
    # equal images may have different labels; those of the samples count
    labels = torch.from_numpy(samples.labels)
    return dataclasses.replace(outputs[torch.from_numpy(rows)], labels=labels)


def candidates(detector: Detector, fixed: Collection[str], id_name: str) -> list[dict[str, Any]]:
    """The combinations of a detector's grid, in order, and its own values if they are not there.

    Args:
        detector: the detector.
        fixed: options that are kept.
        id_name: the ID set, whose defaults are no deliberate choice of anybody's.

    Raises:
        OptionError: the grid names what is no option.
    """
    options = detector.options()
    unknown = [name for name in detector.grid if name not in options]
    if unknown:
        raise OptionError(
            f"{detector.label}: its grid names {', '.join(unknown)}, but its options are "
            f"{', '.join(options) or 'none'}."
        )
    try:
        defaults = _build(detector, dict(type(detector).id_options.get(id_name, {}))).options()
    except OptionError:  # it has options without a default
        defaults = options
    free = {
        name: [list(value) if isinstance(value, tuple) else value for value in values]
        for name, values in detector.grid.items()
        if name not in fixed and options[name] == defaults[name]
    }
    combinations = [
        dict(zip(free, values_, strict=True)) for values_ in itertools.product(*free.values())
    ]
    present = {name: options[name] for name in free}
    return combinations if present in combinations else [*combinations, present]


def _with(detector: Detector, values: Mapping[str, Any]) -> Detector:
    return _build(detector, {**detector.options(), **values})


def _build(detector: Detector, options: Mapping[str, Any]) -> Detector:
    return build(type(detector), f"detector {detector.label}", options)


def words(values: Mapping[str, Any]) -> str:
    """Options and values as ``--set`` takes them: ``k=20, normalize=false``."""
    return ", ".join(f"{name}={word(value)}" for name, value in values.items())


def word(value: Any) -> str:
    """A value in the spelling of the command line."""
    if isinstance(value, list | tuple):
        return ",".join(map(word, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
