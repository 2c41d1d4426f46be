"""Semantic segmentation: networks that give a class for each pixel, and OOD scores of pixels.

Any detector that learns nothing and reads what a network says of a pixel (its logits; AbeT's
temperature) scores pixels as it scores images: a pixel is a row of ``Outputs``. An image goes
through the network once for all detectors, and its scores are counted and forgotten, so memory does
not depend on the number of pixels.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from torch import nn
from torch.utils.data import Dataset

from oodbench import files
from oodbench.caching.fingerprint import unknown, unknown_weights, weights_digest
from oodbench.checks import doubts, sanity
from oodbench.data.samples import VOID, Samples
from oodbench.data.transforms import Preprocess
from oodbench.detector import Detector
from oodbench.errors import DataError, OODBenchError, OptionError
from oodbench.method import Method
from oodbench.metrics.streamed import StreamedScores
from oodbench.networks.models import Network
from oodbench.networks.pixels import PixelNetwork
from oodbench.outputs import Outputs
from oodbench.registry import METHODS, register_task
from oodbench.reporting import of_a_kind, own_failure, warnings_to
from oodbench.results.rows import FOREGROUND, Row, with_columns
from oodbench.tasks.pictures import MOST_PICTURES, Drawing, save_picture
from oodbench.tasks.pixels import PixelOutputs, Quality, picture, segment
from oodbench.tasks.runner import Examined, NetworkRunner, SampleOutputs, Scored
from oodbench.tasks.task import Task
from oodbench.training.dense import DenseMethod
from oodbench.training.epochs import Examples


class PixelRunner(NetworkRunner):
    """A network at work on pixels: those of OOD objects against the others of the same images.

    Each image goes through the network once for all detectors. Nothing of it is kept, so a second
    evaluation looks at the images again.

    Raises:
        OptionError: another preprocessing than a ``Preprocess``.
    """

    keeps_outputs: ClassVar[bool] = False
    PICTURES: ClassVar[int] = MOST_PICTURES

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not isinstance(self.preprocess, Preprocess):
            raise OptionError("segmentation wants an oodbench Preprocess, not another callable.")

    def outputs_of(self, samples: Samples) -> SampleOutputs:
        """Samples; there are no outputs of all their pixels at once to ask for."""

        def load() -> Outputs:
            raise OODBenchError(f"the outputs for all pixels of {samples.name} are not kept.")

        return SampleOutputs(samples, load)

    def is_cached(self, samples: Samples) -> bool:
        """False: outputs of pixels are too large to be cached."""
        return False

    def _segmented(self, samples: Samples) -> Iterator[PixelOutputs]:
        preprocess = cast(Preprocess, self.preprocess)
        yield from segment(self.network, samples, preprocess, self.hardware)
        if self.on_forward is not None:
            self.on_forward(len(samples))

    def examine(
        self,
        test: SampleOutputs,
        train: SampleOutputs | None,
        detectors: Sequence[Detector],
    ) -> Examined:
        """Accuracy, mean intersection over union, and what is odd about them.

        Raises:
            OptionError: the network predicts fewer classes than there are.
            DataError: samples without masks, or whose masks do not fit.
        """
        notes = [*self.contender.notes, *self.notes]
        quality = Quality(len(self.classes))
        reason = unknown(self.network)
        digest = hashlib.sha256()
        for pixels in self._segmented(test.samples):
            if pixels.index == 0 and pixels.outputs.logits is not None:
                count = pixels.outputs.logits.shape[1]
                more = doubts.more_classes(count, self.classes, self.benchmark.id.name)
                notes += [] if more is None else [more]
                who = type(self.network).__name__
                notes += doubts.of_probabilities(pixels.outputs, detectors, who)
            quality.add(pixels.prediction, pixels.mask)
            if reason is not None:
                digest.update(pixels.outputs.digest().encode())
        notes += [] if reason is None else [reason]
        input_text = self.task.input_description(self.preprocess)
        right = quality.confusion[:, : len(self.classes)]
        halves = (right - right // 2, right // 2)
        notes += sanity.of_confusion(halves, self.classes, input_text, unit="pixels")
        weights = weights_digest(self.network)
        return Examined(
            {
                "id_accuracy": quality.accuracy,
                "id_accuracy_low": None,
                "id_accuracy_high": None,
                "id_miou": quality.miou,
            },
            weights if reason is None else unknown_weights(digest.hexdigest()),
            notes,
        )

    def doubts(self, test: SampleOutputs, detectors: Sequence[Detector]) -> list[str]:
        """None beyond those that are noted when the network is examined."""
        return []

    def score(
        self,
        detectors: Iterable[Detector],
        train: Mapping[str, SampleOutputs],
        tested: Sequence[SampleOutputs],
        draw: Drawing | None = None,
        *,
        with_intervals: bool = True,
    ) -> Iterator[Scored]:
        """All detectors on each image in turn; the ID test set itself is not scored.

        Raises:
            OptionError: the benchmark's background is no ID class.
            DataError: samples without masks, whose masks do not fit, or without ID or OOD pixels.
        """
        background = self._background()
        results = [Scored(detector) for detector in detectors]
        said: list[list[str]] = [[] for _ in results]
        alive = list(range(len(results)))  # two detectors may be of one name, with other options
        for scored in tested[1:]:
            streams = {i: StreamedScores() for i in alive}
            objects = {i: StreamedScores() for i in alive if background}
            for pixels in self._segmented(scored.samples):
                for i in list(alive):
                    began = time.perf_counter()
                    try:
                        with warnings_to(said[i].append):
                            scores = pixels.score(results[i].detector)
                        streams[i].add_map(scores, pixels.mask)
                        if background:
                            hidden = np.isin(pixels.mask, background)
                            objects[i].add_map(scores, np.where(hidden, VOID, pixels.mask))
                    except BaseException as error:  # one must not lose the others' results
                        results[i].failure = own_failure(error)
                        alive.remove(i)
                        yield results[i]
                        continue
                    results[i].seconds += time.perf_counter() - began
                    if draw is not None and pixels.index < self.PICTURES:
                        with draw.attempt():
                            folder = draw.folder / results[i].detector.label
                            self._draw(scored.samples, pixels, scores, folder)
            for i in alive:
                name = scored.samples.name
                results[i].figures.append(_figures(name, streams[i], objects.get(i)))
        for i in alive:
            results[i].notes = of_a_kind(said[i])
            yield results[i]

    def _background(self) -> list[np.uint8]:
        """Values in masks of the ID classes that are no objects.

        Raises:
            OptionError: the benchmark names one that the ID set does not have.
        """
        classes = list(self.classes)
        names = cast(Segmentation, self.task).background
        strange = [name for name in names if name not in classes]
        if strange:
            raise OptionError(
                f"benchmark {self.benchmark.name}: its background {strange[0]!r} is no class of "
                f"{self.benchmark.id.name} ({', '.join(classes[:5])}{' …' * (len(classes) > 5)})."
            )
        return [np.uint8(classes.index(name)) for name in names]

    @staticmethod
    def _draw(samples: Samples, pixels: PixelOutputs, scores: np.ndarray, folder: Path) -> None:
        drawn = picture(samples[pixels.index], pixels, scores)
        save_picture(drawn, folder / f"{files.file_name(samples.name)}-{pixels.index:03}.png")


def _figures(name: str, stream: StreamedScores, objects: StreamedScores | None) -> Row:
    """Columns of an OOD set's row; those against ID objects alone where they are counted."""
    try:
        figures, errors = stream.metrics()
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    row = with_columns({"n_id": stream.n_id, "n_ood": stream.n_ood}, figures)
    if objects is not None and objects.n_id:
        against_objects, more = objects.metrics()
        columns = {f"{metric}_foreground": against_objects[metric] for metric in FOREGROUND}
        row = with_columns(row, columns)
        row["n_id_foreground"] = objects.n_id
        errors = {metric: max(error, more[metric]) for metric, error in errors.items()}
    row["binning_error"] = max(errors.values())
    return row


@register_task("segmentation")
@dataclass(frozen=True)
class Segmentation(Task):
    """Pixels are scored, those of OOD objects against the others of the same images.

    Intervals are not given: the pixels of an image are far from independent.

    Args:
        background: ID classes that are no objects. Figures of OOD pixels against the pixels of the
            other ID classes are then given beside those against all.
    """

    unit: ClassVar[str] = "pixels"
    id_unit: ClassVar[str] = "ID pixels in OOD images"
    scored: ClassVar[str] = "Pixels are scored"
    quality: ClassVar[tuple[str, str]] = ("id_miou", "ID mIoU")
    columns: ClassVar[tuple[str, ...]] = (
        "id_miou",
        "binning_error",
        *(f"{metric}_foreground" for metric in FOREGROUND),
        "n_id_foreground",
    )
    no_intervals: ClassVar[str] = "the pixels of an image are far from independent"
    runner: ClassVar[type[NetworkRunner]] = PixelRunner
    is_classified: ClassVar[bool] = False
    keeps_size: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    on_one_device: ClassVar[bool] = True
    rows_are_samples: ClassVar[bool] = False
    methods_of: ClassVar[str] = "segmentation"

    background: tuple[str, ...] = ()

    def why_not(self, detector: type[Detector]) -> str | None:
        """A pixel has what the methods of segmentation give; nothing is learned from pixels."""
        available = {name for method in self.methods() for name in METHODS.get(method).gives or ()}
        missing = sorted(detector.needs - available)
        if missing:
            return f"needs {' and '.join(missing)}, which pixels do not have"
        if (detector.fit, detector.fit_batches) != (Detector.fit, Detector.fit_batches):
            return "learns from training outputs, which pixels do not have"
        return None

    def adapt(self, network: nn.Module, layer: str | None, classes: int | None) -> nn.Module:
        """A network of images, by its logits alone; one with ``outputs`` as it is."""
        is_adapted = isinstance(network, Network)
        return super().adapt(network if is_adapted else PixelNetwork(network), layer, classes)

    def examples(
        self, method: Method, samples: Samples, preprocess: Any, seed: int
    ) -> tuple[Dataset[Any], Callable[[Sequence[Any]], Any] | None]:
        """Images with their masks, augmented together."""
        dense = cast(DenseMethod, method)
        return Examples(samples, dense, preprocess, seed), dense.collate
