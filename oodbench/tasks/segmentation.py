"""Semantic segmentation: networks that give a class for each pixel, and OOD scores of pixels.

Any detector that learns nothing and reads what a network says of a pixel (its logits; AbeT's
temperature) scores pixels as it scores images: a pixel is a row of ``Outputs``. An image goes
through the network once for all detectors. Its maps are kept, in the size in which the network
computes them, where those of a set are few enough for a disk; its scores are counted and
forgotten, so memory does not depend on the number of pixels. Several processes take a share of the
images each, and add up what they have counted.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from oodbench import files
from oodbench.caching.fingerprint import unknown, unknown_weights, weights_digest
from oodbench.checks import doubts, sanity
from oodbench.data.dense import FittingMasks, masked
from oodbench.data.samples import VOID, MaskedSamples, Samples
from oodbench.data.transforms import InOwnSize, Preprocess
from oodbench.detector import Detector
from oodbench.errors import OODBenchError, OptionError, StorageError
from oodbench.extract import extract, extracted
from oodbench.hardware import Running, gathered, rank_and_world
from oodbench.method import Method
from oodbench.metrics.streamed import StreamedScores
from oodbench.networks.models import Network, outputs_of
from oodbench.networks.pixels import PixelNetwork, PixelReader
from oodbench.outputs import Outputs
from oodbench.registry import METHODS, register_task
from oodbench.reporting import of_a_kind, own_failure, warnings_to
from oodbench.results.rows import FOREGROUND
from oodbench.tasks.counting import Counted, added_up, figures_of, of_all
from oodbench.tasks.pictures import MOST_PICTURES, Drawing, save_picture
from oodbench.tasks.pixels import PixelOutputs, Quality, picture, remembered, segment
from oodbench.tasks.runner import Examined, NetworkRunner, SampleOutputs, Scored
from oodbench.tasks.task import Task
from oodbench.training.dense import DenseMethod
from oodbench.training.epochs import Examples

MOST_KEPT = 2**32
"""Bytes of the maps of a set that are kept on disk at most; those of larger sets are made anew."""

_SHARD = 2**28
"""Bytes of maps that a process holds at most while it fills the cache."""


class PixelRunner(NetworkRunner):
    """A network at work on pixels: those of OOD objects against the others of the same images.

    Each image goes through the network once for all detectors, and not again in a second
    evaluation where the maps of its set take at most ``MOST_KEPT`` bytes.

    Raises:
        OptionError: another preprocessing than a ``Preprocess``.
    """

    keeps_outputs: ClassVar[bool] = False
    shares_samples: ClassVar[bool] = True
    PICTURES: ClassVar[int] = MOST_PICTURES

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not isinstance(self.preprocess, Preprocess):
            raise OptionError("segmentation wants an oodbench Preprocess, not another callable.")
        self._row_bytes: dict[tuple[int, ...], int] = {}
        self._kept: dict[str, Outputs | None] = {}
        self._said: list[str] = []

    @cached_property
    def reader(self) -> nn.Module:
        """The network, as it gives a row a pixel."""
        return PixelReader(self.network)

    @property
    def transform(self) -> InOwnSize:
        """Images in their own sizes."""
        return InOwnSize(cast(Preprocess, self.preprocess))

    def outputs_of(self, samples: Samples) -> SampleOutputs:
        """Samples; there are no outputs of all their pixels at once to ask for."""

        def load() -> Outputs:
            raise OODBenchError(f"the outputs for all pixels of {samples.name} are not kept.")

        return SampleOutputs(samples, load)

    def _segmented(self, samples: Samples) -> Iterator[PixelOutputs]:
        """What the network says of this process's share of the images, in their order."""
        kept = self._remembered(samples)
        rank, world = rank_and_world()
        share = range(rank, len(samples), world)
        preprocess = cast(Preprocess, self.preprocess)
        if kept is not None:
            device = self.hardware.own_device
            yield from remembered(kept, masked(samples), device, share)
            return
        yield from segment(self.network, samples, preprocess, self.hardware, share)
        if self.on_forward is not None:
            self.on_forward(len(share))

    def _remembered(self, samples: Samples) -> Outputs | None:
        """The maps of all images, from the cache or into it; None where they are not kept."""
        if samples.fingerprint not in self._kept:
            self._kept[samples.fingerprint] = self._maps(FittingMasks(masked(samples)))
        return self._kept[samples.fingerprint]

    def _maps(self, samples: FittingMasks) -> Outputs | None:
        self.hardware.start_processes()
        size = self._bytes_of(samples) if len(samples) else 0
        if not all(gathered(size > 0 and self._is_room(samples, size))):
            return None
        batch_size = max(1, min(self.hardware.batch_size, _SHARD * len(samples) // size))
        with warnings_to(self._said.append):
            return extract(
                self.reader,
                samples,
                self.transform,
                hardware=replace(self.hardware, batch_size=batch_size),
                on_forward=self.on_forward,
            )

    def _is_room(self, samples: Samples, size: int) -> bool:
        """Whether maps of so many bytes are kept: they are there, or there is room for them."""
        if size > MOST_KEPT or unknown(self.reader) is not None:
            return False
        if extracted(self.reader, samples, self.transform, hardware=self.hardware) is not None:
            return True
        try:  # twice, since shards are joined at the end
            return shutil.disk_usage(files.writable_cache()).free > 2 * size
        except StorageError:
            return False

    def _bytes_of(self, samples: MaskedSamples) -> int:
        """How many bytes the maps of all images take, if they are like the first one.

        That is asked of an image of zeros: none is read for it.
        """
        size = samples.mask(0).shape
        if size not in self._row_bytes:
            channels = cast(Preprocess, self.preprocess).channels
            running = Running(self.reader, self.hardware)
            with running:
                rows = outputs_of(self.reader)(running.put(torch.zeros(1, channels, *size)))
            self._row_bytes[size] = sum(v.numel() * v.element_size() for v in rows.values())
        return len(samples) * self._row_bytes[size]

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
        self._remembered(test.samples)  # now, since it may show that the weights are unknown
        reason = unknown(self.network)
        is_known = self.has_known_weights()
        digests: dict[int, str] = {}
        for pixels in self._segmented(test.samples):
            if pixels.index == 0 and pixels.outputs.logits is not None:
                count = pixels.outputs.logits.shape[1]
                more = doubts.more_classes(count, self.classes, self.benchmark.id.name)
                notes += [] if more is None else [more]
                who = type(self.network).__name__
                notes += doubts.of_probabilities(pixels.outputs, detectors, who)
            quality.add(pixels.prediction, pixels.mask)
            if not is_known:
                digests[pixels.index] = pixels.outputs.digest()
        notes = list(dict.fromkeys(chain.from_iterable(gathered(notes))))
        quality = of_all(quality)
        digests = dict(sorted(chain.from_iterable(one.items() for one in gathered(digests))))
        notes += [*([] if reason is None else [reason]), *self._said]
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
            weights if is_known else unknown_weights(_digest_of(digests.values())),
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
        for scored in tested[1:]:
            alive = [i for i, result in enumerate(results) if result.failure is None]
            if not alive:
                break
            counted = self._count([results[i].detector for i in alive], scored, background, draw)
            for i, one in zip(alive, added_up(counted), strict=True):
                results[i].seconds += one.seconds
                said[i] += one.said
                if one.failure is not None:
                    results[i].failure = one.failure
                    yield results[i]
                    continue
                figures = figures_of(scored.samples.name, one.stream, one.objects)
                results[i].figures.append(figures)
        for result, texts in zip(results, said, strict=True):
            if result.failure is None:
                result.notes = of_a_kind([*self._said, *texts])
                yield result

    def _count(
        self,
        detectors: Sequence[Detector],
        scored: SampleOutputs,
        background: Sequence[np.uint8],
        draw: Drawing | None,
    ) -> list[Counted]:
        """The scores of each detector for this process's share of a set, counted."""
        counted = [
            Counted(StreamedScores(), StreamedScores() if background else None) for _ in detectors
        ]
        for pixels in self._segmented(scored.samples):
            hidden = pixels.mask
            if background:
                hidden = np.where(np.isin(pixels.mask, background), VOID, pixels.mask)
            for detector, one in zip(detectors, counted, strict=True):
                if one.failure is not None:
                    continue
                began = time.perf_counter()
                try:
                    with warnings_to(one.said.append):
                        scores = pixels.score(detector)
                    one.stream.add_map(scores, pixels.mask)
                    if one.objects is not None:
                        one.objects.add_map(scores, hidden)
                except BaseException as error:  # one must not lose the others' results
                    one.failure = own_failure(error)
                    continue
                one.seconds += time.perf_counter() - began
                if draw is not None and pixels.index < self.PICTURES:
                    with draw.attempt():
                        self._draw(scored.samples, pixels, scores, draw.folder / detector.label)
        return counted

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


def _digest_of(digests: Iterable[str]) -> str:
    whole = hashlib.sha256()
    for digest in digests:
        whole.update(digest.encode())
    return whole.hexdigest()


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
