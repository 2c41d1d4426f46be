"""Evaluator: benchmark x network x detectors -> result rows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oodbench import files, measures, metrics
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.checks import doubts, overlap, sanity
from oodbench.contenders import (
    Contender,
    Networks,
    Seen,
    Subject,
    learns,
)
from oodbench.data.samples import Samples
from oodbench.data.transforms import MultimodalPreprocess, Transform, content_key
from oodbench.detector import Detector
from oodbench.errors import MissingDataError, OptionError
from oodbench.hardware import Hardware, is_first_process
from oodbench.reporting import (
    Report,
    noting,
    of_a_kind,
    own_failure,
    reason_of,
    track,
)
from oodbench.results.means import Difference, Intervals, rows_of_means
from oodbench.results.rows import (
    COLUMNS,
    SCHEMA,
    Results,
    Row,
    row_id,
)
from oodbench.results.store import ResultStore
from oodbench.results.versions import versions
from oodbench.runtime.machine import accelerator_name, processor_name
from oodbench.runtime.process import undisturbed
from oodbench.selection import (
    create_detectors,
    left_out_of,
)
from oodbench.tasks import scorable
from oodbench.tasks.pictures import MOST_BYTES, MOST_PICTURES
from oodbench.training.train import check_classes, id_samples
from oodbench.tune import Validation
from oodbench.tune import tune as choose_options


@dataclass
class _OOD:
    name: str
    group: str
    samples: Samples
    is_shifted: bool


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
        pictures: folder for pictures of what was scored, a subfolder a detector; None for none.
        modality: of networks of several, the one whose predictions are scored; None (or
            ``"fused"``) for the joint ones.

    Attributes:
        forward_passes: samples that went through the network so far; cached outputs do not count.
        errors: what detectors raised that failed.
        keep: given a detector's rows as soon as it is done, whatever becomes of the others.

    Raises:
        MissingDataError: the ID set or all OOD sets are missing.
        DataError: the ID set has one class, or its splits have different classes.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        *,
        ood: str | Sequence[str] | None = None,
        hardware: Hardware | None = None,
        report: Report | None = None,
        command: str | None = None,
        pictures: str | Path | None = None,
        modality: str | None = None,
    ) -> None:
        self.benchmark = benchmark
        self.modality = None if modality == "fused" else modality
        shape = benchmark.preprocess
        known = shape.modalities if isinstance(shape, MultimodalPreprocess) else ()
        if self.modality is not None and self.modality not in known:
            there = f"has {', '.join((*known, 'fused'))}" if known else "has no modalities"
            raise OptionError(f"benchmark {benchmark.name} {there}, not {modality!r}.")
        self.pictures: Path | None = None
        if pictures is not None:
            self.pictures = files.writable_dir(
                files.user_path(pictures), "Choose a folder that you may write.", make=False
            )
            if benchmark.task == "classification":
                raise OptionError(
                    f"pictures show pixels and boxes that were scored; {benchmark.name} scores "
                    "whole samples, of which none are drawn. Leave pictures out."
                )
        self.hardware = hardware or Hardware()
        self.report = report or (lambda _: None)
        self.command = command
        self.forward_passes = 0
        self.errors: list[Exception] = []
        self.keep: Callable[[list[Row]], object] = lambda _: None
        self.missing: dict[str, str] = {}
        self._incomplete: set[str] = set()
        self.warnings: list[str] = []
        chosen = benchmark.choose(ood)
        if not chosen:
            raise OptionError(
                f'benchmark {benchmark.name} has no OOD sets of its own; name some: `ood="mnist"`.'
            )
        for choice in chosen:
            if choice.spec.name in benchmark.group_names:
                raise OptionError(
                    f"the OOD set {choice.spec.name!r} bears the name of a group's mean; rename it."
                )
        with noting(self._warn):
            self.test = id_samples(benchmark, "test")
        self.ood: list[_OOD] = []
        for choice in chosen:
            try:
                with noting(self._warn):
                    samples = choice.spec.load(choice.spec.splits[-1])
            except MissingDataError as error:
                self.missing[choice.spec.name] = str(error)
                self._incomplete.add(choice.group)
                self.report(f"missing: {error}")
                continue
            if choice.is_shifted:
                self._check_shifted(samples)
            self.ood.append(_OOD(choice.spec.name, choice.group, samples, choice.is_shifted))
        if not self.ood:
            raise MissingDataError(
                "none of the OOD sets is there. " + " ".join(self.missing.values())
            )
        self._compared: set[tuple[str, str]] = set()
        self._warn_of_overlap()
        if benchmark.caveats is not None:
            for text in benchmark.caveats(self.test):
                self._warn(text)

    def _check_shifted(self, samples: Samples) -> None:
        """Check that a shifted set is one.

        Raises:
            OptionError: the benchmark does not classify whole samples.
            DataError: its classes are not the ID set's.
        """
        if self.benchmark.task != "classification":
            raise OptionError(
                f"{samples.name} is given as a shifted set, which there is where whole samples are "
                f"classified; {self.benchmark.name} is of {self.benchmark.task}. Leave it out."
            )
        check_classes(samples, self.test)

    def warn_of_validation(self, validation: Validation) -> None:
        """Warn where hyper-parameters were chosen on images that are tested on."""
        tested = np.concatenate([self.test.digests, *(ood.samples.digests for ood in self.ood)])
        for samples in (validation.val, *validation.ood.values()):
            shared = int(np.isin(samples.digests, tested).sum())
            if shared:
                self._warn(
                    f"{shared} of the {len(samples)} images of {samples.name}, which "
                    "hyper-parameters were chosen on, are also tested on."
                )

    def _warn_of_overlap(self) -> None:
        for ood in self.ood:
            count = overlap.shared(ood.samples, self.test)
            if count:
                self._warn(
                    f"{count} of the {len(ood.samples)} images of {ood.samples.name} are also in "
                    f"the ID test set {self.test.name}; scores on {ood.name} mean little."
                )

    def warn_of_learned(self, contender: Contender, learned: Mapping[str, Samples]) -> None:
        """Warn where what a network or a detector learned from is also tested on.

        Args:
            contender: the network. Of one that was trained elsewhere nobody knows what it saw; the
                ID training set stands for that, where it is at hand.
            learned: what detectors learn from, by split.
        """
        found = {samples.name: (samples, "detectors learn from") for samples in learned.values()}
        trained = contender.trained_on
        if trained is not None:
            found[trained.name] = (trained, "the network was trained on")
        elif "train" not in learned and ("", "train") not in self._compared:
            self._compared.add(("", "train"))
            train = overlap.cheap_training_set(self.benchmark)
            if isinstance(train, str):
                self.report(
                    f"not checked: whether images that are tested on are also in the ID training "
                    f"set; {train}."
                )
            else:
                found[train.name] = (train, "a network for this ID set is trained on")
        ood = {one.name: one.samples for one in self.ood}
        for samples, who in found.values():
            if (samples.name, who) not in self._compared:
                self._compared.add((samples.name, who))
                for text in overlap.with_learned(self.test, ood, samples, who):
                    self._warn(text)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            self.report(f"warning: {text}")

    def check(self, detectors: Sequence[Detector]) -> None:
        """Check, before anything is trained, that the benchmark's task is one for the detectors.

        Raises:
            OptionError: names one that cannot score what there is to score.
        """
        scorable.check(detectors, self.benchmark)

    @undisturbed()
    def run(self, contender: Contender, detectors: Sequence[Detector]) -> Results:
        """Rows of each detector on each OOD set, and on the groups' means.

        A detector that fails is named in the result's ``failures``, with the reason, and what it
        raised is kept in ``errors``.

        Raises:
            BadScoresError: the network gives NaN or infinite outputs.
        """
        subject = self._subject(contender)
        train_samples = contender.trained_on
        fitting: dict[str, Seen] = {}
        for detector in detectors:
            split = getattr(detector, "fit_split", "train")
            if learns(detector) and split not in fitting:
                with noting(self._warn):
                    fitting[split] = subject.sees(id_samples(self.benchmark, split))
                check_classes(fitting[split].samples, self.test)
            if detector.needs_fit:
                with noting(self._warn):
                    _ = fitting[split].outputs  # now, so that no detector's time has it
        if "train" in fitting:
            train_samples = fitting["train"].samples
        self.warn_of_learned(contender, {split: seen.samples for split, seen in fitting.items()})
        tested = [subject.sees(samples) for samples in (self.test, *(o.samples for o in self.ood))]
        with noting(self._warn):
            for seen in tested:
                _ = seen.outputs
        doubts_of = partial(self._doubts, contender, tested[0])
        told = doubts_of(detectors)
        odd = self._odd(subject, tested[0], fitting.get("train"))
        shared = self._provenance(
            contender,
            subject,
            train_samples,
            subject.quality(tested[0]),
            subject.weights(tested[0]),
        )
        about_sets = self._about_sets(subject, tested)
        results = Results([], dict(self.missing), list(self.warnings))
        for text in (*subject.notes, *odd, *self._alone(tested)):
            self._note(results, text)
        common = list(results.warnings)
        for text in told:
            self._note(results, text)
        for detector in track(detectors, self.hardware.progress):
            split = getattr(detector, "fit_split", "train")
            began = time.perf_counter()
            own: list[str] = []
            try:
                with noting(own.append):
                    doubts.check_level(tested[0].outputs, detector)
                    if learns(detector):
                        subject.fit(detector, fitting[split])
                    scores = [subject.scores(detector, seen) for seen in tested]
                    detector.options()  # rows have them, and they may be a detector's own
            except BaseException as error:  # one detector's must not lose the others' results
                failure = own_failure(error)
                self.errors.append(failure)
                results.failures[detector.label] = reason_of(failure)
                continue
            shared["seconds"] = round(time.perf_counter() - began, 3)
            own = of_a_kind(own)
            for text in own:
                self._note(results, text)
            notes = dict.fromkeys((*common, *doubts_of([detector]), *own))
            shared["notes"] = list(notes) or None
            results.rows += self._rows(detector, scores[0], scores[1:], shared, about_sets)
            self._draw(results, subject, tested, detector, scores)
        return results

    def _doubts(self, contender: Contender, test: Seen, detectors: Sequence[Detector]) -> list[str]:
        """What is doubtful of these detectors' figures on a network.

        Raises:
            OptionError: its outputs cannot be logits of the ID classes.
        """
        told = list(contender.notes)
        who = type(contender.network).__name__ if contender.is_external else contender.backbone
        if contender.is_external:
            told += doubts.of_methods(detectors, contender.claimed)
        if contender.is_external and self.benchmark.task == "classification":
            n = len(self.test.classes)
            doubts.check_outputs(test.outputs, n, who)
            told += doubts.of_outputs(test.outputs, n, detectors, who)
        else:
            told += doubts.of_probabilities(test.outputs, detectors, who)
        return list(dict.fromkeys(told))

    def _odd(self, subject: Subject, test: Seen, train: Seen | None) -> list[str]:
        """What is odd about the ID accuracy; see ``oodbench.checks.sanity``."""
        outputs = test.outputs
        decisions = outputs.decisions
        if self.benchmark.task != "classification" or decisions is None:
            return []
        on_train = None
        if train is not None and "outputs" in vars(train):  # it was looked at already
            on_train = subject.quality(train)["id_accuracy"]
        seen = sanity.described(subject.preprocess)
        names = self.test.classes
        return list(sanity.of_outputs(decisions, outputs.labels, names, seen, on_train))

    def _alone(self, tested: Sequence[Seen]) -> Iterator[str]:
        """Sets of one sample, where a gap between groups is asked for."""
        names = ["the ID test set", *(ood.name for ood in self.ood)]
        alone = [name for name, seen in zip(names, tested, strict=True) if len(seen.samples) == 1]
        contrast = self.benchmark.protocol.contrast
        if alone and contrast and {*contrast} <= {ood.group for ood in self.ood}:
            nor = "".join(f", nor has it a {name}" for name in self.benchmark.measures)
            yield (
                f"the gap has no interval: of {', '.join(alone)} there is one image, which says "
                f"nothing of how scores vary{nor}. Give each set two or more."
            )

    def _about_sets(self, subject: Subject, tested: Sequence[Seen]) -> list[Row]:
        """What rows tell of each OOD set on a network, whatever the detector."""
        test, *outputs = [seen.outputs for seen in tested]
        figures = measures.of_sets(self.benchmark.measures, test, outputs)
        return [
            {
                **about,
                "shifted_accuracy": subject.quality(seen)["id_accuracy"]
                if ood.is_shifted
                else None,
            }
            for ood, seen, about in zip(self.ood, tested[1:], figures, strict=True)
        ]

    def _subject(self, contender: Contender) -> Subject:
        preprocess = self.benchmark.preprocess
        if self.benchmark.task == "detection":
            from oodbench.tasks.detection import (
                DetectionSubject,
            )

            confidence = self.benchmark.protocol.confidence
            subject: Subject = DetectionSubject(
                contender, preprocess, self.hardware, self.count, confidence, self.test.classes
            )
        else:
            classes, modality = len(self.test.classes), self.modality
            subject = Subject(contender, preprocess, self.hardware, self.count, modality, classes)
        name = contender.backbone or type(contender.network).__name__
        self.report(f"{name} sees {sanity.described(subject.preprocess, self.benchmark.task)}")
        return subject

    def _draw(
        self,
        results: Results,
        subject: Subject,
        tested: Sequence[Seen],
        detector: Detector,
        scores: Sequence[Any],
    ) -> None:
        for seen, found in zip(tested, scores, strict=True):
            if self.pictures is not None and is_first_process(self.hardware):
                with self._drawing(results):
                    subject.pictures(seen, found, self.pictures / detector.label)

    @contextlib.contextmanager
    def _drawing(self, results: Results) -> Iterator[None]:
        """What goes wrong with a picture is told, and loses no result."""
        try:
            yield
        except Exception as error:
            self._note(results, f"not all pictures could be made: {reason_of(error)}")

    def report_pictures(self, detectors: int) -> None:
        """Say how many pictures there will be, if any, and how large they are at most."""
        if self.pictures is None:
            return
        sets = len(self.ood) + (self.benchmark.task == "detection")
        most = MOST_PICTURES * sets * detectors
        self.report(
            f"pictures: at most {MOST_PICTURES} of each set for each detector, {most} in all, "
            f"of at most {MOST_BYTES // 1024} KiB ({most * MOST_BYTES / 2**20:.0f} MiB), "
            f"in {self.pictures}"
        )

    def count(self, n: int) -> None:
        """Note that so many samples went through a network."""
        self.forward_passes += n

    def _note(self, results: Results, text: str) -> None:
        if text not in results.warnings:
            results.warnings.append(text)
            self.report(f"warning: {text}")

    def _provenance(
        self,
        contender: Contender,
        subject: Subject,
        train_samples: Samples | None,
        quality: Mapping[str, float | None],
        weights: str,
    ) -> Row:
        return {
            "method": contender.method,
            "backbone": contender.backbone or type(contender.network).__name__,
            "id": self.benchmark.id.name,
            "benchmark": self.benchmark.name,
            "seed": contender.seed,
            **quality,
            "modality": self.modality,
            "recipe": contender.recipe,
            "recipe_options": contender.recipe_options,
            "preprocess": content_key(subject.preprocess),
            "precision": self.hardware.precision,
            "weights": weights,
            "id_train_fingerprint": train_samples.fingerprint if train_samples else None,
            "id_fingerprint": self.test.fingerprint,
            "selection": files.digest(
                sorted((ood.name, ood.group, ood.samples.fingerprint) for ood in self.ood)
            )[:16],
            "device": self.hardware.accelerator,
            "accelerator": accelerator_name(self.hardware.accelerator),
            "processor": processor_name(),
            "threads": torch.get_num_threads(),
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
        about_sets: Sequence[Row],
    ) -> list[Row]:
        measured = [
            {
                "n_id": len(id_scores),
                "n_ood": len(scores),
                **about,
                **metrics.all_metrics(id_scores, scores),
                **metrics.all_intervals(id_scores, scores),
            }
            for scores, about in zip(ood_scores, about_sets, strict=True)
        ]
        return self._rows_of(
            detector,
            measured,
            shared,
            lambda members: metrics.mean_intervals(id_scores, [ood_scores[i] for i in members]),
            lambda first, second: metrics.auroc_gap(
                id_scores, [ood_scores[i] for i in first], [ood_scores[i] for i in second]
            ),
        )

    def _rows_of(
        self,
        detector: Detector,
        measured: Sequence[Row],
        shared: Row,
        intervals: Intervals | None = None,
        difference: Difference | None = None,
    ) -> list[Row]:
        """Rows of what was measured on each OOD set, and of the groups' means; they are kept.

        Args:
            detector: what was measured.
            measured: figures and counts, an OOD set each.
            shared: what all rows have in common.
            intervals: of the means of some of the sets' figures; None if there are none.
            difference: of two groups' mean AUROCs, with its interval.
        """
        about = {
            "detector": detector.label,
            "detector_options": detector.options(),
            "tuned": detector.tuned,
            **shared,
        }
        rows = [
            {
                **about,
                "ood": ood.name,
                "group": ood.group,
                "is_mean": False,
                "ood_sets": [ood.name],
                "ood_fingerprint": ood.samples.fingerprint,
                **figures,
            }
            for ood, figures in zip(self.ood, measured, strict=True)
        ]
        incomplete = self._incomplete
        rows += rows_of_means(self.benchmark, about, rows, incomplete, intervals, difference)
        columns = (*COLUMNS, *self.benchmark.measures)
        whole_rows = [{name: row.get(name) for name in columns} for row in rows]
        for row in whole_rows:
            row["row_id"] = row_id(row)
        self.keep(whole_rows)
        return whole_rows


@undisturbed()
def evaluate(
    model: nn.Module | None = None,
    id: str | None = None,  # noqa: A002
    detectors: Sequence[str | Detector] | str | Detector = "msp",
    *,
    benchmark: str | Benchmark | None = None,
    ood: str | Sequence[str] | None = None,
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
    tune: bool = False,
    fixed: Mapping[str, Collection[str]] | None = None,
    hardware: Hardware | None = None,
    leaderboards: str | Path | None = None,
    report: Report | None = None,
    command: str | None = None,
    task: str | None = None,
    pictures: str | Path | None = None,
    modality: str | None = None,
    preset: str | None = None,
) -> Results:
    """Evaluate detectors on a benchmark: on your network, on a checkpoint, or on one trained now.

    Args:
        model: any PyTorch classifier (or a network of the benchmark's task); neither it nor this
            process's random numbers are moved or changed. None to load ``checkpoint``, or to train.
        id: the ID set (``"cifar100"``), whose default benchmark is used.
        detectors: names or :class:`Detector` objects; ``"all"`` for every registered detector that
            was designed for ``method`` (for cross-entropy, if that is None).
        benchmark: another protocol's name, or a :class:`Benchmark`; ``id`` and ``task`` must be
            its own then, where they are given.
        ood: OOD sets to use instead of the benchmark's.
        method: how to train; None for the method that each detector was designed for.
        recipe: the method's recipe; None for the published one where the paper has this ID set.
        recipe_options: fields of the recipe to change.
        backbone: network to train, or of the checkpoint (a name), or a name for ``model``.
        checkpoint: a trained classifier's weights, safetensors or ``.pt``.
        seed: one, or several for a mean with an interval over seeds and images on the page.
        retrain: train although a finished run is there.
        preprocess: the network's own preprocessing; None for the benchmark's (or what a
            checkpoint's metadata says of mean and std). Any callable: it sees every image in the
            mode of the benchmark's, RGB but for grey ID sets, whatever the file has.
        mean: channel means of the network's own normalisation, in [0, 1].
        std: channel deviations of it.
        layer: the name of the model's linear head, if it cannot be found.
        tune: whether to choose the values of each detector's ``grid`` first, on validation data
            alone (see ``oodbench.tune``). An option of a :class:`Detector` object that is not the
            default is kept.
        fixed: further options that ``tune`` keeps, by detector.
        hardware: accelerator, devices, precision, batch size, progress.
        leaderboards: folder whose store a detector's rows are appended to as soon as it is done;
            None to store nothing.
        report: told what happens, line by line.
        command: what repeats this evaluation; goes into the rows.
        task: ``"segmentation"`` or ``"detection"`` for the ID set's benchmark of that task.
        pictures: folder for pictures of scored pixels or boxes; None for none.
        modality: of networks of several modalities, the one whose predictions are scored; None or
            ``"fused"`` for the joint ones.
        preset: the benchmark's named settings (``Benchmark.presets``) for detectors that are given
            by name, such as ``"multiood"``; ``tune`` keeps them. None for their own.

    Returns:
        Rows; ``to_pandas()`` makes a table.
    """
    chosen = get_benchmark(id, benchmark, task)
    left = left_out_of(detectors, method, chosen)
    made = create_detectors(detectors, method, chosen, preset)
    kept = {
        name: {*given, *(fixed or {}).get(name, ())}
        for name, given in chosen.preset(preset).items()
    }
    scorable.check(made, chosen)
    networks = Networks(
        model,
        method=method,
        recipe=recipe,
        recipe_options=recipe_options,
        backbone=backbone,
        checkpoint=checkpoint,
        seeds=(seed,) if isinstance(seed, int) else tuple(seed),
        retrain=retrain,
        preprocess=preprocess,
        mean=mean,
        std=std,
        layer=layer,
    )
    kind = Evaluator
    if chosen.task == "segmentation":
        from oodbench.tasks.segmentation import (
            SegmentationEvaluator,
        )

        kind = SegmentationEvaluator
    evaluator = kind(
        chosen,
        ood=ood,
        hardware=hardware,
        report=report,
        command=command,
        pictures=pictures,
        modality=modality,
    )
    if left is not None:
        evaluator._warn(left)
    evaluator.report_pictures(len(made))
    if leaderboards is not None:
        ResultStore(leaderboards).check(chosen.name)
        if is_first_process(evaluator.hardware):
            evaluator.keep = ResultStore(leaderboards).append
    failures: dict[str, str] = {}
    if tune:
        tuning = choose_options(
            chosen,
            made,
            networks,
            fixed={**(fixed or {}), **kept},
            hardware=evaluator.hardware,
            report=evaluator.report,
        )
        if tuning.validation is not None:
            evaluator.warn_of_validation(tuning.validation)
        made, failures = tuning.apply(made), tuning.failures
    results = Results([], dict(evaluator.missing), list(evaluator.warnings), dict(failures))
    of_all = len(evaluator.warnings)
    for contender, mine in networks.contenders(
        chosen,
        made,
        evaluator.test,
        evaluator.hardware,
        evaluator.report,
        evaluator.count,
        evaluator._warn,
    ):
        results += evaluator.run(contender, mine)
        del evaluator.warnings[of_all:]  # what is said of one network is not said of the next
    if evaluator.errors and not results.rows:
        raise evaluator.errors[0]
    return results
