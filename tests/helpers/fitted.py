"""A small fitted detector: grey images of blobs, and a network that tells their classes apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import oodbench
from oodbench import FittedDetector, Hardware, Preprocess
from oodbench.data.samples import ImageArrays

GREY = Preprocess(8, (0.4,), (0.25,), mode="L", flip=False)
CPU = Hardware(accelerator="cpu", devices="1", workers=0)


def blobs(n: int, seed: int = 0, name: str = "blobs/train", level: int = 120) -> ImageArrays:
    """Images ``[n, 8, 8]`` of three classes: a bright third of their rows, and noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.normal(40, 15, (n, 8, 8))
    for label in range(3):
        images[labels == label, 3 * label : 3 * label + 2] += level
    images = images.clip(0, 255).astype(np.uint8)
    return ImageArrays(name, images, labels, ("low", "middle", "high"))


def strange(n: int, seed: int = 9) -> ImageArrays:
    """Images of noise without a bright row, all of class 0."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 8, 8)).astype(np.uint8)
    return ImageArrays("strange/test", pixels, np.zeros(n), ("low", "middle", "high"))


def network(seed: int = 0) -> nn.Module:
    """Features and a linear head, untrained but for the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def fitted(detector: Any = "knn", **options: Any) -> FittedDetector:
    """A detector that was fitted on blobs."""
    given = {
        "train": blobs(300),
        "calibration": blobs(400, 1, "blobs/val"),
        "preprocess": GREY,
        "hardware": CPU,
        **options,
    }
    return oodbench.fit(detector, given.pop("model", network()), **given)
