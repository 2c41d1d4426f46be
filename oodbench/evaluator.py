"""Evaluator: benchmark x network x detectors -> result rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from oodbench import measures
from oodbench.benchmark import Benchmark
from oodbench.caching.written import written_digest
from oodbench.checks.classes import check_classes, id_samples
from oodbench.data.balanced import balanced
from oodbench.data.samples import Samples
from oodbench.detector import Detector
from oodbench.hardware import Hardware, is_first_process
from oodbench.preprocessing import BENCHMARK
from oodbench.reporting import Report, reason_of, track, warnings_to
from oodbench.results import scores
from oodbench.results.means import rows_of_means
from oodbench.results.outcome import Results
from oodbench.results.provenance import provenance
from oodbench.results.rows import COLUMNS, Row, cell, row_id, with_columns
from oodbench.results.samples import SampleScores, sample_set
from oodbench.results.scores import Scores
from oodbench.runtime.process import undisturbed
from oodbench.tasks import spectrum
from oodbench.tasks.contender import Contender
from oodbench.tasks.pictures import Drawing
from oodbench.tasks.runner import NetworkRunner, SampleOutputs, Scored, fit_split, learns
from oodbench.tasks.task import task_of
from oodbench.tested import Tested, TestedSet

Keep = Callable[[list[Row], Scores | None], object]
"""What takes a detector's rows, and the scores behind them."""


class Evaluator:
    """Scores detectors on one benchmark; the network sees each image once, however many they are.

    What is scored (whole samples, pixels, boxes …) is the benchmark's task; see
    :class:`oodbench.tasks.task.Task`.

    Args:
        benchmark: what is compared with what.
        ood: names of the OOD sets to use, None for all of the benchmark's; see
            :meth:`Benchmark.choose`. Sets that are not on this machine are left out, and named in
            ``missing``.
        hardware: where and how the network runs.
        report: told what happens, line by line.
        command: what repeats this evaluation; goes into the rows.
        pictures: folder for pictures of what was scored, one subfolder per detector; None for none.
        modality: short for ``task_options={"modality": ...}``.
        task_options: options of the benchmark's task, over those of the benchmark.
        fit_on: how many ID training images detectors are fitted on, or the share of them.
        keep: given a detector's rows, and the scores behind them where there are, as soon as it is
            done, whatever becomes of the others.

    Attributes:
        test: the ID test set.
        forward_passes: samples that went through the network so far; cached outputs do not count.
        errors: what detectors raised that failed.

    Raises:
        MissingDataError: the ID set or all OOD sets are missing.
        DataError: the ID set has one class, or its splits have different classes.
        OptionError: an option that the task or the benchmark cannot have.
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
        task_options: Mapping[str, Any] | None = None,
        fit_on: str | float | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.benchmark = benchmark
        self.task = task_of(benchmark, {"modality": modality, **(task_options or {})})
        self.task.check(benchmark)
        self.pictures = None if pictures is None else self.task.pictures_in(pictures, benchmark)
        self.hardware = hardware or Hardware()
        self.report = report or (lambda _: None)
        self.command = command
        self.fit_on = fit_on
        self.arguments = _told(ood=ood, task_options=task_options, fit_on=fit_on)
        self.forward_passes = 0
        self.errors: list[Exception] = []
        self.keep = keep or (lambda _rows, _scores: None)
        self.warnings: list[str] = []
        self.tested = Tested(benchmark, self.task, ood, self.report, self.warn)
        self.test = self.tested.test
        if benchmark.superseded_by:
            self.report(f"{benchmark.name} is superseded by {benchmark.superseded_by}")

    @property
    def missing(self) -> dict[str, str]:
        """OOD sets that are not on this machine, with what was looked for, by name."""
        return self.tested.missing

    @property
    def ood(self) -> list[TestedSet]:
        """The OOD sets that are on this machine."""
        return self.tested.ood

    def warn(self, text: str) -> None:
        """Report a warning once; it is in the rows from then on."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.report(f"warning: {text}")

    def check(self, detectors: Sequence[Detector]) -> None:
        """Check, before anything is trained, that the benchmark's task is one for the detectors.

        Raises:
            OptionError: names one that cannot score what there is to score.
        """
        self.task.check(self.benchmark, detectors)

    @undisturbed()
    def run(self, contender: Contender, detectors: Sequence[Detector]) -> Results:
        """Rows of each detector on each OOD set, and on the groups' means.

        A detector that fails is named in the result's ``failures``, with the reason, and what it
        raised is kept in ``errors``.

        Raises:
            OptionError: a detector cannot score here, or the network's outputs cannot be scored.
            BadScoresError: the network gives NaN or infinite outputs.
        """
        self.check(detectors)
        runner = self.task.start(
            contender, self.benchmark, self.hardware, self.count, self.test.classes
        )
        name = contender.backbone or contender.name
        said = "" if runner.preprocess_source == BENCHMARK else f" ({runner.preprocess_source})"
        self.report(f"{name} sees {self.task.input_description(runner.preprocess)}{said}")
        train = self._train(runner, detectors)
        learned_from = {split: outputs.samples for split, outputs in train.items()}
        self.tested.warn_of_learned(contender, learned_from)
        tested = self._tested_outputs(runner)
        doubts_of = partial(runner.doubts, tested[0])
        doubts = doubts_of(detectors)
        examined = runner.examine(tested[0], train.get("train"), detectors)
        shared: Row = {
            **provenance(self.benchmark, runner, self.command, self.arguments),
            **examined.quality,
            "spectrum_accuracy": spectrum.accuracy_over_id(runner, tested),
            **self.task.row(),
            "weights": examined.weights,
            **self.tested.provenance(learned_from.get("train", contender.trained_on)),
        }
        of_sets = self._of_sets(runner, tested)
        correct = self._correct(runner, tested)
        results = Results([], dict(self.missing), list(self.warnings))
        note = partial(self._note, results)
        for text in (*examined.notes, *self._alone(tested)):
            note(text)
        common = list(results.warnings)
        for text in doubts:
            note(text)
        draw = None
        draws = runner.shares_samples or is_first_process(self.hardware)
        if self.pictures is not None and draws:
            draw = Drawing(self.pictures, note)
        turns = track(detectors, self.hardware.progress)
        for scored in runner.score(turns, train, tested, draw):
            if scored.failure is not None:
                self.errors.append(scored.failure)
                results.failures[scored.detector.label] = reason_of(scored.failure)
                continue
            for text in scored.notes:
                note(text)
            notes = dict.fromkeys((*common, *doubts_of([scored.detector]), *scored.notes))
            about: Row = {
                **shared,
                "seconds": round(scored.seconds, 3),
                "scored_on": scored.device,
                "notes": list(notes) or None,
                "fit_on": self._fitted_on(scored.detector, learned_from),
            }
            rows = self._rows(scored, about, of_sets, tested)
            results.rows += rows
            if (of_samples := self._of_samples(rows[0], scored)) is not None:
                results.scores.append(of_samples)
            self.keep(rows, self._scores(scored, correct))
        return results

    def _tested_outputs(self, runner: NetworkRunner) -> list[SampleOutputs]:
        """What the network gives for the ID test set and each OOD set, in that order.

        Outputs that are kept are made here, so that no detector's time has the network's in it.
        """
        tested = [runner.outputs_of(samples) for samples in self.tested.samples]
        for ood, outputs in zip(self.tested.ood, tested[1:], strict=True):
            outputs.counts_as_id = ood.counts_as_id
        if runner.keeps_outputs:
            with warnings_to(self.warn):
                for samples in tested:
                    _ = samples.outputs
        return tested

    def _fitted_on(self, detector: Detector, learned: Mapping[str, Samples]) -> str | None:
        """What a row says of the part of the training set that a detector was fitted on."""
        if self.fit_on is None or not learns(detector) or fit_split(detector) != "train":
            return None
        return learned["train"].name

    def _train(
        self, runner: NetworkRunner, detectors: Sequence[Detector]
    ) -> dict[str, SampleOutputs]:
        """What detectors learn from, by ID split."""
        train: dict[str, SampleOutputs] = {}
        for detector in detectors:
            split = fit_split(detector)
            if learns(detector) and split not in train:
                with warnings_to(self.warn):
                    samples = id_samples(self.benchmark, split)
                    if split == "train":
                        samples = balanced(samples, self.fit_on)
                    train[split] = runner.outputs_of(samples)
                check_classes(samples, self.test)
            if detector.needs_fit:
                with warnings_to(self.warn):
                    _ = train[split].outputs  # now, so that no detector's time has it
        return train

    def _alone(self, tested: Sequence[SampleOutputs]) -> Iterator[str]:
        """Sets of one sample, where a gap between groups is asked for."""
        names = ["the ID test set", *(ood.name for ood in self.tested.ood)]
        alone = [name for name, one in zip(names, tested, strict=True) if len(one.samples) == 1]
        contrast = self.benchmark.protocol.contrast
        if alone and contrast and {*contrast} <= {ood.group for ood in self.tested.ood}:
            nor = "".join(f", nor has it a {name}" for name in self.benchmark.measures)
            yield (
                f"the gap has no interval: of {', '.join(alone)} there is one image, which says "
                f"nothing of how scores vary{nor}. Give each set two or more."
            )

    def _of_sets(self, runner: NetworkRunner, tested: Sequence[SampleOutputs]) -> list[Row]:
        """What rows tell of each OOD set on a network, whatever the detector."""
        if not runner.keeps_outputs:
            return [{} for _ in tested[1:]]
        test, *outputs = [scored.outputs for scored in tested]
        figures = measures.of_sets(self.benchmark.measures, test, outputs)
        rows: list[Row] = []
        for ood, scored, about in zip(self.tested.ood, tested[1:], figures, strict=True):
            accuracy = runner.quality(scored)["id_accuracy"] if ood.is_shifted else None
            rows.append(with_columns({"shifted_accuracy": accuracy}, about))
        return rows

    def _correct(self, runner: NetworkRunner, tested: Sequence[SampleOutputs]) -> Scores:
        """Where the network's decision is the label, by set: what accuracies are made of."""
        if not runner.keeps_outputs or not self.task.is_classified:
            return {}
        keys = [scores.ID, *(scores.of_ood(ood.name) for ood in self.tested.ood)]
        labelled = [True, *(ood.is_shifted for ood in self.tested.ood)]
        of_sets = {
            scores.correct(key): runner.correct(outputs)
            for key, outputs, has_labels in zip(keys, tested, labelled, strict=True)
            if has_labels
        }
        return {key: values for key, values in of_sets.items() if values is not None}

    def _scores(self, scored: Scored, correct: Scores) -> Scores | None:
        """What a detector's figures are made of; None where scores were counted as they came."""
        if scored.scores is None:
            return None
        keys = [scores.ID, *(scores.of_ood(ood.name) for ood in self.tested.ood)]
        return {**dict(zip(keys, scored.scores, strict=True)), **correct}

    def _of_samples(self, row: Row, scored: Scored) -> SampleScores | None:
        """The same for people; None where scores were counted as they came."""
        if scored.scores is None:
            return None
        names = [(scores.ID, scores.ID), *((ood.name, ood.group) for ood in self.tested.ood)]
        sets = zip(names, scored.scores, self.tested.samples, strict=True)
        return SampleScores.of_row(
            row,
            [sample_set(*name, values, samples) for name, values, samples in sets],
            [ood.name for ood in self.tested.ood if ood.counts_as_id],
        )

    def report_pictures(self, detectors: int) -> None:
        """Say how many pictures there will be, if any, and how large they are at most."""
        if self.pictures is not None:
            sets = len(self.tested.ood) + self.task.draws_id
            self.report(Drawing.announcement(self.pictures, sets, detectors))

    def count(self, n: int) -> None:
        """Note that so many samples went through a network."""
        self.forward_passes += n

    def _note(self, results: Results, text: str) -> None:
        if text not in results.warnings:
            results.warnings.append(text)
            self.report(f"warning: {text}")

    def _rows(
        self,
        scored: Scored,
        shared: Row,
        of_sets: Sequence[Row],
        tested: Sequence[SampleOutputs],
    ) -> list[Row]:
        """Rows of what was measured on each OOD set, and of the groups' means.

        Args:
            scored: the detector and its figures.
            shared: what all rows have in common.
            of_sets: what rows tell of each set on the network, whatever the detector.
            tested: the ID test set, then the OOD sets.
        """
        detector = scored.detector
        about: Row = {
            "detector": detector.label,
            "detector_options": detector.options(),
            "tuned": detector.tuned,
            "detector_code": written_digest(type(detector)),
            **shared,
        }
        rows: list[Row] = [
            {
                **about,
                "ood": ood.name,
                "group": ood.group,
                "is_mean": False,
                "ood_sets": [ood.name],
                "ood_fingerprint": ood.samples.fingerprint,
                **of_set,
                **figures,
            }
            for ood, of_set, figures in zip(self.tested.ood, of_sets, scored.figures, strict=True)
        ]
        rows += rows_of_means(
            self.benchmark,
            about,
            rows,
            self.tested.incomplete,
            None if scored.scores is None else partial(spectrum.mean_intervals, scored, tested),
            None if scored.scores is None else partial(spectrum.difference, scored, tested),
        )
        of_task = [name for name in self.task.columns if name not in COLUMNS]
        columns = (*COLUMNS, *self.benchmark.measures, *of_task)
        whole_rows = [with_columns({}, {n: cell(row, n) for n in columns}) for row in rows]
        for row in whole_rows:
            row["row_id"] = row_id(row)
        return whole_rows


def _told(**arguments: Any) -> dict[str, Any]:
    """Arguments that are not the default, as JSON has them."""
    asked = {
        name: {k: v for k, v in value.items() if v is not None}
        if isinstance(value, Mapping)
        else value
        for name, value in arguments.items()
    }
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in asked.items()}
    return {name: value for name, value in lists.items() if value is not None and value != {}}
