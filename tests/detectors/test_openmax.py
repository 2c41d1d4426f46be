"""OpenMax, sample by sample, with Weibull fits as SciPy makes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import weibull_min

import oodbench
from oodbench.detectors import openmax
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores


@pytest.mark.parametrize("shape", [0.7, 1.5, 40.0])
def test_weibull_fit_is_scipys(shape: float) -> None:
    rng = np.random.default_rng(0)
    rows = [weibull_min.rvs(shape, scale=3.0, size=n, random_state=rng) for n in (20, 50)]
    tails = np.zeros((2, 50))  # what is behind a row's own values does not count
    for row, values in zip(tails, rows, strict=True):
        row[: len(values)] = values
    k, log_scale = openmax.fit_weibull(torch.from_numpy(tails), torch.tensor([20, 50]))
    for i, values in enumerate(rows):
        c, _, scale = weibull_min.fit(values, floc=0)
        assert float(k[i]) == pytest.approx(c, rel=1e-3)
        assert float(log_scale[i].exp()) == pytest.approx(scale, rel=1e-3)
        mine = weibull_min.logpdf(values, float(k[i]), scale=float(log_scale[i].exp())).sum()
        assert mine >= weibull_min.logpdf(values, c, scale=scale).sum() - 1e-9


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # SciPy's search passes by there
@pytest.mark.parametrize("correct_only", [True, False])
@pytest.mark.parametrize(("tail", "alpha"), [(20, 3), (7, 1), (1000, 100)])
def test_openmax_sample_by_sample(tail: int, alpha: int, correct_only: bool) -> None:
    p = problem()
    _, f, y = arrays(p.train)
    use = f.argmax(axis=1) == y if correct_only else np.ones(len(y), dtype=bool)
    means, models = [], []
    for c in range(5):
        own = f[use & (y == c)]
        means.append(own.mean(axis=0))
        tails = np.sort(np.linalg.norm(own - means[c], axis=1))[-tail:]
        moved = tails - tails.min() + 1e4
        start = math.pi / math.sqrt(6) / np.log(moved).std()
        # SciPy's simplex wants a start near the end: the scale is 10,000, its error less than 1
        shape, _, scale = weibull_min.fit(moved, start, floc=0, scale=moved.mean())
        models.append((shape, scale, tails.min()))
    expected = []
    for v in p.test.logits.numpy():
        omega = np.ones(5)
        for rank, c in enumerate(np.argsort(-v)[:alpha], start=1):
            shape, scale, lowest = models[c]
            moved = np.linalg.norm(v - means[c]) - lowest + 1e4
            width = min(alpha, 5)
            omega[c] = 1 - (width + 1 - rank) / width * weibull_min.cdf(moved, shape, scale=scale)
        unknown = np.sum((1 - omega) * v)
        revised = softmax(np.append(unknown, omega * v))
        expected.append(np.log(revised[0] / revised[1:].sum()))
    found = scores("openmax", p, tail=tail, alpha=alpha, correct_only=correct_only)
    same(found, expected, rtol=1e-3)


def test_openmax_of_a_class_that_is_never_right_takes_all_of_its_samples() -> None:
    p = problem()
    p.train.logits[:, 2] -= 100
    own = p.train.logits[p.train.labels == 2]
    detector = oodbench.create_detector("openmax").fit(p.train)
    torch.testing.assert_close(detector.means_[2], own.mean(dim=0))  # type: ignore[attr-defined]


def test_openmax_never_revises_a_class_that_was_never_seen() -> None:
    p = problem()
    p.train = p.train[(p.train.labels != 4).nonzero().flatten()]
    p.test.logits[:, 4] = 10 + torch.arange(40.0)  # the top class of all
    detector = oodbench.create_detector("openmax", alpha=1).fit(p.train)
    # nothing is left to the unknown: log-odds of a zero logit against the rest
    same(detector.score(p.test), -logsumexp(p.test.logits.numpy(), axis=1))
