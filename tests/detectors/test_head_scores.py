"""Scores of features and the last layer: GradNorm, pNML, fDBD, NCI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from tests.helpers.problems import arrays, problem
from tests.helpers.scores import head_of, same, scores, unit


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradnorm_is_autograds(temperature: float) -> None:
    p = problem(test=12)
    linear = nn.Linear(24, 5).double()
    linear.load_state_dict({"weight": p.head.weight, "bias": p.head.bias})
    uniform = torch.full((1, 5), 1 / 5, dtype=torch.float64)
    expected = []
    for z in p.test.features:
        log_q = (linear(z[None]) / temperature).log_softmax(dim=1)
        loss = nn.functional.kl_div(log_q, uniform, reduction="sum")  # KL(u || softmax)
        (gradient,) = torch.autograd.grad(loss, linear.weight)
        expected.append(-float(gradient.abs().sum()))
    same(scores("gradnorm", p, temperature=temperature), expected)


def test_pnml_sample_by_sample() -> None:
    p = problem()
    weight, bias = head_of(p)
    train, test = unit(arrays(p.train)[0]), unit(arrays(p.test)[0])
    P = np.linalg.pinv(train.T @ train)
    expected = []
    for x in test:
        q = softmax(weight @ x + bias)
        g = x @ P @ x / (1 + x @ P @ x)
        expected.append(np.log(np.sum(q / (q + q**g * (1 - q)))) / np.log(5))
    assert 0 < min(expected) <= max(expected) < 1
    same(scores("pnml", p), expected, rtol=1e-7)  # its epsilon beside the norm


@pytest.mark.parametrize("normalizer", ["distance", "norm"])
def test_fdbd_sample_by_sample(normalizer: str) -> None:
    p = problem()
    weight, _ = head_of(p)
    weight[4] = weight[1]  # no boundary between these two
    mean = arrays(p.train)[0].mean(axis=0)
    z, f, _ = arrays(p.test)
    expected = []
    for i in range(len(z)):
        top = f[i].argmax()
        total = 0.0
        for c in range(5):
            apart = np.linalg.norm(weight[top] - weight[c])
            total += (f[i, top] - f[i, c]) / apart if apart > 0 else 0
        far = np.linalg.norm(z[i] - mean) if normalizer == "distance" else np.linalg.norm(z[i])
        expected.append(-total / 4 / far)
    same(scores("fdbd", p, normalizer=normalizer), expected)


@pytest.mark.parametrize("alpha", [0.0001, 0.5])
def test_nci_sample_by_sample(alpha: float) -> None:
    p = problem(rectified=False)
    weight, _ = head_of(p)
    mean = arrays(p.train)[0].mean(axis=0)
    expected = []
    for z, f in zip(*arrays(p.test)[:2], strict=True):
        along = weight[f.argmax()] @ (z - mean) / np.linalg.norm(z - mean)
        expected.append(-along - alpha * np.abs(z).sum())
    same(scores("nci", p, alpha=alpha), expected)
