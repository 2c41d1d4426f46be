"""A problem whose best values are known: OOD images are brighter than ID images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from oodbench import Benchmark, DatasetSpec, Detector, Hardware, Networks, Outputs, Preprocess
from oodbench.data.samples import ImageArrays, Samples, Subset
from oodbench.detector import learned
from oodbench.errors import OptionError
from oodbench.tune import tune
from oodbench.tuning import Tuning

CPU = Hardware(accelerator="cpu")

PREPROCESS = Preprocess(4, (0.5,), (0.25,), mode="L")


class Counted(ImageArrays):
    """Counts the images that are read."""

    read = 0

    def __getitem__(self, index: int) -> Image.Image:
        Counted.read += 1
        return super().__getitem__(index)


def images(name: str, n: int, level: int, seed: int) -> Counted:
    """Grey images of two classes, about as bright as ``level``."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(level, 20, (n, 4, 4)), 0, 255).astype(np.uint8)
    return Counted(name, pixels, np.arange(n) % 2, ("a", "b"))


def untouchable(split: str) -> Samples:
    """A split that no search may read."""
    raise AssertionError(f"the split {split} was read")


def load_id(split: str) -> Samples:
    """``train`` and ``val`` of images that differ."""
    if split == "test":
        untouchable(split)
    return images(f"toy/{split}", 60 if split == "train" else 30, 100, len(split))


def load_overlapping(split: str) -> Samples:
    """``val`` is a part of ``train``, as for CIFAR."""
    train = load_id("train")
    return train if split == "train" else Subset(train, np.arange(0, 60, 6), "toy/val")


def ood(name: str, level: int, seed: int = 9) -> DatasetSpec:
    """An OOD set of which ``val`` alone may be read."""

    def load(split: str) -> Samples:
        assert split == "val"
        return images(f"{name}/{split}", 20, level, seed)

    return DatasetSpec(name, load, ("train", "val", "test"))


TEST_SETS = (DatasetSpec("tested", untouchable),)

TOY = Benchmark(
    "toy",
    DatasetSpec("toy", load_id, ("train", "val", "test")),
    TEST_SETS,
    (),
    PREPROCESS,
    validation=(ood("bright", 160),),
)

OVERLAPPING = dataclasses.replace(TOY, id=dataclasses.replace(TOY.id, load=load_overlapping))


def model() -> nn.Module:
    """A network whose features are the pixels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


@dataclass
class Brightness(Detector):
    """Gain times the mean of the features. Higher = more OOD where the gain is positive."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    grid: ClassVar = {"gain": (-1.0, 0.0, 2.0, 3.0)}

    gain: float = 1.0
    offset: float = 0.0

    def score(self, outputs: Outputs) -> Tensor:
        return self.gain * outputs.features.mean(dim=1) + self.offset


@dataclass
class Distance(Detector):
    """Distance to the training mean, to a power."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    grid: ClassVar = {"power": (-1.0, 1.0), "at_most": (1000, 10)}
    fits: ClassVar[list[Outputs]] = []
    scored: ClassVar[list[Outputs]] = []

    power: float = -1.0
    at_most: int = 1000
    fit_split: Literal["train", "val"] = "train"
    mean_: Tensor = learned()

    def fit(self, train: Outputs) -> Self:
        Distance.fits.append(train)
        if len(train) > self.at_most:
            raise OptionError(f"distance: at_most={self.at_most}, not {len(train)}.")
        self.mean_ = train.features.mean(dim=0)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        Distance.scored.append(outputs)
        return (outputs.features - self.mean_).norm(dim=1) ** self.power


def search(benchmark: Benchmark = TOY, detectors: Any = None, **options: Any) -> Tuning:
    """What is chosen for ``Brightness``, or for other detectors, on TOY."""
    networks = options.pop("networks", None) or Networks(
        model(), preprocess="benchmark", **options.pop("of", {})
    )
    detectors = Brightness() if detectors is None else detectors
    return tune(benchmark, detectors, networks, hardware=CPU, **options)


def only(tuning: Tuning) -> dict[str, Any]:
    """The values that were chosen for a search's one detector."""
    (choice,) = tuning.choices
    return choice.best.values
