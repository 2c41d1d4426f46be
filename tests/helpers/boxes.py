"""Drawn scenes with boxes, and networks that were never trained to find them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from oodbench import Preprocess
from oodbench.contenders import Contender
from oodbench.datasets.scenes import SceneBoxes, scenes
from oodbench.hardware import Hardware
from oodbench.method import Recipe
from oodbench.networks.boxes import scenes_frcnn
from oodbench.tasks.detection import DetectionSubject
from oodbench.training.boxes import DetectionMethod

CPU = Hardware(accelerator="cpu", devices="1", workers=0)

PREPROCESS = Preprocess(64, (0.4,), (0.2,), mode="L", flip=False)


def untrained(kind: type[DetectionMethod], seed: int = 0) -> DetectionMethod:
    torch.manual_seed(seed)
    return kind(scenes_frcnn(), 6, Recipe()).eval()


def few_scenes(n: int, content: Any = "id", split: str = "test") -> SceneBoxes:
    return SceneBoxes(f"{content}/{split}", scenes(split, content)[:n])


def subject(network: nn.Module, confidence: float = 0.05, counter: Any = None) -> DetectionSubject:
    return DetectionSubject(Contender(network), PREPROCESS, CPU, counter, confidence)
