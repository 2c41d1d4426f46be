"""T2FNorm: directions in training, lengths afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.detectors.t2fnorm import T2FNorm, T2FNormRecipe
from tests.helpers.methods import batch, untrained


class Scaled(nn.Module):
    """Another network's features, longer or shorter."""

    num_features = 2

    def __init__(self, features: Tensor, factor: float = 1.0) -> None:
        super().__init__()
        self.fixed, self.factor = features, factor

    def forward(self, _: Tensor) -> Tensor:
        return self.fixed * self.factor


def by_hand(factor: float = 1.0, tau: float = 0.5) -> T2FNorm:
    method = T2FNorm(Scaled(torch.tensor([[3.0, 4.0]]), factor), 2, T2FNormRecipe(tau=tau))
    method.linear.weight.data = torch.eye(2)
    method.linear.bias.data = torch.zeros(2)
    return method


def test_by_hand() -> None:
    # features (3, 4) of norm 5 become (0.6, 0.8) / 0.5 = (1.2, 1.6) in training
    loss = by_hand().loss(torch.zeros(1, 1, 1, 2, 2), torch.tensor([1]))["loss"]
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-0.4)), abs=1e-6)
    outputs = by_hand().outputs(torch.zeros(1, 1, 2, 2))  # and (3, 4) / 0.5 afterwards
    assert outputs["logits"].tolist() == [[6.0, 8.0]]


def test_training_does_not_see_lengths_but_what_is_asked_does() -> None:
    images, labels = torch.zeros(1, 1, 1, 2, 2), torch.tensor([0])
    losses = [by_hand(factor).loss(images, labels)["loss"] for factor in (0.01, 1.0, 100.0)]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[1], losses[2])
    first, second = (by_hand(factor).outputs(images[:, 0])["logits"] for factor in (1.0, 2.0))
    torch.testing.assert_close(second, 2 * first)


def test_outputs_follow_from_the_head() -> None:
    method = untrained(T2FNorm, T2FNormRecipe(tau=0.1))
    images, labels = batch()
    outputs = method.outputs(images[:, 0])
    torch.testing.assert_close(outputs["features"], method.backbone(images[:, 0]) / 0.1)
    torch.testing.assert_close(outputs["logits"], method.head()(outputs["features"]))
    unit = F.normalize(method.backbone(images[:, 0]), dim=1) / 0.1
    expected = F.cross_entropy(method.head()(unit), labels)
    torch.testing.assert_close(method.loss(images, labels)["loss"], expected)
