"""MixOE: pasted rectangles pixel by pixel, and the loss of a batch beside its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from oodbench.detectors.mixoe import MixOE, MixOERecipe, pasted
from oodbench.errors import OptionError
from tests.helpers.methods import untrained


def test_pasted_by_hand() -> None:
    x, outliers = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    mixed, share = pasted(x, outliers, 0.75, 4, 4)  # half of each side: 4 x 4 around (4, 4)
    assert mixed[0, 0, 2:6, 2:6].min() == 1
    assert mixed.sum() == 16
    assert share == 0.75
    assert x.sum() == 0
    mixed, share = pasted(x, outliers, 0.75, 0, 7)  # the corner: what lies outside is cut off
    assert mixed[0, 0, :2, 5:].min() == 1
    assert mixed.sum() == 6
    assert share == 1 - 6 / 64
    assert pasted(x, outliers, 1.0, 3, 3)[1] == 1.0


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_of_a_batch(mix: Any, seed: int) -> None:
    method = untrained(MixOE, MixOERecipe(mix=mix, lambda_oe=2.0, alpha=1.0)).double().eval()
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 2, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.arange(6) % 3
    torch.manual_seed(seed)
    mixed, share = method.mixed(images[:, 0], images[:, 1])
    total = 0.0
    for row, y in zip(method.linear(method.backbone(mixed)).tolist(), labels.tolist(), strict=True):
        norm = math.log(sum(math.exp(value) for value in row))
        for c, value in enumerate(row):
            soft = share * (c == y) + (1 - share) / len(row)
            total -= soft * (value - norm)
    plain = F.cross_entropy(method.linear(method.backbone(images[:, 0])), labels).item()
    torch.manual_seed(seed)
    found = method.loss(images, labels)["loss"].item()
    assert found == pytest.approx(plain + 2 * total / 6, abs=1e-9)
    if mix == "mixup":
        torch.testing.assert_close(mixed, share * images[:, 0] + (1 - share) * images[:, 1])


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(OptionError, match="alpha"):
        MixOERecipe(alpha=0.0)
    with pytest.raises(OptionError, match="cutmix"):
        MixOERecipe(mix="paste")  # type: ignore[arg-type]
