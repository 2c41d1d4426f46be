"""Evaluator: benchmark x network x detectors -> result rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from oodbench import measures
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.caching.fingerprint import code_digest
from oodbench.checks.classes import check_classes, id_samples
from oodbench.contenders import Networks
from oodbench.data.transforms import Transform
from oodbench.detector import Detector
from oodbench.hardware import Hardware, is_first_process
from oodbench.needed import download as get
from oodbench.needed import needed, obtainable
from oodbench.preprocessing import BENCHMARK
from oodbench.registry import STANDARD_DETECTOR
from oodbench.reporting import Report, reason_of, track, warnings_to
from oodbench.results import scores
from oodbench.results.means import rows_of_means
from oodbench.results.provenance import provenance
from oodbench.results.rows import COLUMNS, Results, Row, cell, row_id, with_columns
from oodbench.results.scores import Scores
from oodbench.results.store import ResultStore
from oodbench.runtime.process import undisturbed
from oodbench.selection import create_detectors, left_out_of
from oodbench.tasks import spectrum
from oodbench.tasks.contender import Contender
from oodbench.tasks.pictures import Drawing
from oodbench.tasks.runner import NetworkRunner, SampleOutputs, Scored, fit_split, learns
from oodbench.tasks.task import task_of
from oodbench.tested import Tested, TestedSet
from oodbench.tune import tune as choose_options


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

    Attributes:
        test: the ID test set.
        forward_passes: samples that went through the network so far; cached outputs do not count.
        errors: what detectors raised that failed.
        keep: given a detector's rows, and the scores behind them where there are, as soon as it is
            done, whatever becomes of the others.

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
    ) -> None:
        self.benchmark = benchmark
        self.task = task_of(benchmark, {"modality": modality, **(task_options or {})})
        self.task.check(benchmark)
        self.pictures = None if pictures is None else self.task.pictures_in(pictures, benchmark)
        self.hardware = hardware or Hardware()
        self.report = report or (lambda _: None)
        self.command = command
        self.forward_passes = 0
        self.errors: list[Exception] = []
        self.keep: Callable[[list[Row], Scores | None], object] = lambda _rows, _scores: None
        self.warnings: list[str] = []
        self.tested = Tested(benchmark, self.task, ood, self.report, self.warn)
        self.test = self.tested.test
        if benchmark.superseded_by:
            self.report(f"{benchmark.name} is superseded by {benchmark.superseded_by}")
        if self.task.on_one_device and self.hardware.asks_for_several:
            self.report(f"{self.task.scored} on one device; training takes all that were asked for")

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
        tested = [runner.outputs_of(samples) for samples in self.tested.samples]
        for ood, outputs in zip(self.tested.ood, tested[1:], strict=True):
            outputs.counts_as_id = ood.counts_as_id
        if runner.keeps_outputs:
            with warnings_to(self.warn):
                for samples in tested:
                    _ = samples.outputs
        doubts_of = partial(runner.doubts, tested[0])
        doubts = doubts_of(detectors)
        examined = runner.examine(tested[0], train.get("train"), detectors)
        shared: Row = {
            **provenance(self.benchmark, runner, self.command),
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
        if self.pictures is not None and is_first_process(self.hardware):
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
                "notes": list(notes) or None,
            }
            rows = self._rows(scored, about, of_sets, tested)
            results.rows += rows
            self.keep(rows, self._scores(scored, correct))
        return results

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
            "detector_code": code_digest(type(detector)),
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


@undisturbed()
def evaluate(
    model: nn.Module | None = None,
    id: str | None = None,  # noqa: A002
    detectors: Sequence[str | Detector] | str | Detector = STANDARD_DETECTOR,
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
    preprocess: Transform | str | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop: str | float | None = None,
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
    task_options: Mapping[str, Any] | None = None,
    download: bool | None = None,
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
        preprocess: how images are made for a network that is given: a :class:`Preprocess`, or any
            callable, which sees every image in the mode of the benchmark's, RGB but for grey ID
            sets, whatever the file has; or a name: ``"timm"``,
            ``"torchvision:ResNet50_Weights.IMAGENET1K_V1"``, ``"benchmark"`` for the benchmark's,
            or a dataset's such as ``"cifar10"``. None for what the network or its checkpoint says;
            where nobody says anything it is an error. See :mod:`oodbench.preprocessing`.
        input_size: side of the square that the network sees, in pixels; this and the four below go
            over ``preprocess``, or over what the network says.
        mean: channel means of the network's own normalisation, in [0, 1].
        std: channel deviations of it.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        crop: the share of the short side that is kept (0.875), the pixels that it is resized to
            first (256), ``"stretch"`` or ``"centre"``.
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
        task: what is scored (``"segmentation"`` …), for the ID set's benchmark of that task.
        pictures: folder for pictures of scored pixels or boxes; None for none.
        modality: short for ``task_options={"modality": ...}``: of networks of several modalities,
            the one whose predictions are scored; None or ``"fused"`` for the joint ones.
        preset: the benchmark's named settings (``Benchmark.presets``) for detectors that are given
            by name; ``tune`` keeps them. None for their own.
        task_options: options of the benchmark's task, over those that the benchmark sets.
        download: whether data that is not here is fetched first (see :func:`oodbench.prepare`);
            without, OOD sets that are not here are left out and named in ``missing``.

    Returns:
        Rows; ``to_pandas()`` makes a table.
    """
    chosen = get_benchmark(id, benchmark, task)
    left = left_out_of(detectors, method, chosen)
    chosen_detectors = create_detectors(detectors, method, chosen, preset)
    kept = {
        name: {*given, *(fixed or {}).get(name, ())}
        for name, given in chosen.preset(preset).items()
    }
    options = {"modality": modality, **(task_options or {})}
    task_of(chosen, options).check(chosen, chosen_detectors)
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
        input_size=input_size,
        mean=mean,
        std=std,
        interpolation=interpolation,
        crop=crop,
        layer=layer,
    )
    networks.check(chosen, chosen_detectors)
    if download:
        get(obtainable(needed(chosen, chosen_detectors, networks, ood=ood, tune=tune)), report)
    evaluator = Evaluator(
        chosen,
        ood=ood,
        hardware=hardware,
        report=report,
        command=command,
        pictures=pictures,
        task_options=options,
    )
    if left is not None:
        evaluator.warn(left)
    evaluator.report_pictures(len(chosen_detectors))
    if leaderboards is not None:
        ResultStore(leaderboards).check(chosen.name)
        if is_first_process(evaluator.hardware):
            evaluator.keep = ResultStore(leaderboards).append
    failures: dict[str, str] = {}
    if tune:
        tuning = choose_options(
            chosen,
            chosen_detectors,
            networks,
            fixed={**(fixed or {}), **kept},
            hardware=evaluator.hardware,
            report=evaluator.report,
            task_options=options,
        )
        if tuning.validation is not None:
            data = tuning.validation
            evaluator.tested.warn_of_validation((data.val, *data.ood.values()))
        chosen_detectors, failures = tuning.apply(chosen_detectors), tuning.failures
    results = Results([], dict(evaluator.missing), list(evaluator.warnings), dict(failures))
    of_all = len(evaluator.warnings)
    for contender, its_detectors in networks.contenders(
        chosen,
        chosen_detectors,
        evaluator.test,
        evaluator.hardware,
        evaluator.report,
        evaluator.count,
        evaluator.warn,
    ):
        results += evaluator.run(contender, its_detectors)
        del evaluator.warnings[of_all:]  # what is said of one network is not said of the next
    if evaluator.errors and not results.rows:
        raise evaluator.errors[0]
    return results
