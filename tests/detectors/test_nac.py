"""NAC: a histogram of the states that autograd gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from oodbench import Outputs
from tests.helpers.problems import problem
from tests.helpers.scores import same, scores


def _states(outputs: Outputs, alpha: float, eps: float) -> np.ndarray:
    assert outputs.head is not None
    z = outputs.features.clone().requires_grad_()
    q = outputs.head(z).softmax(dim=1)
    c = q.shape[1]
    divergence = (1 / c * (math.log(1 / c) - (q + eps).log())).sum()
    (gradient,) = torch.autograd.grad(divergence, z)
    return torch.sigmoid(alpha * outputs.features * gradient).numpy()


@pytest.mark.parametrize("eps", [0.0, 0.05])
@pytest.mark.parametrize("bins", ["uniform", "geometric"])
def test_nac_is_a_histogram_of_autograds_states(bins: str, eps: float) -> None:
    # without a ReLU: zero activations lie on an edge of a bin, where rounding decides
    p = problem(rectified=False)
    edges = np.linspace(0, 1, 51)
    if bins == "geometric":
        low = np.geomspace(1e-6, 0.5, 26)
        edges = np.append(low, 1 - low[-2::-1])
    train, test = (_states(o, 20.0, eps).clip(1e-6, 1 - 1e-6) for o in (p.train, p.test))
    covered = [
        np.minimum(np.histogram(train[:, d], edges)[0] / 12, 1) for d in range(train.shape[1])
    ]
    expected = []
    for state in test:
        total = 0.0
        for d, value in enumerate(state):
            i = next((i for i in range(50) if value < edges[i + 1]), 49)
            total += covered[d][i]
        expected.append(-total / len(state))
    assert len(set(expected)) > 10
    same(scores("nac", p, alpha=20.0, o_star=12, bins=bins, eps=eps), expected)
