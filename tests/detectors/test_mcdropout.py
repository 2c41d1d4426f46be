"""Monte-Carlo dropout, before the head and in the network's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

import oodbench
from oodbench.detectors.mcdropout import _mask
from oodbench.errors import MissingOutputError
from tests.helpers.scores import Network, images, same, small_cnn


@pytest.mark.parametrize("mode", ["mean", "var"])
def test_mc_dropout_before_the_head(mode: str) -> None:
    model, x = small_cnn(), images()
    masks = _mask((5, 8), 0.3, torch.Generator().manual_seed(7)).numpy()
    assert set(np.unique(masks)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    z = model.outputs(x)["features"].detach().numpy()
    weight, bias = (t.detach().numpy() for t in (model.linear.weight, model.linear.bias))
    q = np.array([softmax((z * mask) @ weight.T + bias, axis=1) for mask in masks])
    expected = -q.mean(axis=0).max(axis=1) if mode == "mean" else q.var(axis=0, ddof=1).mean(axis=1)
    detector = oodbench.create_detector("mcdropout", samples=5, p=0.3, mode=mode, seed=7)
    same(detector.score_batch(model, x), expected)


def dropping() -> Network:
    return Network(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Dropout2d(0.4), nn.Conv2d(6, 8, 3), nn.Dropout(0.2),
        nn.Dropout(0.0), width=8,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["mean", "var"])
def test_mc_dropout_through_the_networks_own_layers(mode: str) -> None:
    model, x = dropping(), images()
    generator = torch.Generator().manual_seed(0)
    draws = []
    with torch.no_grad():
        for _ in range(6):
            maps = model.stages[1](model.stages[0](x))
            maps = maps * _mask((1, 6, 1, 1), 0.4, generator)  # whole channels
            maps = model.stages[3](maps)
            maps = maps * _mask((1, 8, 4, 4), 0.2, generator)
            draws.append(model.linear(maps.mean(dim=(2, 3))).softmax(dim=1).numpy())
    q = np.array(draws)
    expected = -q.mean(axis=0).max(axis=1) if mode == "mean" else q.var(axis=0, ddof=1).mean(axis=1)
    detector = oodbench.create_detector("mcdropout", samples=6, p=0.5, mode=mode)
    found = detector.score_batch(model, x)
    same(found, expected)
    # the masks are the same for all samples and in each run
    torch.testing.assert_close(detector.score_batch(model, x[3:4]), found[3:4])
    assert not any(module._forward_hooks for module in model.modules())


def test_mc_dropout_tends_to_what_torchs_own_dropout_gives() -> None:
    model, x = dropping(), images(3)
    detector = oodbench.create_detector("mcdropout", samples=500)
    found = detector.score_batch(model, x)
    with torch.no_grad():
        model.train()
        many = x.repeat_interleave(500, dim=0)
        q = model.outputs(many)["logits"].softmax(dim=1).unflatten(0, (3, 500)).mean(dim=1)
    torch.testing.assert_close(found, -q.amax(dim=1), rtol=0, atol=0.02)


def test_mc_dropout_needs_a_head_or_layers() -> None:
    class Bare(Network):
        def head(self) -> None:  # type: ignore[override]
            return None

    with pytest.raises(MissingOutputError, match="mcdropout needs a network with dropout"):
        oodbench.create_detector("mcdropout").score_batch(Bare(nn.ReLU(), width=3), images())
