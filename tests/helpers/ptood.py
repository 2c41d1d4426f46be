"""A benchmark of familiar and unfamiliar stripes, and evaluations on a pre-trained network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import oodbench
from oodbench import Benchmark, DatasetSpec, Preprocess
from oodbench.data.samples import ImageArrays, Subset
from oodbench.datasets.ptood import PROTOCOL, KnownClasses
from oodbench.hardware import Hardware

CPU = Hardware("cpu", "1", workers=0, batch_size=64)
SIZE = 32
NETWORK = "test_resnet"
OPTIONS = {"input_size": SIZE}
CLASSES = ("a", "b", "c")


def images(name: str, n: int, seed: int, hue: float = 0.0) -> ImageArrays:
    """Stripes whose direction tells the class, with noise; another hue for OOD."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(CLASSES)
    y, x = np.mgrid[:24, :24]
    waves = np.stack([np.sin(x / 2), np.sin(y / 2), np.sin((x + y) / 3)])[labels]
    pixels = 128 + 70 * waves[..., None] + rng.normal(0, 25, (n, 24, 24, 3))
    pixels[..., 0] += 60 * hue
    return ImageArrays(name, pixels.clip(0, 255).astype(np.uint8), labels, CLASSES)


def id_set(val: bool = True) -> DatasetSpec:
    """60 images to learn from, of which 12 are ``val``, and 30 to test on."""
    whole = images("toy/train", 60, 0)
    parts = {
        "train": whole,
        "test": images("toy/test", 30, 1),
        "val": Subset(whole, np.arange(12), "toy/val"),
    }
    splits = ("train", "val", "test") if val else ("train", "test")
    return DatasetSpec("toy", parts.__getitem__, splits)


def of(name: str, n: int, seed: int, hue: float) -> DatasetSpec:
    """An OOD set of so many images."""
    return DatasetSpec(name, lambda split: images(f"{name}/{split}", n, seed, hue))


def benchmark(**changes: Any) -> Benchmark:
    """PT-OOD in small; one ID class was pre-trained on."""
    made = Benchmark(
        name="ptood/toy",
        id=id_set(),
        near=(),
        far=(),
        familiar=(of("seen", 24, 2, 0.4),),
        unfamiliar=(of("unseen", 20, 3, 1.0), of("other", 18, 4, -1.0)),
        preprocess=Preprocess(24, (0.5,) * 3, (0.5,) * 3),
        protocol=PROTOCOL,
        backbone=NETWORK,
        standard_method="linear-probe",
        own_inputs=True,
        caveats=KnownClasses("toy", {"a": ("tabby", "tiger cat", "lynx", "cougar"), "b": ()}),
    )
    return dataclasses.replace(made, **changes)


def evaluated(checkpoint: Path, detectors: Any, **options: Any) -> oodbench.Results:
    """An evaluation on weights of NETWORK."""
    given: dict[str, Any] = {"benchmark": benchmark(), "recipe_options": OPTIONS, "hardware": CPU}
    return oodbench.evaluate(checkpoint=checkpoint, detectors=detectors, **{**given, **options})
