"""Mixup: cross-entropy with soft labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from oodbench.detectors.ce import CrossEntropy
from oodbench.detectors.mixup import Mixup, MixupRecipe
from tests.helpers.methods import batch, untrained


def test_mixup_of_nothing_is_cross_entropy() -> None:
    mixup = untrained(Mixup, MixupRecipe(alpha=0.0))
    plain = untrained(CrossEntropy, MixupRecipe())
    plain.load_state_dict(mixup.state_dict())
    images, labels = batch()
    for name, value in plain.loss(images, labels).items():
        torch.testing.assert_close(mixup.loss(images, labels)[name], value)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), alpha=st.sampled_from([0.1, 1.0, 8.0]))
def test_mixup_is_cross_entropy_with_soft_labels(seed: int, alpha: float) -> None:
    method = untrained(Mixup, MixupRecipe(alpha=alpha))
    images, labels = batch()
    torch.manual_seed(seed)
    share, partner = method.draw(len(images))
    assert sorted(partner.tolist()) == list(range(12))
    soft = F.one_hot(labels, 3).float()
    soft = share * soft + (1 - share) * soft[partner]
    mixed = share * images[:, 0] + (1 - share) * images[:, 0][partner]
    expected = F.cross_entropy(method.outputs(mixed)["logits"], soft)
    torch.manual_seed(seed)
    torch.testing.assert_close(method.loss(images, labels)["loss"], expected)


def test_shares_are_beta_distributed() -> None:
    method = untrained(Mixup, MixupRecipe(alpha=0.2))
    torch.manual_seed(0)
    shares = np.array([method.draw(2)[0] for _ in range(2000)])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)
