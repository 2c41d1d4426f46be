"""LogitNorm: the loss by hand, at any scale, in any precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodbench.detectors.logitnorm import LogitNorm, LogitNormRecipe, logitnorm_loss
from tests.helpers.methods import batch, untrained


def test_logitnorm_by_hand() -> None:
    # the logits (3, 4) of norm 5 become (0.6, 0.8) / 0.5 = (1.2, 1.6)
    loss = logitnorm_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([1]), tau=0.5)
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-0.4)), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
def test_logitnorm_does_not_see_the_scale(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(7, 4, generator=generator), torch.arange(7) % 4
    torch.testing.assert_close(
        logitnorm_loss(scale * logits, labels), logitnorm_loss(logits, labels)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logitnorm_is_finite_at_zero_and_far_away(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 0.0], [6e4, -6e4]], dtype=dtype, requires_grad=True)
    loss = logitnorm_loss(logits, torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_logitnorm_outputs_plain_logits() -> None:
    method = untrained(LogitNorm, LogitNormRecipe())
    outputs = method.outputs(batch()[0][:, 0])
    torch.testing.assert_close(outputs["logits"], method.head()(outputs["features"]))
