"""ODIN steps along autograd's gradient, whatever the mode of gradients."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

import oodbench
from tests.helpers.scores import images, same


class Linear(nn.Module):
    """A linear classifier of pixels."""

    def __init__(self, std: tuple[float, ...] | None) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 4 * 4, 4).double()
        if std is not None:
            self.preprocess = SimpleNamespace(std=std)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.linear(images.flatten(1))}


@pytest.mark.parametrize("std", [None, (0.2, 0.25, 0.4)])
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_steps_along_the_gradient(temperature: float, std: tuple[float, ...] | None) -> None:
    model, x = Linear(std), images(size=4)
    weight, bias = (t.detach().numpy() for t in (model.linear.weight, model.linear.bias))
    scale = np.repeat(std or (1, 1, 1), 16)
    expected = []
    for one in x.flatten(1).numpy():
        q = softmax((weight @ one + bias) / temperature)
        # -log q_max falls along minus this
        gradient = weight.T @ (q - np.eye(4)[q.argmax()]) / temperature
        stepped = one - 0.05 * np.sign(gradient) / scale
        expected.append(-np.max(log_softmax((weight @ stepped + bias) / temperature)))
    odin = oodbench.create_detector("odin", temperature=temperature, noise=0.05)
    same(odin.score_batch(model, x), expected)
    assert model.linear.weight.grad is None
    plain = oodbench.create_detector("odin", temperature=temperature, noise=0.0)
    assert (odin.score_batch(model, x) < plain.score_batch(model, x)).all()


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_odin_finds_its_gradient_where_gradients_are_off(off: Callable[[], Any]) -> None:
    model, x = Linear(None), images(size=4)
    odin = oodbench.create_detector("odin")
    expected = odin.score_batch(model, x)
    with off():
        assert torch.equal(odin.score_batch(model, images(size=4)), expected)


def test_large_batches_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, odin = Linear(None), images(size=4), oodbench.create_detector("odin")
    whole, seen = odin.score_batch(model, x), []
    outputs = model.outputs
    monkeypatch.setattr(model, "outputs", lambda part: seen.append(len(part)) or outputs(part))
    monkeypatch.setattr("oodbench.detectors.odin.AT_ONCE", 2 * x[0].numel())
    torch.testing.assert_close(odin.score_batch(model, x), whole)
    assert max(seen) == 2
