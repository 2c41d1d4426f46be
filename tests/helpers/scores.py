"""What scores of a drawn problem are compared with, and small networks that are scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import oodbench
from oodbench import Outputs
from tests.helpers.problems import Problem


def scores(name: str, p: Problem, /, **options: Any) -> np.ndarray:
    """What the detector gives the test outputs."""
    return oodbench.create_detector(name, **options).fit(p.train).score(p.test).numpy()


def same(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    """Equal up to rounding, and not because all is the same."""
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def head_of(p: Problem) -> tuple[np.ndarray, np.ndarray]:
    return p.head.weight.numpy(), p.head.bias.numpy()


def unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


class Network(nn.Module):
    """Stages, pooled, before a linear layer; in evaluation mode, in double precision."""

    def __init__(self, *stages: nn.Module, width: int, classes: int = 4) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(width, classes)
        self.double().eval()

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.stages(images).flatten(2).mean(dim=2)
        return {"features": features, "logits": self.linear(features)}

    def head(self) -> nn.Linear:
        return self.linear


def small_cnn() -> Network:
    return Network(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        width=8,
    )


def images(n: int = 10, seed: int = 0, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64)


def confident(gaps: Tensor, classes: int = 10) -> Outputs:
    """The first of the logits leads all others by these gaps."""
    logits = torch.zeros(len(gaps), classes, dtype=gaps.dtype)
    logits[:, 0] = gaps
    return Outputs(logits=logits, labels=torch.arange(len(gaps)) % 2)
