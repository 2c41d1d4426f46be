"""Scores of the logits alone: entropy, GEN, a temperature, KL matching, weighted energy."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy
from torch import Tensor

import oodbench
from oodbench import Outputs
from oodbench.errors import OODBenchWarning
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import confident, same, scores


def test_entropy_is_scipys() -> None:
    p = problem()
    same(scores("entropy", p), entropy(softmax(p.test.logits.numpy(), axis=1), axis=1))


@pytest.mark.parametrize("M", [2, 5, 100])
@pytest.mark.parametrize("clip", [0.0, 0.01])
@pytest.mark.parametrize("gamma", [0.1, 0.7])
def test_gen_is_the_sum_over_the_largest(gamma: float, clip: float, M: int) -> None:
    p = problem()
    probabilities = softmax(p.test.logits.numpy(), axis=1)
    expected = []
    for one in probabilities:
        largest = np.clip(np.sort(one)[::-1][:M], clip, 1 - clip)
        expected.append(np.sum(largest**gamma * (1 - largest) ** gamma))
    same(scores("gen", p, gamma=gamma, clip=clip, M=M), expected)


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_temperature_minimises_the_likelihood(scale: float) -> None:
    p = problem()
    p.train.logits *= scale
    p.test.logits *= scale
    _, f, y = arrays(p.train)

    def loss(temperature: float) -> float:
        return -log_softmax(f / temperature, axis=1)[np.arange(len(y)), y].mean()

    best = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-10}).x
    detector = oodbench.create_detector("tempscale").fit(p.train)
    assert detector.temperature_ == pytest.approx(best, rel=1e-5)  # type: ignore[attr-defined]
    expected = -log_softmax(p.test.logits.numpy() / best, axis=1).max(axis=1)
    same(detector.score(p.test), expected, rtol=1e-5)


def test_temperature_stays_within_its_bounds() -> None:
    p = problem()
    y = arrays(p.train)[2]
    for sign, bound in ((1, 0.01), (-1, 100)):
        # nothing but right, or nothing but wrong: the likelihood has no minimum inside
        logits = sign * 10.0 * np.eye(5)[y]
        outputs = Outputs(logits=torch.from_numpy(logits), labels=p.train.labels)
        with pytest.warns(OODBenchWarning, match=r"tempscale.*fit_split='val'"):
            detector = oodbench.create_detector("tempscale").fit(outputs)
        assert detector.temperature_ == bound  # type: ignore[attr-defined]


def _right(n: int, scale: float, dtype: torch.dtype) -> Outputs:
    """Logits that are right about every sample, by more or less."""
    generator = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % 5
    logits = torch.rand(n, 5, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), labels] = 1.1 + torch.rand(n, generator=generator, dtype=torch.float64)
    return Outputs(logits=(scale * logits).to(dtype), labels=labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "scale"), [(1, 1.0), (300, 0.01), (300, 8.0), (4000, 40.0)])
def test_temperature_of_a_network_that_is_always_right(
    n: int, scale: float, dtype: torch.dtype
) -> None:
    """It is the bound, however large the logits are and whatever is added to them."""
    outputs = _right(n, scale, dtype)
    for constant in (0, 1, -3, 64):
        shifted = Outputs(logits=outputs.logits.double() + constant, labels=outputs.labels)
        with pytest.warns(OODBenchWarning, match=f"right about all {n} samples"):
            detector = oodbench.create_detector("tempscale").fit(shifted)
        assert detector.temperature_ == 0.01  # type: ignore[attr-defined]


def _bounded(logits: Tensor, labels: Tensor, **options: Any) -> tuple[float, str]:
    detector = oodbench.create_detector("tempscale", **options)
    with pytest.warns(OODBenchWarning) as caught:
        detector.fit(Outputs(logits=logits, labels=labels))
    assert detector.score(Outputs(logits=logits)).isfinite().all()
    return detector.temperature_, str(caught[0].message)  # type: ignore[attr-defined]


def test_temperature_of_degenerate_logits() -> None:
    labels = torch.arange(60) % 3
    one_hot = torch.eye(3)[labels]
    # ties with the label's class are no reason to be less sure
    temperature, told = _bounded(one_hot + torch.eye(3)[(labels + 1) % 3], labels)
    assert temperature == 0.01
    temperature, told = _bounded(torch.full((60, 3), 7.0), labels)
    assert temperature == 1
    assert "the same for all classes" in told
    temperature, told = _bounded(torch.randn(60, 1).float(), torch.zeros(60, dtype=torch.int64))
    assert temperature == 1
    # chance, exactly: the other classes' logits are as high as often
    temperature, told = _bounded(torch.eye(3).repeat(20, 1), torch.arange(60) // 20)
    assert temperature == 100
    assert "chance" in told
    temperature, told = _bounded(1e30 * one_hot, labels)
    assert temperature == 0.01
    # one mistake by next to nothing, among logits that are small even at the bound
    almost = 0.02 * one_hot
    almost[0] = torch.tensor([0.0, 1e-6, 0.0])
    temperature, told = _bounded(almost.double(), labels, fit_split="val")
    assert temperature == 0.01
    assert "more validation images" in told


def test_temperature_inside_its_bounds_is_no_reason_to_warn() -> None:
    p = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = oodbench.create_detector("tempscale").fit(p.train)
        for constant in (3.0, -100.0):
            shifted = Outputs(logits=p.train.logits + constant, labels=p.train.labels)
            found = oodbench.create_detector("tempscale").fit(shifted)
            assert found.temperature_ == pytest.approx(first.temperature_, rel=1e-7)  # type: ignore[attr-defined]


def test_klm_is_the_divergence_to_the_nearest_template() -> None:
    p = problem()
    _, f, _ = arrays(p.train)
    f[:, 3] -= 100  # a class that is never predicted has no template
    probabilities, predicted = softmax(f, axis=1), f.argmax(axis=1)
    templates = [probabilities[predicted == c].mean(axis=0) for c in range(5) if c != 3]
    expected = [
        min(entropy(one, template) for template in templates)
        for one in softmax(p.test.logits.numpy(), axis=1)
    ]
    p.train.logits = torch.from_numpy(f)
    same(scores("klm", p), expected)


def test_weighted_energy() -> None:
    p = problem()
    given = np.array([0.5, 1.0, 2.0, 0.0, -1.0])
    with np.errstate(divide="ignore"):
        expected = -logsumexp(p.test.logits.numpy(), b=np.maximum(given, 0), axis=1)
    same(scores("weighted-energy", p, weights=tuple(given)), expected)

    fitted = (1 / 5) / softmax(p.train.logits.numpy(), axis=1).mean(axis=0)
    same(scores("weighted-energy", p), -logsumexp(p.test.logits.numpy(), b=fitted, axis=1))


def test_gens_complement_is_exact() -> None:
    gaps = np.linspace(20.0, 60.0, 9)
    found = oodbench.create_detector("gen").score(confident(torch.tensor(gaps).float()))
    for score, gap in zip(found.tolist(), gaps, strict=True):
        small = math.exp(-gap) / (1 + 9 * math.exp(-gap))
        terms = [9 * small, *[small * (1 - small)] * 9]  # p (1 - p), of the largest first
        assert score == pytest.approx(sum(term**0.1 for term in terms), rel=1e-4)
