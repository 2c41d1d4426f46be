"""ISH: the gradient of the head's weight, by hand and beside autograd's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from oodbench.detectors.ce import CrossEntropy
from oodbench.detectors.ish import ISH, ISHRecipe, SharpenedLinear, sharpened
from oodbench.method import Recipe
from tests.helpers.methods import batch, untrained


def test_sharpened_by_hand() -> None:
    x = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0, 5.0]], dtype=torch.float64)
    # 2 of 5 are kept: 4 and 3, of a sum of 2, so times exp(2 / 7); 5 and a zero, times exp(1)
    expected = torch.zeros_like(x)
    expected[0, 1], expected[0, 2] = 4 * math.exp(2 / 7), 3 * math.exp(2 / 7)
    expected[1, 4] = 5 * math.e
    torch.testing.assert_close(sharpened(x, 0.5), expected)


@pytest.mark.parametrize(("dim", "p", "kept"), [(512, 0.85, 76), (64, 0.85, 9), (3, 0.85, 1)])
def test_how_many_are_kept(dim: int, p: float, kept: int) -> None:
    x = torch.rand(4, dim, generator=torch.Generator().manual_seed(0)) + 0.1
    assert (sharpened(x, p) > 0).sum(dim=1).tolist() == [kept] * 4


def test_what_would_not_be_finite() -> None:
    x = torch.tensor([[0.0] * 10, [1.0] * 10, [1e-30] * 10], dtype=torch.float32)
    assert sharpened(x, 0.85).isfinite().all()
    many = torch.ones(1, 2048)
    assert sharpened(many, 0.999).isfinite().all()


def test_gradients() -> None:
    """Of the weight as defined; of bias and features as cross-entropy's."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 20, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(4, 20, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.arange(6) % 4
    logits = SharpenedLinear.apply(x, weight, bias, 0.85)
    torch.testing.assert_close(logits, F.linear(x, weight, bias))
    own = torch.autograd.grad(F.cross_entropy(logits, labels), [x, weight, bias])
    plain = F.cross_entropy(F.linear(x, weight, bias), labels)
    of_x, _, of_bias = torch.autograd.grad(plain, [x, weight, bias])
    torch.testing.assert_close(own[0], of_x)
    torch.testing.assert_close(own[2], of_bias)
    delta = (logits.detach().softmax(dim=1) - F.one_hot(labels, 4)) / 6
    expected = torch.zeros(4, 20, dtype=torch.float64)
    for i in range(6):
        values = x[i].detach()
        kept = values.abs().argsort(descending=True)[:3]  # floor of 20 x 0.15
        factor = torch.exp(values.sum() / values[kept].abs().sum())
        for j in kept:
            expected[:, j] += delta[i] * values[j].abs() * factor
    torch.testing.assert_close(own[1], expected)


def test_half_precision() -> None:
    method = untrained(ISH, ISHRecipe())
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.loss(*batch())["loss"]
    loss.backward()
    for parameter in method.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


def test_the_forward_pass_is_cross_entropys() -> None:
    method, plain = untrained(ISH, ISHRecipe()).eval(), untrained(CrossEntropy, Recipe()).eval()
    plain.load_state_dict(method.state_dict())
    images, labels = batch()
    for name, value in plain.loss(images, labels).items():
        torch.testing.assert_close(method.loss(images, labels)[name], value)


def test_the_head_decays_by_its_own_weight() -> None:
    method = untrained(ISH, ISHRecipe(head_weight_decay=0.25))
    others, head = method.parameter_groups()
    assert [id(p) for p in head["params"]] == [id(p) for p in method.linear.parameters()]
    assert head["weight_decay"] == 0.25
    assert len(others["params"]) + 2 == len(list(method.parameters()))
