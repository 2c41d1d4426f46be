"""A network at work: its outputs for samples, and detectors that are fitted and scored on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from oodbench import files, metrics
from oodbench.benchmark import Benchmark
from oodbench.caching import probe
from oodbench.caching.fingerprint import unknown, unknown_weights, weights_digest
from oodbench.checks import doubts, sanity
from oodbench.data.samples import Samples
from oodbench.data.transforms import Preprocess, Transform, as_shown, of_prepared
from oodbench.detector import Detector
from oodbench.errors import BadScoresError, OODBenchError
from oodbench.extract import extract, extracted
from oodbench.hardware import Hardware
from oodbench.looking import fit_with_network, score_with_network
from oodbench.networks.classifier import Classifier
from oodbench.networks.models import copied, trunk_of
from oodbench.networks.normalisation import Normalisation, fed, own_normalisation
from oodbench.outputs import Outputs, to_numpy
from oodbench.preprocessing import as_asked, choose
from oodbench.reporting import of_a_kind, own_failure, warnings_to
from oodbench.results.rows import Row
from oodbench.runtime import isolation
from oodbench.runtime.process import undisturbed
from oodbench.streaming import at_device
from oodbench.tasks.contender import Contender
from oodbench.tasks.pictures import Drawing

if TYPE_CHECKING:
    from oodbench.tasks.task import Task


@dataclass
class SampleOutputs:
    """Samples, and what a network outputs for them.

    Args:
        samples: the samples.
        load: gives the outputs; called once, when they are asked for.
        counts_as_id: whether OOD sets are compared with these samples too, beside the ID test set.
    """

    samples: Samples
    load: Callable[[], Outputs]
    counts_as_id: bool = False

    @cached_property
    def outputs(self) -> Outputs:
        """The network's outputs, row by row; large arrays are in files, as they are lent."""
        outputs = self.load()
        outputs.spill(files.cache_dir())
        return outputs

    @property
    def is_loaded(self) -> bool:
        """Whether the outputs have been asked for already."""
        return "outputs" in vars(self)


@dataclass
class Examined:
    """What an evaluation knows of a network before any detector is scored.

    Args:
        quality: columns that say how well the network does what it was trained for.
        weights: what tells the network in rows.
        notes: what a reader of all rows of this network has to know.
    """

    quality: Row
    weights: str
    notes: list[str]


@dataclass
class Scored:
    """The outcome of scoring with one detector.

    Args:
        detector: the detector.
        seconds: that it took to fit and score.
        device: at which outputs were scored, where that was not the CPU.
        notes: what it said meanwhile, for the reader of its rows.
        failure: what it raised; the rest means nothing then.
        scores: OOD scores ``[N]`` of each set that was scored, the ID test set first; None of
            scores that were counted as they came.
        id_scores: those of all that counts as ID: of the ID test set, and of sets that do as well.
        figures: columns of each OOD set's row: metrics and counts.
    """

    detector: Detector
    seconds: float = 0.0
    device: str | None = None
    notes: list[str] = field(default_factory=list)
    failure: Exception | None = None
    scores: list[np.ndarray] | None = None
    id_scores: np.ndarray | None = None
    figures: list[Row] = field(default_factory=list)


class NetworkRunner:
    """A network at work on a task whose rows fit on disk: whole samples, or predicted boxes.

    Args:
        task: what is scored.
        contender: the network.
        benchmark: whose preprocessing a network sees that has none of its own.
        hardware: where and how it runs.
        on_forward: called with the number of samples that went through the network.
        classes: names of the ID classes, where they are known.

    Attributes:
        preprocess: from a raw image to the network's input.
        preprocess_source: who says so; see :mod:`oodbench.preprocessing`.
        notes: what a reader of the rows has to know of this network.

    Raises:
        OptionError: nobody says how images are made for a network that was given.
    """

    keeps_outputs: ClassVar[bool] = True
    """Whether there are outputs to come back to, once the network has seen samples."""
    shares_samples: ClassVar[bool] = False
    """Whether each of several processes scores a share of the samples, and draws it."""

    def __init__(
        self,
        task: Task,
        contender: Contender,
        benchmark: Benchmark,
        hardware: Hardware,
        on_forward: Callable[[int], None] | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.task = task
        self.contender = contender
        self.network = task.adapt(contender.network, contender.layer, len(classes) or None)
        if contender.digest is not None:
            if self.network is contender.network:  # the owner's own is not to be changed
                self.network = copied(self.network)
            self.network.digest = contender.digest  # type: ignore[assignment]
        self.classes = tuple(classes)
        self.benchmark = benchmark
        self.hardware = hardware
        self.on_forward = on_forward
        self._most = 0  # numbers in the largest outputs that a detector was fitted on
        shown = benchmark.preprocess
        chosen = choose(
            as_asked(contender.preprocess),
            self.network,
            shown,
            said=contender.said,
            is_given=contender.is_external,
            keeps_size=task.keeps_size,
            normalises=lambda: self._normalisation(shown) is not None,
            classes=self._width(),
        )
        self.notes: list[str] = list(chosen.notes)
        self.preprocess: Transform = as_shown(chosen.preprocess, shown)
        self.preprocess_source = chosen.source
        if contender.is_external and isinstance(self.preprocess, Preprocess):
            applied = self._normalisation(self.preprocess)
            self.preprocess, note = fed(applied, self.preprocess, chosen.is_normalised)
            self.notes += [] if note is None else [note]

    def _width(self) -> int | None:
        """How many classes the network has by its head; None where that cannot be told yet."""
        layers = [m for m in self.network.modules() if isinstance(m, nn.Linear)]
        return layers[-1].out_features if layers else None

    def _normalisation(self, preprocess: Transform) -> Normalisation | None:
        """What the network does to pixels itself; see ``normalisation.own_normalisation``.

        A copy is looked at: what a network notes of the images that it sees has none of these.
        """
        if not isinstance(preprocess, Preprocess):
            return None
        try:
            network: Any = copied(self.network).eval()
        except OODBenchError:  # it will be told where that matters
            return None
        see = network.model if isinstance(network, Classifier) else self.task.call(network)
        with undisturbed(), torch.inference_mode():
            return own_normalisation(
                lambda images: see(_like_weights(images, network)),
                preprocess.channels,
                preprocess.size,
            )

    # --- outputs ------------------------------------------------------------------------------

    @cached_property
    def reader(self) -> nn.Module:
        """What is run on samples and whose outputs are kept: the network itself."""
        return self.network

    @property
    def transform(self) -> Transform:
        """What makes of a sample what the reader is given: the preprocessing."""
        return self.preprocess

    def outputs_of(self, samples: Samples) -> SampleOutputs:
        """What the network outputs for samples; from the cache if it saw them before."""
        scored = self.task.samples(samples)
        return SampleOutputs(scored, lambda: self._outputs(scored))

    @property
    def rows_are_samples(self) -> bool:
        """Whether a row of outputs is one of the benchmark's samples."""
        return self.task.rows_are_samples

    def _outputs(self, samples: Samples) -> Outputs:
        outputs = extract(
            self.reader,
            samples,
            self.transform_of(samples),
            hardware=self.hardware,
            on_forward=self.on_forward,
        )
        return self.task.view(outputs, self.network)

    def is_cached(self, samples: Samples) -> bool:
        """Whether the cache has what the network outputs for these samples."""
        scored = self.task.samples(samples)
        shown = self.transform_of(scored)
        outputs = extracted(self.reader, scored, shown, hardware=self.hardware)
        return outputs is not None

    def transform_of(self, samples: Samples) -> Transform:
        """What makes of these samples what the reader is given; less of those that are prepared."""
        return of_prepared(self.transform, samples.is_prepared)

    # --- the network itself -------------------------------------------------------------------

    def quality(self, test: SampleOutputs) -> Row:
        """How well the network does on ID samples what it was trained for: columns of a row."""
        accuracy = low = high = None
        correct = self.correct(test)
        if correct is not None:
            accuracy = float(np.mean(correct))
            low, high = metrics.proportion_ci(int(correct.sum()), len(correct))
        return {"id_accuracy": accuracy, "id_accuracy_low": low, "id_accuracy_high": high}

    def correct(self, scored: SampleOutputs) -> np.ndarray | None:
        """Where the decision is the label, ``[N]``; None where there is no such thing."""
        outputs = scored.outputs
        decisions, labels = outputs.decisions, outputs.labels
        fits = not self.classes or doubts.fits_classes(outputs, len(self.classes))
        if decisions is None or labels is None or not fits:
            return None
        return metrics.correct(decisions, labels)

    def weights(self, test: SampleOutputs) -> str:
        """What tells the network in rows: a digest of its weights, or that these are unknown."""
        if self.has_known_weights():
            return weights_digest(self.network)
        return unknown_weights(test.outputs.digest())

    def has_known_weights(self) -> bool:
        """Whether the network's weights can be read, and tell what it outputs."""
        trunk = trunk_of(self.network)
        parts = [self.network, self.reader] + ([] if trunk is None else [trunk])
        return not any(map(probe.varies, parts)) and unknown(self.network) is None

    def examine(
        self,
        test: SampleOutputs,
        train: SampleOutputs | None,
        detectors: Sequence[Detector],
    ) -> Examined:
        """Look at the network before detectors are scored on it.

        Args:
            test: the ID test set.
            train: the ID training set, where detectors learn from it.
            detectors: all that will be scored.

        Raises:
            OptionError: the network's outputs cannot be what the task scores.
        """
        self.doubts(test, detectors)  # what cannot be logits is refused before it is measured
        notes = [*self.notes, *self._oddities(test, train)]
        return Examined(self.quality(test), self.weights(test), notes)

    def doubts(self, test: SampleOutputs, detectors: Sequence[Detector]) -> list[str]:
        """What is doubtful of these detectors' figures on the network.

        Raises:
            OptionError: its outputs cannot be what the task scores.
        """
        contender = self.contender
        texts = list(contender.notes)
        if contender.is_external:
            texts += doubts.of_methods(detectors, contender.claimed_method)
        texts += self.task.doubts(test.outputs, self.classes, detectors, contender)
        return list(dict.fromkeys(texts))

    def _oddities(self, test: SampleOutputs, train: SampleOutputs | None) -> list[str]:
        """What is odd about the ID accuracy; see ``oodbench.checks.sanity``."""
        decisions = test.outputs.decisions
        if not self.task.is_classified or decisions is None:
            return []
        on_train = None
        if train is not None and train.is_loaded:
            on_train = self.quality(train)["id_accuracy"]
        input_text = self.task.input_description(self.preprocess)
        return list(
            sanity.of_outputs(decisions, test.outputs.labels, self.classes, input_text, on_train)
        )

    # --- detectors ----------------------------------------------------------------------------

    def fit(self, detector: Detector, train: SampleOutputs) -> None:
        """Fit a detector on ID samples or on their outputs, whichever it learns from, if at all."""
        self.task.check_detector(detector)
        if detector.needs_fit:
            outputs = train.outputs  # not in the block: to run the network is none of its doing
            self._most = max(self._most, _values(outputs))
            with isolation.kept(), isolation.lent(outputs, detector.label) as copy:
                at_device(self.scoring_device(copy), detector, copy, detector.fit)
        if detector.needs_fit_batches:
            with isolation.kept(self.network):
                fit_with_network(
                    detector, self.network, train.samples, self.preprocess, hardware=self.hardware
                )

    def scores(self, detector: Detector, scored: SampleOutputs) -> np.ndarray:
        """OOD scores ``[N]``, from the network itself if the detector needs it.

        Raises:
            BadScoresError: scores that cannot be ranked; names the samples.
            OptionError: a detector that the task cannot score.
        """
        self.task.check_detector(detector)
        try:
            if "model" in detector.needs:
                with isolation.kept(self.network):
                    scores = score_with_network(
                        detector,
                        self.network,
                        scored.samples,
                        of_prepared(self.preprocess, scored.samples.is_prepared),
                        hardware=self.hardware,
                    )
            else:
                outputs = scored.outputs
                with isolation.kept(), isolation.lent(outputs, detector.label) as copy:
                    scores = at_device(self.scoring_device(copy), detector, copy, detector.score)
        except BadScoresError as error:
            raise BadScoresError(f"on {scored.samples.name}: {error}") from error
        return to_numpy(scores).astype(np.float64)

    def scoring_device(self, outputs: Outputs) -> torch.device:
        """Where detectors score outputs; see ``Hardware.scoring_device_for``."""
        return self.hardware.scoring_device_for(max(self._most, _values(outputs)))

    def score(
        self,
        detectors: Iterable[Detector],
        train: Mapping[str, SampleOutputs],
        tested: Sequence[SampleOutputs],
        draw: Drawing | None = None,
        *,
        with_intervals: bool = True,
    ) -> Iterator[Scored]:
        """Fit and score detectors; what one of them raises is its own failure.

        Args:
            detectors: the detectors, each taken when the one before is done.
            train: what they learn from, by ID split.
            tested: the ID test set, then the OOD sets, and those that count as ID, which are
                compared with the ID test set alone.
            draw: where pictures of what was scored go; None for none.
            with_intervals: whether figures have their intervals, which take time.

        Yields:
            Each detector as soon as it is done.
        """
        for detector in detectors:
            result = Scored(detector)
            began = time.perf_counter()
            said: list[str] = []
            try:
                with warnings_to(said.append):
                    doubts.check_level(tested[0].outputs, detector)
                    if learns(detector):
                        self.fit(detector, train[fit_split(detector)])
                    scores = [self.scores(detector, one) for one in tested]
                    detector.options()  # rows have them, and they may be a detector's own
            except BaseException as error:  # one detector's must not lose the others' results
                result.failure = own_failure(error)
                yield result
                continue
            result.seconds = time.perf_counter() - began
            result.notes = of_a_kind(said)
            if "model" not in detector.needs:
                devices = [self.scoring_device(one.outputs) for one in tested]
                result.device = next((str(d) for d in devices if d.type != "cpu"), None)
            result.scores = scores
            known = [s for one, s in zip(tested[1:], scores[1:], strict=True) if one.counts_as_id]
            result.id_scores = np.concatenate([scores[0], *known]) if known else scores[0]
            result.figures = [
                self.task.measure(
                    scores[0] if one.counts_as_id else result.id_scores,
                    ood,
                    with_intervals=with_intervals,
                )
                for one, ood in zip(tested[1:], scores[1:], strict=True)
            ]
            yield result
            if draw is not None:
                for one, its_scores in zip(tested, scores, strict=True):
                    with draw.attempt():
                        self.pictures(one, its_scores, draw.folder / detector.label)

    def pictures(self, scored: SampleOutputs, scores: np.ndarray, folder: Path) -> None:
        """Pictures of scored samples, where the task draws some."""


def learns(detector: Detector) -> bool:
    """Whether it learns from ID samples, by their outputs or with the network at hand."""
    return detector.needs_fit or detector.needs_fit_batches


def fit_split(detector: Detector) -> str:
    """The ID split that a detector learns from: ``"train"``, unless it says another."""
    return detector.fit_split


def _like_weights(images: Tensor, network: nn.Module) -> Tensor:
    weight = next((p for p in network.parameters() if p.is_floating_point()), images)
    return images.to(weight.device, weight.dtype)


def _values(outputs: Outputs) -> int:
    """How many numbers there are in the columns of outputs."""
    return sum(value.numel() for _, value in outputs.columns())
