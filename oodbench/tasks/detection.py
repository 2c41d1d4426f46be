"""Object detection: networks that predict boxes, and OOD scores of predicted boxes.

The protocol is that of VOS (Du et al., ICLR 2022, arXiv:2202.01197): a box that is predicted with
enough confidence counts; ID boxes are those on ID test images, OOD boxes those on images without
any ID object, so that each of them is a mistake. A box is a row of ``Outputs``, with the features
that its class was predicted from and its logits without that of the background, so every detector
that reads outputs scores boxes as it scores images.

Metrics and their intervals count boxes, as if boxes of one image were independent.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import detection as zoo

from oodbench import files
from oodbench.caching import probe
from oodbench.caching.description import describe
from oodbench.caching.fingerprint import cache_key, unknown
from oodbench.caching.store import discard, stored
from oodbench.checks.doubts import more_classes
from oodbench.data.dense import boxed, check_labels
from oodbench.data.samples import BoxedSamples, Samples, Subset
from oodbench.data.transforms import Preprocess, in_mode, to_tensor
from oodbench.detector import (
    Detector,
)
from oodbench.disk import leftovers
from oodbench.disk.digests import read_arrays, write_arrays
from oodbench.disk.locks import alone
from oodbench.errors import BadScoresError, DataError, OODBenchWarning, OptionError
from oodbench.hardware import Hardware, Running, is_first_process, quiet_lightning
from oodbench.method import (
    Method,
)
from oodbench.networks import single_stage
from oodbench.networks.boxes import BoxNetwork, forget_sizes
from oodbench.networks.single_stage import LEAST
from oodbench.outputs import Outputs
from oodbench.registry import register_task
from oodbench.results.rows import Row
from oodbench.tasks.pictures import MOST_PICTURES, heat, panel, save_picture, scale
from oodbench.tasks.runner import NetworkRunner, SampleOutputs
from oodbench.tasks.task import Task
from oodbench.training.dense import (
    DenseMethod,
)
from oodbench.training.epochs import Examples

VERSION = 2
"""Part of every key of cached boxes; raised when the same network would give others."""

AT_ONCE = 8
"""Images of one size a forward pass; of several, smaller ones would be padded to the largest."""


class _Images(Dataset[Tensor]):
    def __init__(self, samples: Samples, preprocess: Preprocess) -> None:
        self.samples, self.preprocess = samples, preprocess

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        image = in_mode(self.samples[index], self.preprocess.mode)
        return self.preprocess.normalize(to_tensor(image))


def detect(
    network: nn.Module,
    samples: Samples,
    preprocess: Preprocess,
    hardware: Hardware,
    confidence: float,
) -> tuple[Outputs, dict[str, np.ndarray]]:
    """The boxes that a network predicts on samples.

    Images go through the network once. What is predicted with less than ``confidence`` is kept
    without its features and logits. The boxes of a dataset are in memory together.

    Args:
        network: has ``detect`` and ``head``; see :class:`BoxNetwork`.
        samples: images.
        preprocess: mode and normalisation; sizes stay.
        hardware: where and how it runs.
        confidence: smallest that counts.

    Returns:
        The boxes that count, with their class as label and the columns of
        :meth:`BoxNetwork.detect` as extras; and of all boxes from ``LEAST`` on ``image``,
        ``corners``, ``confidence`` and ``predicted``.

    Raises:
        BadScoresError: the network gives NaN or infinite logits.
    """
    running = Running(network, hardware)
    loader = DataLoader(
        _Images(samples, preprocess),
        batch_size=None,
        num_workers=hardware.workers_for(samples),
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else it draws from everybody's
    )
    least = min(LEAST, confidence)
    sure: list[dict[str, Tensor]] = []
    every: list[dict[str, Tensor]] = []
    start = 0
    try:
        for images in _batches(loader):
            with running:
                found = cast(Any, network).detect([running.put(i) for i in images], least)
            found = {
                name: value.float() if value.is_floating_point() else value
                for name, value in ((name, value.cpu()) for name, value in found.items())
            }
            found["image"] = found["image"] + start
            every.append({name: found[name] for name in _TABLE})
            counts = found["confidence"] >= confidence
            sure.append({name: value[counts] for name, value in found.items()})
            start += len(images)
    except BadScoresError as error:
        raise BadScoresError(f"on {samples.name}: {error}") from error
    whole = {name: torch.cat([part[name] for part in sure]).clone() for name in sure[0]}
    boxes = Outputs(
        cast(Any, whole.pop("features") if "features" in whole else None),
        whole.pop("logits"),
        whole.pop("predicted"),
        cast(Any, network).head(),
        whole,
    )
    return boxes, {name: torch.cat([part[name] for part in every]).numpy() for name in _TABLE}


def _as_it_is(image: Any) -> Any:
    return image


def _batches(loader: DataLoader[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive images of one size, at most ``AT_ONCE``."""
    batch: list[Tensor] = []
    examples = iter(loader)
    while True:
        with quiet_lightning():  # a data worker's error as it was raised
            image = next(examples, None)
        if batch and (image is None or len(batch) == AT_ONCE or image.shape != batch[0].shape):
            yield batch
            batch = []
        if image is None:
            return
        batch.append(image)


_TABLE = ("image", "corners", "confidence", "predicted")


def _table_of(folder: Path) -> Path:
    """The file of all boxes, beside the folder of those that count."""
    return folder.with_name(f"{folder.name}.npz")


class BoxRunner(NetworkRunner):
    """A network that predicts boxes, at work.

    What it predicts is kept in the cache, so a second evaluation runs nothing.

    Raises:
        OptionError: a network that predicts no boxes, or another callable than a ``Preprocess``.
    """

    PICTURES = MOST_PICTURES

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not isinstance(self.preprocess, Preprocess):
            raise OptionError("detection wants an oodbench Preprocess, not another callable.")
        self.confidence = cast(Detection, self.task).confidence
        self._tables: dict[str, dict[str, np.ndarray]] = {}

    def _folder(self, samples: Samples) -> Path | None:
        """Where the cache has what is predicted; None for a network that cannot be told apart."""
        key = cache_key(self.network, samples, self.preprocess, self.hardware.precision)
        if key is None:
            return None
        name = files.digest({"key": key, "version": VERSION, "confidence": self.confidence})
        return files.cache_dir() / "boxes" / name

    def is_cached(self, samples: Samples) -> bool:
        """Whether the cache has what the network predicts on these samples."""
        folder = self._folder(samples)
        return folder is not None and (folder / "outputs.json").is_file()

    def _outputs(self, samples: Samples) -> Outputs:
        """The boxes that the network predicts on samples, as rows.

        Any images will do for OOD ones: what is predicted on them is wrong, wherever it is.

        Raises:
            DataError: nothing is predicted.
        """
        folder = self._folder(samples)
        if folder is None:
            warnings.warn(unknown(self.network) or "", OODBenchWarning, stacklevel=2)
        boxes = None if folder is None else self._stored(folder, samples)
        with contextlib.ExitStack() as held:
            mine = folder if is_first_process(self.hardware) else None
            if boxes is None and mine is not None:
                lock = files.writable_cache() / "locks" / f"{mine.name}.lock"
                held.enter_context(alone(lock, f"the boxes on {samples.name}"))
                boxes = self._stored(mine, samples, mend=True)  # somebody may have been quicker
            if boxes is None:
                boxes, every = self._detect(samples)
                self._tables[samples.fingerprint] = every
                if self.on_forward is not None:
                    self.on_forward(len(samples))
                if mine is not None:
                    leftovers.remove(mine)
                    write_arrays(_table_of(mine), every)
                    boxes.save(mine, key=mine.name)
                    if probe.varies(self.network):
                        (mine / probe.VARIES).touch()
        if len(boxes) == 0:
            raise DataError(
                f"the network predicts no box with a confidence of {self.confidence} or more on "
                f"the {len(samples)} images of {samples.name}: there is nothing to score. Train it "
                "longer, or leave the set out with `ood`."
            )
        if self.classes:
            note = more_classes(boxes.logits.shape[1], self.classes, "the ID set")
            self.notes += [] if note is None or note in self.notes else [note]
        return boxes

    def _stored(self, folder: Path, samples: Samples, mend: bool = False) -> Outputs | None:
        """What the cache has, if a network with a user's code says the same today; else it goes.

        What is damaged counts as nothing; with ``mend`` it is removed, too, and that is said.
        """
        boxes, damage = stored(folder, folder.name)
        every = read_arrays(_table_of(folder))
        if boxes is not None and (every is None or not set(_TABLE) <= set(every)):
            boxes, damage = None, f"{_table_of(folder).name} is missing or damaged"
        if damage is not None and mend:
            discard(folder, damage)
        if boxes is None or every is None:
            return None
        if describe(self.network).is_users:
            if (folder / probe.VARIES).exists():
                probe.note_varying(self.network)
            if not self._still_detects(samples, every):
                probe.note_varying(self.network)
                net = getattr(self.network, "detector", self.network)
                text = probe.changed_text(type(net).__name__, samples.name)
                warnings.warn(text, OODBenchWarning, stacklevel=3)
                files.writable_cache()
                probe.drop(folder)
                return None
        self._tables[samples.fingerprint] = every
        return boxes

    def _still_detects(self, samples: Samples, every: dict[str, np.ndarray]) -> bool:
        rows = probe.some_of(len(samples))
        _, found = self._detect(Subset(samples, rows))
        there = np.isin(every["image"], rows)
        if there.sum() != len(found["image"]):
            return False
        limit = probe.tolerance(self.hardware, torch.device("cpu"))
        return all(
            probe.alike(torch.from_numpy(every[name][there]), torch.from_numpy(found[name]), limit)
            for name in ("confidence", "corners")
        )

    def _detect(self, samples: Samples) -> tuple[Outputs, dict[str, np.ndarray]]:
        shape = cast(Preprocess, self.preprocess)
        return detect(self.network, samples, shape, self.hardware, self.confidence)

    def quality(self, test: SampleOutputs) -> Row:
        """Mean average precision on ID test samples.

        Raises:
            DataError: these have no boxes to compare with.
        """
        _ = test.outputs
        every = self._tables[test.samples.fingerprint]
        return {
            "id_accuracy": None,
            "id_accuracy_low": None,
            "id_accuracy_high": None,
            "id_map": mean_average_precision(every, boxed(test.samples)),
        }

    def pictures(self, scored: SampleOutputs, scores: np.ndarray, folder: Path) -> None:
        """The first images with their boxes, brighter where they look more OOD, and the scores."""
        image = scored.outputs.extra["image"].numpy()
        corners = scored.outputs.extra["corners"].numpy()
        bright = heat(scores[None])[0]
        for index in range(min(self.PICTURES, len(scored.samples))):
            mine = np.flatnonzero(image == index)
            named = dict(enumerate(self.classes or scored.samples.classes))
            classes = [named.get(c, f"class {c}") for c in scored.outputs.labels[mine].tolist()]
            words = [f"{c} {s:.2f}" for c, s in zip(classes, scores[mine], strict=True)]
            drawn = picture(scored.samples[index], corners[mine], words, bright[mine])
            save_picture(drawn, folder / f"{files.file_name(scored.samples.name)}-{index:03}.png")


def picture(
    image: Image.Image, corners: np.ndarray, words: Sequence[str], colours: np.ndarray
) -> Image.Image:
    """An image with boxes and a word at each; small ones enlarged, large ones shrunk.

    Args:
        image: the image.
        corners: ``[n, 4]``.
        words: n.
        colours: ``[n, 3]`` uint8.
    """
    times = scale(image.width, image.height, 384)
    large = panel(image.convert("RGB"), times).copy()
    pen = ImageDraw.Draw(large)
    for (left, top, right, bottom), word, colour in zip(corners, words, colours, strict=True):
        box = tuple(float(v) * times for v in (left, top, right, bottom))
        ink = tuple(int(c) for c in colour)
        pen.rectangle(box, outline=ink, width=3)
        place = (box[0] + 4, max(0.0, box[1] - 12))
        pen.rectangle(pen.textbbox(place, word), fill=ink)
        pen.text(place, word, fill=(0, 0, 0) if sum(ink) > 380 else (255, 255, 255))
    return large


def mean_average_precision(found: Mapping[str, np.ndarray], samples: BoxedSamples) -> float | None:
    """Mean over classes of the average precision at an IoU of 0.5, as COCO defines it.

    Args:
        found: ``image``, ``corners``, ``confidence`` and ``predicted`` of all boxes.
        samples: the truth; objects of no class are no part of it.

    Returns:
        In [0, 1]; None where there is no object.
    """
    from torchmetrics.detection import MeanAveragePrecision

    classes = len(samples.classes)
    for index in range(len(samples)):
        check_labels(samples.boxes(index), classes, f"{samples.name}, image {index}")
    metric = MeanAveragePrecision(iou_thresholds=[0.5], backend="pycocotools")
    order = np.argsort(found["image"], kind="stable")
    ends = np.searchsorted(found["image"][order], np.arange(len(samples) + 1))
    predicted, truth = [], []
    for index in range(len(samples)):
        mine = order[ends[index] : ends[index + 1]]
        predicted.append(
            {
                "boxes": torch.from_numpy(found["corners"][mine]),
                "scores": torch.from_numpy(found["confidence"][mine]),
                "labels": torch.from_numpy(found["predicted"][mine]),
            }
        )
        boxes = samples.boxes(index)
        known = boxes.labels >= 0
        truth.append(
            {
                "boxes": torch.from_numpy(boxes.corners[known]),
                "labels": torch.from_numpy(boxes.labels[known]),
            }
        )
    metric.update(predicted, truth)
    value = float(metric.compute()["map_50"])
    return value if value >= 0 else None


@register_task("detection")
@dataclass(frozen=True)
class Detection(Task):
    """Boxes are scored: those predicted on ID test images, and on images without any ID object.

    Args:
        confidence: the smallest softmax value from which a predicted box is scored.
    """

    unit: ClassVar[str] = "boxes"
    id_unit: ClassVar[str] = "predicted boxes"
    scored: ClassVar[str] = "Boxes are scored"
    quality: ClassVar[tuple[str, str]] = ("id_map", "ID mAP@50")
    columns: ClassVar[tuple[str, ...]] = ("id_map",)
    intervals_over: ClassVar[str] = "predicted boxes, as if those of one image were independent,"
    runner: ClassVar[type[NetworkRunner]] = BoxRunner
    is_classified: ClassVar[bool] = False
    keeps_size: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    draws_id: ClassVar[bool] = True
    on_one_device: ClassVar[bool] = True
    rows_are_samples: ClassVar[bool] = False
    methods_of: ClassVar[str] = "detection"

    confidence: float = 0.5

    def why_not(self, detector: type[Detector]) -> str | None:
        """Detectors that need the network itself, with whole images, cannot."""
        if "model" in detector.needs or detector.fit_batches is not Detector.fit_batches:
            return "needs the network itself, with whole images, which boxes do not have"
        return None

    def adapt(self, network: nn.Module, layer: str | None, classes: int | None) -> nn.Module:
        """A torchvision detector, or a module with ``detect`` and ``head``.

        Raises:
            OptionError: a network that predicts no boxes.
        """
        if isinstance(network, zoo.FasterRCNN):  # Mask and Keypoint R-CNN, too
            network = BoxNetwork(network)
        elif isinstance(network, single_stage.KINDS):
            network = single_stage.SingleStageNetwork(network, classes or 0)
        if not hasattr(network, "detect"):
            raise OptionError(
                f"{type(network).__name__} predicts no boxes that oodbench could read. Give a "
                "torchvision detector (FasterRCNN, MaskRCNN, KeypointRCNN, RetinaNet, FCOS, SSD), "
                "or a module with detect() and head() as oodbench.networks.boxes.BoxNetwork has "
                "them."
            )
        forget_sizes(network)
        return super().adapt(network, None, classes)

    def call(self, network: Any) -> Callable[[Any], Any]:
        """What runs the network on images, as far as it takes to see what it makes of them."""
        if hasattr(network, "outputs"):
            return super().call(network)
        return lambda images: network.detect(list(images), LEAST)

    def examples(
        self, method: Method, samples: Samples, preprocess: Any, seed: int
    ) -> tuple[Dataset[Any], Callable[[Sequence[Any]], Any] | None]:
        """Images with their boxes, augmented together."""
        dense = cast(DenseMethod, method)
        return Examples(samples, dense, preprocess, seed), dense.collate
