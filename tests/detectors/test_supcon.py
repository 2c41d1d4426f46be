"""SupCon: its loss as a double loop, and a classifier that leaves the backbone alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from oodbench.detectors.supcon import SupCon, SupConRecipe, supcon_loss
from tests.helpers.methods import batch, unit, untrained


def supcon_reference(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The formula, pair by pair."""
    z = torch.cat(list(features.unbind(dim=1)))
    y = labels.tolist() * features.shape[1]
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if y[p] == y[i]]
        if not positives:
            continue
        whole = torch.stack([torch.exp(z[i] @ z[a] / temperature) for a in others]).sum()
        logs = [torch.log(torch.exp(z[i] @ z[p] / temperature) / whole) for p in positives]
        terms.append(-torch.stack(logs).mean())
    return torch.stack(terms).mean()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(1, 5),
    size=st.integers(1, 8),
    views=st.integers(2, 3),
    temperature=st.sampled_from([0.1, 0.5]),
)
def test_supcon_equals_the_double_loop(
    seed: int, classes: int, size: int, views: int, temperature: float
) -> None:
    z = unit(size, views, 8, seed=seed).requires_grad_()
    y = torch.randint(0, classes, (size,), generator=torch.Generator().manual_seed(seed))
    found, expected = supcon_loss(z, y, temperature), supcon_reference(z, y, temperature)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, z), torch.autograd.grad(expected, z))


@pytest.mark.parametrize("labels", [[0], [0, 1, 2], [0, 0, 1]])
def test_supcon_of_a_class_that_occurs_once(labels: list[int]) -> None:
    z = unit(len(labels), 1, 8, dtype=torch.float32).requires_grad_()
    loss = supcon_loss(z, torch.tensor(labels), 1e-3)
    loss.backward()
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert (loss > 0) == (len(set(labels)) < len(labels))


def test_supcon_says_what_it_wants() -> None:
    with pytest.raises(ValueError, match=r"\[B, V, D\]"):
        supcon_loss(torch.zeros(3, 8), torch.zeros(3))


def test_classifier_of_supcon_leaves_the_backbone_alone() -> None:
    method = untrained(SupCon, SupConRecipe())
    method._trainer = SimpleNamespace(world_size=1)
    losses = method.loss(*batch(views=2))
    losses["classifier"].backward(retain_graph=True)
    assert all(p.grad is None for p in method.backbone.parameters())
    assert method.linear.weight.grad.norm() > 0
    losses["contrast"].backward()
    assert all(p.grad is not None for p in method.backbone.parameters())


def test_labels_of_supcon_belong_to_their_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the label drawn in the image, a classifier that reads it is right on every view."""
    method = untrained(SupCon, SupConRecipe())
    method._trainer = SimpleNamespace(world_size=1)
    images, labels = batch(views=2)
    images[:] = labels[:, None, None, None, None]
    monkeypatch.setattr(
        method.backbone, "forward", lambda x: F.one_hot(x[:, 0, 0, 0].long(), 16).float()
    )
    with torch.no_grad():
        method.linear.weight.copy_(torch.eye(3, 16))
        method.linear.bias.zero_()
    losses = method.loss(images, labels)
    assert losses["accuracy"] == 1
    # embeddings are alike within a class, and so are the losses of all anchors
    z = F.normalize(method.projection(F.one_hot(labels, 16).float()), dim=1)
    torch.testing.assert_close(
        losses["contrast"], supcon_loss(torch.stack([z, z], dim=1), labels, 0.1)
    )
