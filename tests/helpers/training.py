"""A benchmark that trains in a moment, its runs, their logs, and runs that are interrupted."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from oodbench import Benchmark, DatasetSpec, Hardware, Method, Preprocess, Recipe
from oodbench.data.augmentation import SimCLR
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Augmentation
from oodbench.errors import DataError
from oodbench.training.run import Run, plan
from oodbench.training.train import train

CPU = Hardware(accelerator="cpu")

PREPROCESS = Preprocess(8, (0.3,), (0.4,), mode="L", flip=False)


class Breaks(ImageArrays):
    """Breaks once, when the images have been read a number of times."""

    breaks_after: int | None = None
    reads = 0

    def __getitem__(self, index: int) -> Image.Image:
        self.reads += 1
        if self.breaks_after is not None and self.reads > self.breaks_after:
            self.breaks_after = None
            raise DataError("tiny/train: the disk was pulled out.")
        return super().__getitem__(index)


def images(n: int = 50, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Noise around a pattern of the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    patterns = rng.uniform(60, 200, (classes, 8, 8))
    noisy = patterns[labels] + rng.normal(0, 25, (n, 8, 8))
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


def tiny(
    n: int = 50,
    *,
    change: Callable[[np.ndarray, np.ndarray], Any] | None = None,
    classes: tuple[str, ...] = ("a", "b", "c"),
    **fields: Any,
) -> tuple[Benchmark, Breaks]:
    """A benchmark of a few 8x8 images, and its training samples."""
    pixels, labels = images(n)
    if change is not None:
        change(pixels, labels)
    samples = Breaks("tiny/train", pixels, labels, classes)
    spec = DatasetSpec("tiny", lambda split: samples, ("train", "test"))
    made = Benchmark("tiny", spec, (), (), PREPROCESS, backbone="digits-cnn")
    return dataclasses.replace(made, **fields), samples


SHORT = {"epochs": 3, "batch_size": 16}


def short(benchmark: Benchmark, method: str = "ce", seed: int = 0, **overrides: Any) -> Run:
    recipe = "quick" if method in ("ce", "palm") else None
    return plan(benchmark, method, recipe=recipe, seed=seed, overrides={**SHORT, **overrides})


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    different = [name for name in a if not a[name].equal(b[name])]
    assert not different


def interrupted(benchmark: Benchmark, samples: Breaks) -> Run:
    """A run with a checkpoint after its first epoch."""
    run = short(benchmark)
    samples.reads, samples.breaks_after = 0, 70
    with pytest.raises(DataError):
        train(run, CPU)
    assert (run.folder / "last.ckpt").is_file()
    return run


class Spy(Method):
    """Cross-entropy that notes what it sees, with dropout and augmentation."""

    recipes: ClassVar[Mapping[str, Recipe]] = {"quick": Recipe(lr=0.05, warmup_epochs=1)}
    views: ClassVar[int] = 2
    seen: ClassVar[list[tuple[int, Tensor, Tensor]]] = []
    rates: ClassVar[list[float]] = []
    noise: ClassVar[list[float]] = []
    fits: ClassVar[int] = 0

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(int(backbone.num_features), num_classes)  # type: ignore[arg-type]

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        return SimCLR(preprocess, min_scale=0.3)

    def on_fit_start(self) -> None:
        type(self).fits += 1

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        assert self.training
        self.seen.append((self.trainer.current_epoch, images.detach().clone(), labels.clone()))
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.noise.append(float(np.random.random()))  # noqa: NPY002
        logits = self.linear(self.dropout(self.backbone(images[:, 0])))
        return {"loss": nn.functional.cross_entropy(logits, labels)}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        return {"features": features, "logits": self.linear(features)}


def read_log(run: Run) -> list[dict[str, str]]:
    """The rows of its log, one for each epoch."""
    with (run.folder / "csv" / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))
