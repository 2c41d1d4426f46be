"""Classifiers that normalise images themselves are given plain ones, and it is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench.checks import sanity
from tests.helpers.images import FAST

MEAN, STD = 0.3, 0.4


class Net(nn.Module):
    """For grey images of 8 x 8, after whatever is done to them first."""

    def __init__(self, first: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = first
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 6)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.first(x))


class Normalize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([MEAN]).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / STD


class Wrapped(nn.Module):
    """``outputs`` and ``head`` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(lambda x: (x - MEAN) / STD)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(images)}

    def head(self) -> None:
        return None


@pytest.fixture(autouse=True)
def _untrained_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks here learned nothing; what is said of their accuracy has its own tests."""
    monkeypatch.setattr(sanity, "of_outputs", lambda *_: iter(()))


def figures(model: nn.Module, **options: object) -> tuple[list[float], list[str]]:
    options = options if "preprocess" in options else {"input_size": 8, **options}
    found = oodbench.evaluate(model, "digits", "msp", hardware=FAST, **options)  # type: ignore[arg-type]
    return [row["auroc"] for row in found], found.warnings


NORMALISING = {
    "code": lambda: Net(lambda x: (x - MEAN) / STD),
    "module": lambda: Net(Normalize()),
    "of bytes": lambda: Net(lambda x: (x - 255 * MEAN) / (255 * STD)),
    "sequential": lambda: nn.Sequential(Normalize(), *Net().net),
    "scripted": lambda: torch.jit.trace(nn.Sequential(Normalize(), Net()), torch.rand(2, 1, 8, 8)),
    "wrapped": Wrapped,
}


@pytest.mark.parametrize("make", NORMALISING.values(), ids=list(NORMALISING))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_such_a_network_is_given_plain_pixels(make: Callable[[], nn.Module]) -> None:
    plain = dataclasses.replace(
        oodbench.get_benchmark("digits").preprocess, mean=(MEAN,), std=(STD,)
    )  # type: ignore[type-var]
    expected, none = figures(Net(), preprocess=plain)
    assert none == []
    found, warnings = figures(make())
    (warning,) = [text for text in warnings if "weights" not in text]  # TorchScript's are unknown
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert "normalises images itself" in warning


def test_what_a_caller_says_is_done_and_doubted() -> None:
    model = NORMALISING["code"]()
    _, (warning,) = figures(model, mean=[0.5], std=[0.5])
    assert "normalised twice" in warning
    assert figures(model, mean=[0.0], std=[1.0])[1] == []


def test_a_network_that_does_not_is_given_what_the_benchmark_says() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), *Net().net)
    for network in (Net(), model, nn.Sequential(nn.Flatten(), nn.Linear(64, 6))):
        assert figures(network, preprocess="benchmark")[1] == []
