"""RegMixup: half of cross-entropy on images, half on mixtures of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from oodbench.detectors.ce import CrossEntropy
from oodbench.detectors.regmixup import RegMixup, RegMixupRecipe
from tests.helpers.methods import batch, untrained


def test_without_mixing_it_is_cross_entropy() -> None:
    method = untrained(RegMixup, RegMixupRecipe(alpha=0.0)).eval()
    plain = untrained(CrossEntropy, RegMixupRecipe()).eval()
    plain.load_state_dict(method.state_dict())
    images, labels = batch()
    for name, value in plain.loss(images, labels).items():
        torch.testing.assert_close(method.loss(images, labels)[name], value)


@pytest.mark.parametrize("alpha", [0.2, 20.0])
def test_by_soft_labels(alpha: float) -> None:
    method = untrained(RegMixup, RegMixupRecipe(alpha=alpha)).eval()
    images, labels = batch()
    torch.manual_seed(3)
    share, partner = method.draw(len(images))
    x, hard = images[:, 0], F.one_hot(labels, 3).float()
    mixed = share * x + (1 - share) * x[partner]
    soft = share * hard + (1 - share) * hard[partner]
    plain, of_mixed = (method.outputs(one)["logits"] for one in (x, mixed))
    expected = (F.cross_entropy(plain, labels) + F.cross_entropy(of_mixed, soft)) / 2
    torch.manual_seed(3)
    torch.testing.assert_close(method.loss(images, labels)["loss"], expected)


def test_images_and_mixtures_are_one_batch() -> None:
    """Batch normalisation sees both at once."""
    method = untrained(RegMixup, RegMixupRecipe())
    sizes: list[int] = []
    method.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    method.loss(*batch(12))
    assert sizes == [24]


def test_most_mixtures_are_near_the_middle() -> None:
    method = untrained(RegMixup, RegMixupRecipe())
    torch.manual_seed(0)
    shares = torch.tensor([method.draw(2)[0] for _ in range(2000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * 20 + 1)), rel=0.1)
