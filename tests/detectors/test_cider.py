"""CIDER: its loss as a loop over samples, its prototypes and their directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodbench.detectors.cider import CIDER, CIDERLoss, CIDERRecipe, dispersion, move_prototypes
from oodbench.errors import OptionError
from tests.helpers.methods import batch, unit, untrained


def test_cider_follows_its_prototypes_faster_on_cifar100() -> None:
    momenta = [
        CIDER.get_recipe(CIDER.default_recipe(name)).proto_momentum  # type: ignore[attr-defined]
        for name in ("cifar10", "cifar100")
    ]
    assert momenta == [0.95, 0.5]


def cider_reference(
    prototypes: Tensor,
    features: Tensor,
    labels: Tensor,
    momentum: float,
    temperature: float,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """The definition, sample by sample."""
    mu = list(prototypes)
    z = torch.cat(list(features.unbind(dim=1)))
    y = labels.tolist() * features.shape[1]
    for sample, c in zip(z, y, strict=True):
        step = momentum * mu[c] + (1 - momentum) * sample
        mu[c] = step / step.norm()
    compactness = z.new_zeros(())
    for sample, c in zip(z, y, strict=True):
        logits = torch.stack([sample @ p.detach() / temperature for p in mu])
        compactness = compactness - (logits[c] - logits.exp().sum().log()) / len(z)
    apart = z.new_zeros(())
    for i, p in enumerate(mu):
        others = [torch.exp(p @ q / temperature) for j, q in enumerate(mu) if j != i]
        apart = apart + torch.stack(others).mean().log() / len(mu)
    return apart + weight * compactness, torch.stack(mu)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 6),
    size=st.integers(1, 14),
    views=st.integers(1, 3),
    momentum=st.sampled_from([0.0, 0.5, 0.95]),
    weight=st.sampled_from([0.0, 2.0]),
)
def test_cider_equals_a_loop_over_samples(
    seed: int, classes: int, size: int, views: int, momentum: float, weight: float
) -> None:
    torch.manual_seed(seed)
    loss = CIDERLoss(classes, 16, momentum, 0.2, weight).double()
    for call in range(2):
        z = unit(size, views, 16, seed=seed + call).requires_grad_()
        y = torch.randint(0, classes, (size,))
        expected, moved = cider_reference(loss.prototypes, z, y, momentum, 0.2, weight)
        found = loss(z, y)["loss"]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(loss.prototypes, moved.detach())
        torch.testing.assert_close(torch.autograd.grad(found, z), torch.autograd.grad(expected, z))


def test_prototype_by_hand() -> None:
    # class 0 meets (0, 1) and then (-1, 0) half way; class 1 is absent and stays
    z = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    moved = move_prototypes(torch.eye(2, dtype=torch.float64), z, torch.tensor([0, 0]), 0.5)
    half = np.array([1, 1]) / np.sqrt(2)
    step = 0.5 * half + 0.5 * np.array([-1, 0])
    np.testing.assert_allclose(moved[0], step / np.linalg.norm(step), atol=1e-12)
    np.testing.assert_array_equal(moved[1], [0.0, 1.0])


def test_dispersion_by_hand_and_its_direction() -> None:
    square = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    # of the three others two are at a right angle and one is opposite
    expected = np.log((2 * np.exp(0) + np.exp(-10)) / 3)
    assert dispersion(square, 0.1).item() == pytest.approx(expected)
    assert dispersion(unit(4, 2), 0.1) > expected


def test_cider_reaches_the_embeddings_through_the_prototypes_alone() -> None:
    z = unit(8, 2, 16).requires_grad_()
    loss = CIDERLoss(4, 16).double()
    (gradient,) = torch.autograd.grad(loss(z, torch.arange(8) % 4)["dispersion"], z)
    assert gradient.norm() > 1e-6
    assert not loss.prototypes.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_cider_in_any_precision(dtype: torch.dtype) -> None:
    for size in (1, 33):
        loss = CIDERLoss(10, 128, temperature=1e-3)
        z = unit(size, 2, 128, dtype=torch.float32).to(dtype).requires_grad_()
        found = loss(z, torch.zeros(size, dtype=torch.int64))
        found["loss"].backward()
        assert found["loss"].isfinite()
        assert z.grad is not None
        assert z.grad.isfinite().all()
        torch.testing.assert_close(loss.prototypes.norm(dim=1), torch.ones(10))


def test_evaluation_does_not_move_prototypes() -> None:
    loss = CIDERLoss(2, 8).double().eval()
    before = loss.prototypes.clone()
    loss(unit(4, 2, 8), torch.tensor([0, 1, 0, 1]))
    assert torch.equal(loss.prototypes, before)


def test_cider_outputs_fit_its_head() -> None:
    method = untrained(CIDER, CIDERRecipe(embedding_dim=32))
    outputs = method.outputs(batch()[0][:, 0])
    torch.testing.assert_close(outputs["features"].norm(dim=1), torch.ones(12))
    torch.testing.assert_close(
        outputs["logits"], outputs["features"] @ method.cider.prototypes.T / 0.1
    )
    torch.testing.assert_close(outputs["logits"], method.head()(outputs["features"]))
    assert outputs["penultimate"].shape == (12, 16)


def test_bad_arguments_of_cider_are_named() -> None:
    for options, word in (
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 2, "feature_dim": 0}, "feature_dim"),
        ({"num_classes": 2, "temperature": 0.0}, "temperature"),
        ({"num_classes": 2, "proto_momentum": 1.5}, "proto_momentum"),
    ):
        with pytest.raises(OptionError, match=word):
            CIDERLoss(**options)  # type: ignore[arg-type]
    loss = CIDERLoss(2, 8)
    with pytest.raises(ValueError, match=r"\[B, V, 8\]"):
        loss(torch.zeros(3, 8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="3 labels"):
        loss(torch.zeros(3, 2, 8), torch.zeros(2, dtype=torch.int64))
