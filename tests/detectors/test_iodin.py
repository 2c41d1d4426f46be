"""i-ODIN changes one entry, along autograd's gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench.errors import OptionError
from tests.helpers.scores import images, same, small_cnn


@pytest.mark.parametrize("std", [None, (0.2, 0.25, 0.4)])
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_sample_by_sample(temperature: float, std: tuple[float, ...] | None) -> None:
    model, x = small_cnn(), images(6)
    if std is not None:
        model.preprocess = type("Preprocess", (), {"std": std})()  # type: ignore[assignment]
    expected = []
    for one in x:
        leaf = one[None].clone().requires_grad_()
        logits = model.outputs(leaf)["logits"]
        loss = F.cross_entropy(logits / temperature, logits.argmax(dim=1))
        (gradient,) = torch.autograd.grad(loss, leaf)
        g = gradient[0].numpy()
        channel, row, column = np.unravel_index(np.abs(g).argmax(), g.shape)
        stepped = one.clone().numpy()
        sign = 1 if g[channel, row, column] >= 0 else -1
        stepped[channel, row, column] -= 0.3 * sign / (std[channel] if std else 1)
        with torch.no_grad():
            after = model.outputs(torch.from_numpy(stepped)[None])["logits"][0].numpy()
        expected.append(-log_softmax(after / temperature).max())
    iodin = oodbench.create_detector("iodin", temperature=temperature, noise=0.3)
    same(iodin.score_batch(model, x), expected)


def test_by_hand() -> None:
    """Two classes that differ most in the third pixel: only that one is changed."""

    class Two(nn.Module):
        def outputs(self, images: Tensor) -> dict[str, Tensor]:
            z = images.flatten(1) @ torch.tensor([1.0, 0.5, -2.0], dtype=images.dtype)
            return {"logits": torch.stack([z, -z], dim=1)}

    x = torch.tensor([1.0, 0.0, 0.25], dtype=torch.float64).view(1, 1, 1, 3)  # logits 0.5, -0.5
    found = oodbench.create_detector("iodin", temperature=1.0, noise=0.1).score_batch(Two(), x)
    # the loss of class 0 rises with the third pixel: it falls to 0.15, and the logit is 0.7
    np.testing.assert_allclose(-found.exp().log(), np.log(softmax([0.7, -0.7])[0]))


def test_refusals_name_it() -> None:
    with pytest.raises(OptionError, match="iodin: temperature must be positive"):
        oodbench.create_detector("iodin", temperature=0.0)
