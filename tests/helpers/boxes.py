"""Drawn scenes with boxes, and networks that were never trained to find them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import nn

from oodbench import Preprocess
from oodbench.benchmark import Benchmark
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
