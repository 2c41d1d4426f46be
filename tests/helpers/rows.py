"""A benchmark small enough to follow by hand, and its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, DatasetSpec, Hardware, Preprocess, Results
from oodbench.data.samples import ImageArrays, Samples
from oodbench.errors import MissingDataError
from tests.helpers.problems import stored_row

CPU = Hardware(accelerator="cpu")

PREPROCESS = Preprocess(4, (0.5,), (0.25,), mode="L")


def images(name: str, n: int, level: int, seed: int, classes: int = 2) -> ImageArrays:
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(level, 40, (n, 4, 4)), 0, 255).astype(np.uint8)
    labels = np.arange(n) % classes
    pixels[labels == 1, :2] //= 2
    return ImageArrays(name, pixels, labels, tuple("abc"[:classes]))


def spec(name: str, n: int, level: int, seed: int, **fields: Any) -> DatasetSpec:
    def load(split: str) -> Samples:
        return images(f"{name}/{split}", n, level, seed + (split == "train"))

    return DatasetSpec(name, load, **fields)


def absent(name: str) -> DatasetSpec:
    def load(split: str) -> Samples:
        raise MissingDataError(f"{name}/{split}: not found in /data/{name}. Get it from elsewhere.")

    return DatasetSpec(name, load)


ID = spec("toy", 60, 120, 0, splits=("train", "test"))

NEAR_A, NEAR_B = spec("near-a", 20, 140, 10), spec("near-b", 50, 165, 20)

FAR_A, FAR_B, FAR_C = (
    spec(f"far-{c}", n, 220, ord(c)) for c, n in (("a", 30), ("b", 40), ("c", 9))
)

TOY = Benchmark("toy", ID, (NEAR_A, NEAR_B), (FAR_A, FAR_B, FAR_C), PREPROCESS)


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


def evaluate(benchmark: Benchmark = TOY, detectors: Any = "msp", **options: Any) -> Results:
    network = options.pop("model", None) or model()
    return oodbench.evaluate(
        network,
        benchmark=benchmark,
        detectors=detectors,
        **{"preprocess": "benchmark", "hardware": CPU, **options},
    )


def by_ood(results: Results | list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    rows = list(results)
    found = {row["ood"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def numbered(number: int = 0, **fields: Any) -> dict[str, Any]:
    return stored_row(number=number, **fields)


def scores_of(spec: DatasetSpec) -> Tensor:
    """Energies of a set's test images on the network that is evaluated."""
    samples = spec.load("test")
    x = torch.stack([PREPROCESS(samples[i]) for i in range(len(samples))])
    with torch.no_grad():
        return -model()(x).double().logsumexp(dim=1)


TUNED = {"ood": ["toy-synthetic"], "fingerprint": "f" * 64, "auroc": 0.9, "tried": 4}
