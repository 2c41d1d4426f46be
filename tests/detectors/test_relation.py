"""Neighbours by their relation, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

import oodbench
from oodbench import Outputs
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores, unit


@pytest.mark.parametrize(("power", "threshold"), [(1.0, 0.03), (4.0, 0.0), (2.0, 0.3), (1.0, 0.6)])
def test_relation_sample_by_sample(power: float, threshold: float) -> None:
    # several blocks of training and test samples, confident ones, and negative cosines
    p = problem(n=2500, dim=6, test=600, rectified=False)
    p.train.logits *= 3
    p.test.logits *= 3
    train, test = unit(arrays(p.train)[0]), unit(arrays(p.test)[0])
    q_train, q_test = (softmax(o.logits.numpy(), axis=1) for o in (p.train, p.test))
    expected = []
    for x, q in zip(test, q_test, strict=True):
        r = np.maximum(train @ x, 0) * (q_train @ q)
        expected.append(-np.sum(r[r > threshold] ** power))
    same(scores("relation", p, power=power, threshold=threshold), expected, rtol=1e-4)


@pytest.mark.parametrize(("threshold", "all_left_out"), [(0.6, False), (0.9999999, True)])
def test_samples_that_can_have_no_relation_are_not_kept(
    threshold: float, all_left_out: bool
) -> None:
    p = problem(n=2500, test=50)
    detector = oodbench.create_detector("relation", threshold=threshold).fit(p.train)
    kept = (p.train.logits.float().softmax(dim=1).amax(dim=1) > threshold).sum()
    assert len(detector.bank_) == len(detector.probabilities_) == kept < 2500
    assert (kept == 0) == all_left_out
    assert (detector.score(p.test) == 0).all() == all_left_out


def test_relation_of_samples_that_hardly_agree() -> None:
    # all in one direction; what they predict has a product of 0.04, above the threshold of 0.03
    def outputs(n: int, share: float) -> Outputs:
        logits = torch.tensor([[share, 1 - share]], dtype=torch.float64).log().expand(n, 2)
        return Outputs(torch.ones(n, 3), logits, torch.zeros(n))

    detector = oodbench.create_detector("relation").fit(outputs(50, 1 - 1e-6))
    found = detector.score(outputs(4, 0.04))
    np.testing.assert_allclose(found, -50 * 0.04, rtol=1e-3)
    assert torch.equal(detector.score(outputs(4, 0.02)), torch.zeros(4, dtype=torch.float64))
