"""Outlier exposure: both losses beside loops over samples, and which image is an outlier."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detectors.oe import (
    EnergyOERecipe,
    EnergyOutlierExposure,
    OERecipe,
    OutlierExposure,
    energy_bounds,
    uniform_cross_entropy,
)
from oodbench.errors import OptionError
from tests.helpers.methods import untrained


def logits(n: int, seed: int, classes: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 5 * torch.randn(n, classes, generator=generator, dtype=torch.float64)


def slow_uniform(rows: Tensor) -> float:
    """-1/C sum_c log p_c of each row, by hand."""
    total = 0.0
    for z in rows.tolist():
        norm = math.log(sum(math.exp(value) for value in z))
        total += -sum(value - norm for value in z) / len(z)
    return total / len(rows)


def slow_bounds(of_id: Tensor, outliers: Tensor, m_in: float, m_out: float) -> float:
    def energy(z: list[float]) -> float:
        return -math.log(sum(math.exp(value) for value in z))

    above = [max(0.0, energy(z) - m_in) ** 2 for z in of_id.tolist()]
    below = [max(0.0, m_out - energy(z)) ** 2 for z in outliers.tolist()]
    return sum(above) / len(above) + sum(below) / len(below)


def test_by_hand() -> None:
    # a uniform prediction costs log C; with p = (3/4, 1/4) it is -(log 3/4 + log 1/4) / 2
    assert uniform_cross_entropy(torch.zeros(2, 5)).item() == pytest.approx(math.log(5))
    skew = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert uniform_cross_entropy(skew).item() == pytest.approx(expected, abs=1e-12)
    # energies of zeros are -log 2: 1 above the bound of ID, 2 below that of outliers
    zeros = torch.zeros(3, 2, dtype=torch.float64)
    energy = -math.log(2.0)
    assert energy_bounds(zeros, zeros, energy - 1, energy + 2).item() == pytest.approx(5, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_terms_equal_their_definition(seed: int) -> None:
    of_id, outliers = logits(7, seed), logits(14, seed + 100)
    assert uniform_cross_entropy(outliers).item() == pytest.approx(slow_uniform(outliers), abs=1e-9)
    found = energy_bounds(of_id, outliers, -6.0, -4.0).item()
    assert found == pytest.approx(slow_bounds(of_id, outliers, -6.0, -4.0), abs=1e-9)


@pytest.mark.parametrize("cls", [OutlierExposure, EnergyOutlierExposure])
def test_the_loss_of_a_batch(cls: type[OutlierExposure]) -> None:
    recipe = OERecipe(lambda_oe=0.3) if cls is OutlierExposure else EnergyOERecipe(lambda_oe=0.3)
    method = untrained(cls, recipe).double().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.arange(6) % 3
    of_id = method.linear(method.backbone(images[:, 0]))
    outliers = torch.cat([method.linear(method.backbone(images[i, 1:])) for i in range(6)])
    if cls is OutlierExposure:
        extra = slow_uniform(outliers)
    else:
        extra = slow_bounds(of_id, outliers, -23.0, -5.0)
    expected = F.cross_entropy(of_id, labels).item() + 0.3 * extra
    assert method.loss(images, labels)["loss"].item() == pytest.approx(expected, abs=1e-9)


def test_without_outliers() -> None:
    method = untrained(OutlierExposure, OERecipe())
    with pytest.raises(OptionError, match="ID images alone"):
        method.loss(torch.zeros(3, 1, 1, 8, 8), torch.arange(3))


@pytest.mark.parametrize(
    ("recipe", "bad"),
    [
        (OERecipe, {"lambda_oe": -1.0}),
        (OERecipe, {"outliers_per_image": 0}),
        (EnergyOERecipe, {"m_in": -4.0}),
    ],
)
def test_impossible_recipes_are_refused(recipe: type[OERecipe], bad: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(bad))):
        recipe(**bad)  # type: ignore[arg-type]
