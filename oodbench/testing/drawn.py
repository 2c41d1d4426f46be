"""Benchmarks of a few drawn samples in memory, for the checks of methods and tasks."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from oodbench.benchmark import Benchmark
from oodbench.data.samples import (
    OOD,
    BoxedSamples,
    Boxes,
    MaskedSamples,
    MultimodalSamples,
    content_digest,
)
from oodbench.data.transforms import MultimodalPreprocess, Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.networks.boxes import BOXES
from oodbench.networks.pixels import MAPS
from oodbench.registry import METHODS, TASKS

SIZE = 32
"""Side of a drawn image in pixels."""

CLASSES = ("plain", "square", "stripes")
"""What a drawn image shows. The first is an image without an object, and what is around one."""

GREY = Preprocess(SIZE, (0.4,), (0.2,), mode="L", flip=False)
PAIR = MultimodalPreprocess({"left": GREY, "right": GREY})

BACKBONES = {
    ("images", "features"): "digits-cnn",
    ("images", "towers"): "digits-towers",
    ("images", MAPS): "scenes-unet",
    ("images", BOXES): "scenes-frcnn",
    ("modalities", "features"): "avdigits-cnn",
}
"""Small networks by what they take and give."""


def _draw(label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Boxes]:
    """An image, its mask and its boxes; -1 is an object of no class."""
    image = rng.normal(60, 12, (SIZE, SIZE))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if label == 0:
        return image.clip(0, 255).astype(np.uint8), mask, Boxes(np.empty((0, 4)), np.empty(0))
    side = int(rng.integers(14, 19))
    left, top = rng.integers(0, SIZE - side, 2)
    window = np.s_[top : top + side, left : left + side]
    rows, columns = np.indices((side, side))
    dark = {1: rows < 0, 2: rows % 4 < 2, -1: (rows // 3 + columns // 3) % 2 == 0}[label]
    image[window] = np.where(dark, 90, 200) + rng.normal(0, 12, (side, side))
    mask[window] = OOD if label < 0 else label
    corners = np.array([[left, top, left + side, top + side]])
    return image.clip(0, 255).astype(np.uint8), mask, Boxes(corners, np.array([label]))


class DrawnImages(MaskedSamples, BoxedSamples):
    """Grey images with an object at most: their classes, masks and boxes.

    Args:
        name: what messages call it.
        n: how many.
        seed: of what is drawn.
        is_ood: whether each has an object of no class.
    """

    def __init__(self, name: str, n: int, seed: int, is_ood: bool = False) -> None:
        rng = np.random.default_rng(seed)
        labels = np.arange(n) % len(CLASSES)
        super().__init__(name, np.zeros(n) if is_ood else labels, CLASSES)
        self.drawn = [_draw(-1 if is_ood else int(label), rng) for label in labels]

    @property
    def in_memory(self) -> bool:
        """True: the images are drawn in memory."""
        return True

    def __getitem__(self, index: int) -> Image.Image:
        """The image at a position."""
        return Image.fromarray(self.drawn[index][0])

    def mask(self, index: int) -> np.ndarray:
        """The classes of the pixels of an image, ``[H, W]``."""
        return self.drawn[index][1]

    def boxes(self, index: int) -> Boxes:
        """The objects of an image."""
        return self.drawn[index][2]

    def _digests(self) -> np.ndarray:
        parts = ((image, mask, boxes.corners, boxes.labels) for image, mask, boxes in self.drawn)
        contents = [b"".join(part.tobytes() for part in one) for one in parts]
        return np.array(list(map(content_digest, contents)), np.uint64)


class DrawnPairs(MultimodalSamples):
    """Two images per sample, of the modalities ``left`` and ``right``; arguments as above."""

    def __init__(self, name: str, n: int, seed: int, is_ood: bool = False) -> None:
        self.sides = {
            side: DrawnImages(name, n, 2 * seed + i, is_ood)
            for i, side in enumerate(PAIR.modalities)
        }
        super().__init__(name, self.sides["left"].labels, CLASSES, PAIR.modalities)

    @property
    def in_memory(self) -> bool:
        """True: the samples are drawn in memory."""
        return True

    def __getitem__(self, index: int) -> Any:
        """The sample at a position."""
        return {name: images[index] for name, images in self.sides.items()}

    def _digests(self) -> np.ndarray:
        pairs = np.stack([images.digests for images in self.sides.values()], axis=1)
        return np.array([content_digest(pair.tobytes()) for pair in pairs], np.uint64)


def _spec(kind: type[DrawnImages] | type[DrawnPairs], seed: int, is_ood: bool) -> DatasetSpec:
    name = f"drawn-{'checks' if is_ood else 'objects'}-{seed}"
    splits = ("test",) if is_ood else ("train", "val", "test")
    counts = {"train": 12, "val": 6, "test": 6}

    def load(split: str) -> DrawnImages | DrawnPairs:
        number = 10 * seed + splits.index(split)
        return kind(f"{name}/{split}", counts[split], number, is_ood)

    return DatasetSpec(name, load, splits, "drawn noise and objects", "drawn", "none needed")


def drawn_benchmark(
    task: str = Preprocess.task,
    task_options: Mapping[str, Any] | None = None,
    gives: str | None = None,
) -> Benchmark:
    """A benchmark of a few drawn samples in memory: grey images of 32 x 32 pixels, or pairs.

    They have classes, masks and boxes, so they serve whatever is scored of images; a task of
    samples of several modalities gets two images per sample. The backbone is a small one that gives
    what the task's methods read.

    Args:
        task: the task's name.
        task_options: those of its options that differ from its own.
        gives: what the backbone gives; None for what the task's first method reads.
    """
    cls = TASKS.get(task)
    is_multimodal = issubclass(cls, TASKS.get(MultimodalPreprocess.task))
    kind = DrawnPairs if is_multimodal else DrawnImages
    methods = cls().methods()
    if gives is None and methods:
        gives = METHODS.get(methods[0]).backbone_gives
    takes = "modalities" if is_multimodal else "images"
    return Benchmark(
        name="drawn",
        id=_spec(kind, 1, False),
        near=(_spec(kind, 2, True),),
        far=(_spec(kind, 3, True),),
        preprocess=PAIR if is_multimodal else GREY,
        backbone=BACKBONES[takes, gives or "features"],
        task=task,
        task_options=task_options,
        standard_method=methods[0] if methods else "",
    )


@contextlib.contextmanager
def own_folders() -> Iterator[str]:
    """No data, and a cache of their own, for checks that evaluate; gives the data folder."""
    with tempfile.TemporaryDirectory() as root:
        places = {name: os.path.join(root, name.lower()) for name in ("DATA", "CACHE")}  # noqa: PTH118
        with mock.patch.dict(os.environ, {f"OODBENCH_{k}": v for k, v in places.items()}):
            yield places["DATA"]
