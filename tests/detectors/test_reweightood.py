"""ReweightOOD: the loss pair by pair, its gradient, and batches without a pair of a kind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oodbench.detectors.reweightood import ReweightOODRecipe, reweighted_loss
from oodbench.errors import OptionError
from tests.helpers.methods import unit

RECIPE = ReweightOODRecipe()


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def slow(z: Tensor, labels: Tensor, fixed: Tensor) -> Tensor:
    """By the definition; weights are of ``fixed``, through which no gradient flows."""
    near, far = [], []
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            s, weighing = z[i] @ z[j], float(fixed[i] @ fixed[j])
            if labels[i] == labels[j]:
                near.append(torch.exp(-sigmoid(1 - 2 * weighing) * s / 0.1))
            else:
                far.append(torch.exp(sigmoid(5 * weighing - 4) * s / 0.1))
    inner = sum(torch.stack(part).sum().log() for part in (near, far))
    assert isinstance(inner, Tensor)
    return inner if inner > 0 else inner.exp() - 1


@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradient_equal_their_definition(seed: int) -> None:
    z, labels = unit(9, 6, seed=seed).requires_grad_(), torch.arange(9) % 3
    found, expected = reweighted_loss(z, labels, RECIPE), slow(z, labels, z.detach())
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)


def test_batches_without_a_kind_of_pair() -> None:
    for labels in (torch.zeros(4, dtype=torch.int64), torch.arange(4)):
        z = unit(4, 3).requires_grad_()
        loss = reweighted_loss(z, labels, RECIPE)
        loss.backward()
        assert loss.isfinite()
        assert z.grad is not None
        assert z.grad.isfinite().all()


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(OptionError, match="temperature"):
        ReweightOODRecipe(temperature=0.0)
