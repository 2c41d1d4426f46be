"""Drawn scenes with boxes, and networks that were never trained to find them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from oodbench import Outputs, Preprocess
from oodbench.benchmark import Benchmark
from oodbench.data.samples import BoxedSamples, Boxes
from oodbench.dataset import DatasetSpec
from oodbench.datasets.scenes import SceneBoxes, scenes
from oodbench.hardware import Hardware
from oodbench.method import Recipe
from oodbench.networks.boxes import scenes_frcnn
from oodbench.tasks.contender import Contender
from oodbench.tasks.detection import BoxRunner, Detection
from oodbench.training.boxes import DetectionMethod

CPU = Hardware(accelerator="cpu", devices="1", workers=0)

PREPROCESS = Preprocess(64, (0.4,), (0.2,), mode="L", flip=False)


def untrained(kind: type[DetectionMethod], seed: int = 0) -> DetectionMethod:
    torch.manual_seed(seed)
    return kind(scenes_frcnn(), 6, Recipe()).eval()


def few_scenes(n: int, content: Any = "id", split: str = "test") -> SceneBoxes:
    return SceneBoxes(f"{content}/{split}", scenes(split, content)[:n])


def at_work(
    network: nn.Module | Contender,
    confidence: float = 0.05,
    counter: Any = None,
    preprocess: Any = PREPROCESS,
    classes: Sequence[str] = (),
    hardware: Hardware = CPU,
    said: str | None = "benchmark",
) -> BoxRunner:
    """A network that predicts boxes, at work on a benchmark with that preprocessing.

    ``said`` is what its owner says of its own; None where the network tells it.
    """
    is_one = isinstance(network, Contender)
    contender = network if is_one else Contender(network, preprocess=said)
    nothing = DatasetSpec("nothing", lambda split: pytest.fail(f"{split} was read"))
    benchmark = Benchmark("toy/detection", nothing, (), (), preprocess, task="detection")
    task = Detection(confidence=confidence)
    return cast(BoxRunner, task.start(contender, benchmark, hardware, counter, classes))


@dataclass
class Few(BoxedSamples):
    """Images and boxes that are given one by one."""

    images: list[np.ndarray]
    objects: list[Boxes]

    def __post_init__(self) -> None:
        super().__init__("few", np.zeros(len(self.images)), ("a", "b"))

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def boxes(self, index: int) -> Boxes:
        return self.objects[index]

    def _digests(self) -> np.ndarray:
        return np.arange(len(self.images), dtype=np.uint64)


def no_boxes() -> Boxes:
    """An image without objects."""
    return Boxes(np.zeros((0, 4)), np.zeros(0))


def table(*rows: tuple[int, tuple[float, ...], float, int]) -> Outputs:
    """Predicted boxes: each with its image, corners, confidence and class."""
    image, corners, confidence, predicted = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Outputs(
        labels=torch.tensor(predicted, dtype=torch.int64),
        extra={
            "image": torch.tensor(image, dtype=torch.int64),
            "corners": torch.tensor(corners).reshape(-1, 4),
            "confidence": torch.tensor(confidence),
        },
    )
