"""A benchmark of two vectors for each sample, which train in a moment."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench import Benchmark, DatasetSpec, Hardware
from oodbench.data.samples import MultimodalSamples
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.networks.modalities import MultimodalEncoders, MultimodalMethod
from oodbench.training.run import Run
from oodbench.training.train import train

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
NAMES = ("left", "right")

JOINT_ALONE: dict[str, Any] = {"epochs": 1, "batch_size": 32, "single": False}


@dataclass(frozen=True)
class Scaled:
    """A vector times a factor; with some noise where it is augmented."""

    factor: float = 1.0
    channels: int = 6

    def __call__(self, sample: np.ndarray) -> Tensor:
        return torch.from_numpy(sample) * self.factor

    def augment(self, sample: np.ndarray, rng: random.Random) -> Tensor:
        return self(sample) + rng.gauss(0, 0.01)


PREPROCESS = MultimodalPreprocess({"left": Scaled(), "right": Scaled(0.5)})


class Vectors(MultimodalSamples):
    """Two noisy vectors that tell the class; with ``shift`` the second tells another one."""

    def __init__(self, name: str, n: int, seed: int, shift: int = 0) -> None:
        labels = np.arange(n) % 3
        super().__init__(name, labels, ("a", "b", "c"), NAMES)
        rng = np.random.default_rng(seed)
        centres = 3 * np.eye(6, dtype=np.float32)
        noise = rng.normal(0, 0.7, (2, n, 6)).astype(np.float32)
        self.left = centres[labels] + noise[0]
        self.right = centres[(labels + shift) % 3 + 3] + noise[1]

    def __getitem__(self, index: int) -> Any:
        return {"left": self.left[index], "right": self.right[index]}

    def _digests(self) -> np.ndarray:
        pairs = np.concatenate([self.left, self.right], axis=1)
        return np.array([hash(pair.tobytes()) % 2**63 for pair in pairs], dtype=np.uint64)


def spec(name: str, n: int, shift: int = 0) -> DatasetSpec:
    """``n`` samples each of ``train`` and ``test``."""
    seeds = {"train": 1, "test": 2}
    return DatasetSpec(
        name, lambda s: Vectors(f"{name}/{s}", n, seeds[s] + 10 * shift, shift), ("train", "test")
    )


def pair() -> Benchmark:
    """The second vector of an OOD sample is one of another class than the first."""
    return Benchmark(
        "toy/pair",
        spec("pair", 240),
        (),
        (spec("pair-mismatch", 60, shift=1),),
        PREPROCESS,
        backbone="toy-pair",
    )


def encoders(channels: Any) -> MultimodalEncoders:
    """One layer for each of the two."""
    parts = {
        name: nn.Sequential(nn.Linear(count, 8), nn.ReLU()) for name, count in channels.items()
    }
    return MultimodalEncoders(parts, dict.fromkeys(channels, 8))


def interrupt(run: Run, kind: type[MultimodalMethod], epoch: int) -> None:
    """Train until an epoch (from 1) begins, as if somebody stopped it there."""
    calls = 0
    original = kind.on_train_epoch_start

    def stop(self: MultimodalMethod) -> None:
        nonlocal calls
        calls += 1
        if calls == epoch:
            raise KeyboardInterrupt
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "on_train_epoch_start", stop)
        with pytest.raises(KeyboardInterrupt):
            train(run, CPU)
