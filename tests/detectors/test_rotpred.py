"""RotPred: the turns of images, the loss and the score beside loops over images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oodbench import Outputs
from oodbench.detectors.rotpred import RotationScore, RotPred, turned
from oodbench.method import Recipe
from tests.helpers.methods import batch, untrained


def minus_log(z: Tensor, k: int) -> float:
    values = z.tolist()
    return math.log(sum(math.exp(v - values[k]) for v in values))


def test_turned_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    assert turned(x)[:, 0].tolist() == expected


def test_loss_and_score_equal_their_definition() -> None:
    method = untrained(RotPred, Recipe()).double().eval()
    images, labels = batch(5)
    images = images.double()
    x = images[:, 0]
    of_classes, of_turns, scores = 0.0, [], []
    for i, y in enumerate(labels.tolist()):
        z = method.linear(method.backbone(x[i : i + 1]))[0]
        of_classes += minus_log(z, y) / 5
        bits = []
        for r in range(4):
            features = method.backbone(torch.rot90(x[i : i + 1], r, (2, 3)))
            nats = minus_log(method.quarters(features)[0], r)
            of_turns.append(nats)
            bits.append(nats / math.log(2))
        kl = sum(1 / 3 * (math.log2(1 / 3) + minus_log(z, c) / math.log(2)) for c in range(3))
        scores.append(sum(bits) / 4 - kl)
    found = method.loss(images, labels)["loss"].item()
    assert found == pytest.approx(of_classes + sum(of_turns) / 20, abs=1e-9)
    columns = method.outputs(x)
    extra = {"rotation": columns["rotation"].detach()}
    outputs = Outputs(logits=columns["logits"].detach(), extra=extra)
    found = RotationScore().score(outputs)
    expected = torch.tensor(scores, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
