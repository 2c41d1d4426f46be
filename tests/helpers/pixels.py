"""Drawn images with masks, and a network whose answer at a pixel is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, Contender, DatasetSpec, Hardware, Preprocess
from oodbench.data.samples import OOD, VOID, MaskedSamples, Samples
from oodbench.evaluator import Evaluator
from oodbench.method import Recipe
from oodbench.results.outcome import Results

Array = np.ndarray[Any, np.dtype[Any]]

CPU = Hardware(accelerator="cpu")

GREY = Preprocess(8, (0.5,), (0.25,), mode="L", flip=False)

RECIPE = Recipe()


class Drawn(MaskedSamples):
    """Grey images of any size with masks."""

    def __init__(self, name: str, images: Sequence[Array], masks: Sequence[Array]) -> None:
        super().__init__(name, np.zeros(len(images)), ("ground", "dark", "bright"))
        self.images, self.masks = images, masks

    @property
    def in_memory(self) -> bool:
        return True

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def mask(self, index: int) -> Array:
        return self.masks[index]

    def _digests(self) -> Array:
        return np.array([hash((i.tobytes(), m.tobytes())) % 2**63 for i, m in
                         zip(self.images, self.masks, strict=True)], np.uint64)  # fmt: skip


def drawn(
    name: str,
    sizes: Sequence[tuple[int, int]] = ((6, 9),) * 4,
    values: Sequence[int] = (0, 1, 2, OOD, VOID),
    seed: int = 0,
) -> Drawn:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    masks = [rng.choice(np.array(values, np.uint8), size) for size in sizes]
    return Drawn(name, images, masks)


class Pixelwise(nn.Module):
    """Logits and a temperature that are functions of the pixel alone."""

    def __init__(self, tempered: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([-2.0, 1.5, 3.0]))
        self.tempered = tempered
        self.batches: list[tuple[int, ...]] = []

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        assert not self.training
        self.batches.append(tuple(images.shape))
        logits = images[:, :1] * self.scale.view(1, -1, 1, 1)
        extra = {"temperature": (images[:, 0] / 3).sigmoid()} if self.tempered else {}
        return {"logits": logits, "cosine": logits / 9, **extra}

    def head(self) -> None:
        return None


def spec(name: str, samples: Samples, splits: tuple[str, ...] = ("test",)) -> DatasetSpec:
    return DatasetSpec(name, lambda _: samples, splits)


def toy(near: Samples | None = None, far: Samples | None = None) -> Benchmark:
    known = (0, 1, 2, VOID)
    return Benchmark(
        "toy/segmentation",
        spec("toy", drawn("toy/test", ((6, 9), (6, 9), (5, 4)), known), ("train", "test")),
        (spec("toy-near", near or drawn("toy-near/test", seed=1)),),
        (spec("toy-far", far or drawn("toy-far/test", ((6, 9), (8, 3)), seed=2)),),
        GREY,
        task="segmentation",
    )


def evaluate(detectors: Any, benchmark: Benchmark | None = None, **options: Any) -> Results:
    network = options.pop("model", None) or Pixelwise()
    return oodbench.evaluate(
        network,
        benchmark=benchmark or toy(),
        detectors=detectors,
        hardware=CPU,
        **{"preprocess": "benchmark", **options},
    )


class Strided(nn.Conv2d):
    """A backbone whose maps are smaller than the image."""

    num_features = 5

    def __init__(self, stride: int = 2) -> None:
        super().__init__(1, 5, 3, stride=stride, padding=1)


def by_name(results: Results) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows by detector and OOD set, of which there is one each."""
    found = {(row["detector"], row["ood"]): row for row in results}
    assert len(found) == len(results)
    return found


def run_evaluator(
    detectors: Sequence[str], network: nn.Module, benchmark: Benchmark | None = None
) -> tuple[int, Results]:
    """How many images went through the network, and the rows."""
    evaluator = Evaluator(benchmark or toy(), hardware=CPU)
    rows = evaluator.run(
        Contender(network, preprocess="benchmark"), [oodbench.create_detector(d) for d in detectors]
    )
    return evaluator.forward_passes, rows
