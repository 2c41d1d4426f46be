"""Evaluator: benchmark x network x detectors -> result rows."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from oodbench import files, metrics
from oodbench.backbones import load_classifier
from oodbench.benchmark import Benchmark, Group, get_benchmark
from oodbench.detector import Detector, create_detector, id_options
from oodbench.errors import (
    BadScoresError,
    DataError,
    MissingDataError,
    OODBenchError,
    OODBenchWarning,
    OptionError,
)
from oodbench.extract import (
    Hardware,
    as_network,
    extract,
    fit_with_network,
    is_first_process,
    score_with_network,
)
from oodbench.fingerprint import weights_digest
from oodbench.outputs import Outputs, to_numpy
from oodbench.registry import DETECTORS
from oodbench.results import COLUMNS, METRICS, SCHEMA, Results, ResultStore, Row, row_id, versions
from oodbench.samples import Samples
from oodbench.train import id_samples, plan, train
from oodbench.transforms import Preprocess, Transform, content_key

Report = Callable[[str], None]


@dataclass
class Contender:
    """A network on a leaderboard: what it is, and how it came to be.

    Args:
        network: any PyTorch classifier, or a module with ``outputs`` and ``head``.
        method: how it was trained; ``"external"`` for a network that oodbench did not train.
        backbone: its architecture's name.
        recipe: the recipe's name, or None.
        recipe_options: the recipe's fields.
        seed: of its training.
        preprocess: its own preprocessing; None for the benchmark's.
        layer: the name of its linear head, if that cannot be found.
        trained_on: the ID training set, where oodbench trained it.
    """

    network: nn.Module
    method: str = "external"
    backbone: str = ""
    recipe: str | None = None
    recipe_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    preprocess: Transform | None = None
    layer: str | None = None
    trained_on: Samples | None = None


@dataclass
class _OOD:
    name: str
    group: Group
    samples: Samples


class Evaluator:
    """Scores detectors on one benchmark; the network sees each image once, however many they are.

    Args:
        benchmark: what is compared with what.
        ood: names of the OOD sets to use, None for all of the benchmark's; see
            :meth:`Benchmark.choose`. Sets that are not on this machine are left out, and named in
            ``missing``.
        hardware: where and how the network runs.
        report: told what happens, line by line.
        command: what repeats this evaluation; goes into the rows.

    Attributes:
        forward_passes: samples that went through the network so far; cached outputs do not count.

    Raises:
        MissingDataError: the ID set or all OOD sets are missing.
        DataError: the ID set has one class, or its splits have different classes.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        *,
        ood: Sequence[str] | None = None,
        hardware: Hardware | None = None,
        report: Report | None = None,
        command: str | None = None,
    ) -> None:
        self.benchmark = benchmark
        self.hardware = hardware or Hardware()
        self.report = report or (lambda _: None)
        self.command = command
        self.forward_passes = 0
        self.missing: dict[str, str] = {}
        self._missing_from: dict[Group, list[str]] = {"near": [], "far": []}
        self.warnings: list[str] = []
        chosen = benchmark.choose(ood)
        if not chosen:
            raise OptionError(
                f"benchmark {benchmark.name} has no OOD sets of its own; name some: --ood mnist."
            )
        for choice in chosen:
            if choice.spec.name in ("near", "far"):
                raise OptionError(
                    f"the OOD set {choice.spec.name!r} bears the name of a group's mean; rename it."
                )
        self.test = id_samples(benchmark, "test")
        self.ood: list[_OOD] = []
        for choice in chosen:
            try:
                samples = choice.spec.load(choice.spec.splits[-1])
            except MissingDataError as error:
                self.missing[choice.spec.name] = str(error)
                self._missing_from[choice.group].append(choice.spec.name)
                self.report(f"missing: {error}")
                continue
            self.ood.append(_OOD(choice.spec.name, choice.group, samples))
        if not self.ood:
            raise MissingDataError(
                "none of the OOD sets is there. " + " ".join(self.missing.values())
            )
        self._warn_of_overlap()

    def _warn_of_overlap(self) -> None:
        known = np.unique(self.test.digests)
        for ood in self.ood:
            shared = int(np.isin(ood.samples.digests, known).sum())
            if shared:
                text = (
                    f"{shared} of the {len(ood.samples)} images of {ood.samples.name} are also in "
                    f"the ID test set {self.test.name}; scores on {ood.name} mean little."
                )
                self.warnings.append(text)
                self.report(f"warning: {text}")

    def _outputs(self, contender: Contender, network: nn.Module, samples: Samples) -> Outputs:
        def count(n: int) -> None:
            self.forward_passes += n

        return extract(
            network,
            samples,
            contender.preprocess or self.benchmark.preprocess,
            hardware=self.hardware,
            on_forward=count,
        )

    def check_classes(self, train: Samples) -> None:
        """Check that a training set has the classes of the ID test set, in the same order.

        Raises:
            DataError: it has others.
        """
        if train.classes != self.test.classes:
            raise DataError(
                f"{train.name} and {self.test.name} have different classes: "
                f"{sorted(set(train.classes) ^ set(self.test.classes))[:5]}."
            )

    def run(self, contender: Contender, detectors: Sequence[Detector]) -> Results:
        """Rows of each detector on each OOD set, and on the groups' means.

        A detector that fails is named in the result's ``failures``, with the reason.

        Raises:
            BadScoresError: NaN or infinite outputs.
            Exception: what the first detector raised, if all of them failed.
        """
        network = as_network(contender.network, contender.layer)
        train_samples = contender.trained_on
        splits: dict[str, Samples] = {}
        fitting: dict[str, Outputs] = {}
        for detector in detectors:
            split = getattr(detector, "fit_split", "train")
            if detector.needs_fit or detector.needs_fit_batches:
                if split not in splits:
                    splits[split] = id_samples(self.benchmark, split)
                    self.check_classes(splits[split])
                if detector.needs_fit and split not in fitting:
                    fitting[split] = self._outputs(contender, network, splits[split])
                train_samples = splits.get("train", train_samples)
        id_outputs = self._outputs(contender, network, self.test)
        ood_outputs = [self._outputs(contender, network, ood.samples) for ood in self.ood]
        shared = self._provenance(contender, network, train_samples, id_outputs)
        results = Results([], dict(self.missing), list(self.warnings))
        errors = []
        for detector in track(detectors, self.hardware.progress):
            split = getattr(detector, "fit_split", "train")
            began = time.perf_counter()
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", OODBenchWarning)
                    if detector.needs_fit:
                        detector.fit(fitting[split])
                    if detector.needs_fit_batches:
                        fit_with_network(
                            detector,
                            network,
                            splits[split],
                            contender.preprocess or self.benchmark.preprocess,
                            hardware=self.hardware,
                        )
                    scores = [
                        self._scores(detector, contender, network, samples, outputs)
                        for samples, outputs in zip(
                            [self.test, *(ood.samples for ood in self.ood)],
                            [id_outputs, *ood_outputs],
                            strict=True,
                        )
                    ]
            except Exception as error:  # one detector's failure must not lose the others' results
                errors.append(error)
                reason = str(error) if isinstance(error, OODBenchError) else repr(error)
                results.failures[detector.label] = reason
                self.report(f"failed: {detector.label}: {reason}")
                continue
            self._pass_on(caught, results)
            shared["seconds"] = round(time.perf_counter() - began, 3)
            results.rows += self._rows(detector, scores[0], scores[1:], shared)
        if errors and not results.rows:
            raise errors[0]
        return results

    def _pass_on(self, caught: Iterable[warnings.WarningMessage], results: Results) -> None:
        for one in caught:
            text = str(one.message)
            if not issubclass(one.category, OODBenchWarning):
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
            elif text not in results.warnings:
                results.warnings.append(text)
                self.report(f"warning: {text}")

    def _scores(
        self,
        detector: Detector,
        contender: Contender,
        network: nn.Module,
        samples: Samples,
        outputs: Outputs,
    ) -> np.ndarray:
        try:
            if "model" in detector.needs:
                scores = score_with_network(
                    detector,
                    network,
                    samples,
                    contender.preprocess or self.benchmark.preprocess,
                    hardware=self.hardware,
                )
            else:
                scores = detector.score(outputs)
        except BadScoresError as error:
            raise BadScoresError(f"on {samples.name}: {error}") from error
        return to_numpy(scores).astype(np.float64)

    def _provenance(
        self,
        contender: Contender,
        network: nn.Module,
        train_samples: Samples | None,
        id_outputs: Outputs,
    ) -> Row:
        accuracy = low = high = None
        if id_outputs.logits is not None and id_outputs.labels is not None:
            accuracy = metrics.accuracy(id_outputs.logits, id_outputs.labels)
            low, high = metrics.proportion_ci(round(accuracy * len(self.test)), len(self.test))
        return {
            "method": contender.method,
            "backbone": contender.backbone or type(contender.network).__name__,
            "id": self.benchmark.id.name,
            "benchmark": self.benchmark.name,
            "seed": contender.seed,
            "id_accuracy": accuracy,
            "id_accuracy_low": low,
            "id_accuracy_high": high,
            "n_id": len(self.test),
            "recipe": contender.recipe,
            "recipe_options": contender.recipe_options,
            "preprocess": content_key(contender.preprocess or self.benchmark.preprocess),
            "precision": self.hardware.precision,
            "weights": weights_digest(network),
            "id_train_fingerprint": train_samples.fingerprint if train_samples else None,
            "id_fingerprint": self.test.fingerprint,
            "selection": files.digest(
                sorted((ood.name, ood.group, ood.samples.fingerprint) for ood in self.ood)
            )[:16],
            "device": self.hardware.accelerator,
            **versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self.command,
            "schema": SCHEMA,
        }

    def _rows(
        self,
        detector: Detector,
        id_scores: np.ndarray,
        ood_scores: Sequence[np.ndarray],
        shared: Row,
    ) -> list[Row]:
        about = {"detector": detector.label, "detector_options": detector.options(), **shared}
        rows: list[Row] = []
        for ood, scores in zip(self.ood, ood_scores, strict=True):
            rows.append(
                {
                    **about,
                    "ood": ood.name,
                    "group": ood.group,
                    "is_mean": False,
                    "ood_sets": [ood.name],
                    "n_ood": len(scores),
                    "ood_fingerprint": ood.samples.fingerprint,
                    **metrics.all_metrics(id_scores, scores),
                    **metrics.all_intervals(id_scores, scores),
                }
            )
        single = list(rows)
        groups: tuple[Group, ...] = ("near", "far")
        for group in groups:
            members = [i for i, row in enumerate(single) if row["group"] == group]
            if not members:
                continue
            names = [single[i]["ood"] for i in members]
            whole = self.benchmark.is_complete(group, names) and not self._missing_from[group]
            low, high = metrics.mean_auroc_ci(id_scores, [ood_scores[i] for i in members])
            mean: Row = {
                **about,
                "ood": group if whole else f"{group}({', '.join(names)})",
                "group": group,
                "is_mean": True,
                "ood_sets": names,
                "n_ood": sum(single[i]["n_ood"] for i in members),
                "ood_fingerprint": "+".join(single[i]["ood_fingerprint"][:16] for i in members),
                "auroc_low": low,
                "auroc_high": high,
            }
            for metric in METRICS:
                mean[metric] = float(np.mean([single[i][metric] for i in members]))
            rows.append(mean)
        whole_rows = [{name: row.get(name) for name in COLUMNS} for row in rows]
        for row in whole_rows:
            row["row_id"] = row_id(row)
        return whole_rows


def track(detectors: Sequence[Detector], shown: bool) -> Iterator[Detector]:
    """The detectors one by one, with a progress bar that names the one at work."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("detectors", total=len(detectors))
        for detector in detectors:
            progress.update(task, description=detector.label)
            yield detector
            progress.advance(task)


def evaluate(
    model: nn.Module | None = None,
    id: str | None = None,  # noqa: A002
    detectors: Sequence[str | Detector] | str | Detector = "msp",
    *,
    benchmark: str | Benchmark | None = None,
    ood: Sequence[str] | None = None,
    method: str | None = None,
    recipe: str | None = None,
    recipe_options: dict[str, Any] | None = None,
    backbone: str | None = None,
    checkpoint: str | Path | None = None,
    seed: int | Sequence[int] = 0,
    retrain: bool = False,
    preprocess: Transform | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layer: str | None = None,
    hardware: Hardware | None = None,
    leaderboards: str | Path | None = None,
    report: Report | None = None,
    command: str | None = None,
) -> Results:
    """Evaluate detectors on a benchmark: on your network, on a checkpoint, or on one trained now.

    Args:
        model: any PyTorch classifier; it is neither moved nor changed. None to load
            ``checkpoint``, or to train.
        id: the ID set (``"cifar100"``), whose default benchmark is used.
        detectors: names or :class:`Detector` objects; ``"all"`` for every registered detector that
            was designed for ``method`` (for cross-entropy, if that is None).
        benchmark: another protocol's name, or a :class:`Benchmark`.
        ood: OOD sets to use instead of the benchmark's.
        method: how to train; None for the method that each detector was designed for.
        recipe: the method's recipe; None for the published one where the paper has this ID set.
        recipe_options: fields of the recipe to change.
        backbone: network to train, or of the checkpoint (a name), or a name for ``model``.
        checkpoint: a trained classifier's weights, safetensors or ``.pt``.
        seed: one, or several for a mean and standard deviation.
        retrain: train although a finished run is there.
        preprocess: the network's own preprocessing; None for the benchmark's (or what a
            checkpoint's metadata says of mean and std).
        mean: channel means of the network's own normalisation, in [0, 1].
        std: channel deviations of it.
        layer: the name of the model's linear head, if it cannot be found.
        hardware: accelerator, devices, precision, batch size, progress.
        leaderboards: folder whose store the rows are appended to; None to store nothing.
        report: told what happens, line by line.
        command: what repeats this evaluation; goes into the rows.

    Returns:
        Rows; ``to_pandas()`` makes a table.
    """
    chosen = benchmark if isinstance(benchmark, Benchmark) else get_benchmark(id, benchmark)
    listed = [detectors] if isinstance(detectors, str | Detector) else list(detectors)
    made = [
        create_detector(d, **id_options(d, chosen.id.name)) if isinstance(d, str) else d
        for d in named(listed, method)
    ]
    if not made:
        raise OptionError("name at least one detector.")
    seeds = [seed] if isinstance(seed, int) else list(seed)
    evaluator = Evaluator(chosen, ood=ood, hardware=hardware, report=report, command=command)
    own = _own_preprocess(chosen, preprocess, mean, std)
    results = Results(missing=dict(evaluator.missing), warnings=list(evaluator.warnings))
    if model is not None or checkpoint is not None:
        contender = _given(chosen, evaluator, model, checkpoint, backbone, own, layer, seeds[0])
        results += evaluator.run(contender, made)
    else:
        runs = [
            plan(chosen, name, recipe=recipe, backbone=backbone, seed=one, overrides=recipe_options)
            for one in seeds
            for name in dict.fromkeys(method or detector.method for detector in made)
        ]
        for run in runs:
            evaluator.check_classes(run.samples)
        for run in runs:
            state = "trained already" if run.weights.is_file() and not retrain else "training"
            evaluator.report(
                f"{state}: {run.method}, recipe {run.recipe_name}, {run.backbone}, "
                f"seed {run.seed}, {run.recipe.epochs} epochs on {len(run.samples)} images of "
                f"{run.samples.name}"
            )
            contender = Contender(
                train(run, evaluator.hardware, retrain=retrain),
                method=run.method,
                backbone=run.backbone,
                recipe=run.recipe_name,
                recipe_options=dataclasses.asdict(run.recipe),
                seed=run.seed,
                preprocess=own,
                trained_on=run.samples,
            )
            results += evaluator.run(
                contender, [d for d in made if (method or d.method) == run.method]
            )
    if leaderboards is not None and is_first_process():
        ResultStore(leaderboards).append(results.rows)
    return results


def named(detectors: Sequence[str | Detector], method: str | None) -> list[str | Detector]:
    """The detectors, with ``"all"`` spelled out: those designed for the method, or for ``ce``."""
    spelled: list[str | Detector] = []
    for detector in detectors:
        if detector == "all":
            spelled += [
                name for name in DETECTORS.names() if DETECTORS.get(name).method == (method or "ce")
            ]
        else:
            spelled.append(detector)
    return list(dict.fromkeys(spelled)) if all(isinstance(d, str) for d in spelled) else spelled


def _own_preprocess(
    benchmark: Benchmark,
    preprocess: Transform | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Transform | None:
    if mean is None and std is None:
        return preprocess
    base = preprocess or benchmark.preprocess
    if not isinstance(base, Preprocess):
        raise OptionError("mean and std change an oodbench Preprocess; yours is another callable.")
    return dataclasses.replace(base, mean=tuple(mean or base.mean), std=tuple(std or base.std))


def _given(
    benchmark: Benchmark,
    evaluator: Evaluator,
    model: nn.Module | None,
    checkpoint: str | Path | None,
    backbone: str | None,
    preprocess: Transform | None,
    layer: str | None,
    seed: int,
) -> Contender:
    if model is None:
        if backbone is None or checkpoint is None:
            raise OptionError("a checkpoint needs the network's name: --backbone resnet20.")
        classes = len(evaluator.test.classes)
        model, metadata = load_classifier(
            backbone, checkpoint, classes, benchmark.preprocess.channels
        )
        if preprocess is None and {"mean", "std"} <= set(metadata):
            mean, std = (
                tuple(float(v) for v in metadata[name].split(",")) for name in ("mean", "std")
            )
            preprocess = dataclasses.replace(benchmark.preprocess, mean=mean, std=std)
            evaluator.report(f"normalisation of the checkpoint: mean {mean}, std {std}")
    return Contender(model, backbone=backbone or "", preprocess=preprocess, layer=layer, seed=seed)
