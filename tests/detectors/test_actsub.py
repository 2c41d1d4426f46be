"""ActSub sample by sample, by hand, and its subspace within the head's rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

import oodbench
from oodbench import Outputs
from oodbench.errors import OptionError
from oodbench.outputs import Head
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import head_of, same, scores


def projections(weight: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    V = np.linalg.svd(weight)[2].T
    decisive = V[:, :k] @ V[:, :k].T
    return decisive, np.eye(len(V)) - decisive


@pytest.mark.parametrize(("percentile", "power"), [(95.0, 2.0), (60.0, 1.0)])
@pytest.mark.parametrize("rectified", [True, False])
def test_sample_by_sample(percentile: float, power: float, rectified: bool) -> None:
    p = problem(rectified=rectified)
    weight, bias = head_of(p)
    train = arrays(p.train)[0]
    gaps = []
    for k in range(6):  # the rank of the head is 5
        P, Q = projections(weight, k)
        gaps.append(abs(np.mean([np.linalg.norm(P @ f) - np.linalg.norm(Q @ f) for f in train])))
    P, Q = projections(weight, int(np.argmin(gaps)))
    bank = [Q @ f / np.linalg.norm(Q @ f) for f in train]
    kept = 24 - round(24 * percentile / 100)
    expected = []
    for f in arrays(p.test)[0]:
        g = Q @ f / np.linalg.norm(Q @ f)
        c = np.mean(sorted((g @ t for t in bank), reverse=True)[:10])
        h = P @ f
        r = np.clip(h.sum() / sum(sorted(h, reverse=True)[:kept]), -50, 50)
        energy = logsumexp(weight @ (h * np.exp(r)) + bias)
        expected.append(-energy * (-np.log(1 - c)) ** power)
    same(scores("actsub", p, percentile=percentile, power=power), expected, rtol=1e-8)


def test_by_hand() -> None:
    """A head of one direction: the decisive part is the first unit, the rest the other two."""
    head = Head(np.array([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]))  # type: ignore[arg-type]
    f = torch.tensor([[3.0, 3.0, 0.0], [3.0, 0.0, 3.0]], dtype=torch.float64)
    actsub = oodbench.create_detector("actsub", neighbours=1, percentile=50.0, power=1.0)
    actsub.fit(Outputs(f, head(f), torch.tensor([0, 1]), head))
    assert actsub.decisive_.shape == (3, 1)  # type: ignore[attr-defined] # 3 against 3
    x = torch.tensor([[1.0, 4.0, 3.0]], dtype=torch.float64)
    # the rest is (4, 3) / 5, its nearest neighbour (1, 0), c = 0.8; h = (1, 0, 0), r = 1
    e = np.exp(1)
    expected = -logsumexp([2 * e, -2 * e]) * -np.log(0.2)
    found = actsub.score(Outputs(x, head(x), torch.tensor([0]), head))
    np.testing.assert_allclose(found, [expected], rtol=1e-8)


def test_a_turn_of_the_heads_null_space_does_not_count() -> None:
    """Units that no class reads may be mixed by any rotation."""
    p = problem(rectified=False)
    weight, bias = head_of(p)
    weight = weight.copy()
    weight[:, 10:] = 0
    turn = np.eye(24)
    turn[10:, 10:] = np.linalg.qr(np.random.default_rng(0).normal(size=(14, 14)))[0]
    found = []
    for R in (np.eye(24), turn):
        head = Head(weight @ R.T, bias)  # type: ignore[arg-type]
        train, test = (
            Outputs(o.features @ torch.from_numpy(R.T), o.logits, o.labels, head)
            for o in (p.train, p.test)
        )
        found.append(oodbench.create_detector("actsub", percentile=0.0).fit(train).score(test))
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-7)


def test_options() -> None:
    for options, message in (
        ({"percentile": 101.0}, "percentile is in"),
        ({"power": 0.0}, "power must be positive"),
        ({"neighbours": 0}, "neighbours must be at least 1"),
    ):
        with pytest.raises(OptionError, match=f"actsub: {message}"):
            oodbench.create_detector("actsub", **options)


@pytest.mark.parametrize("power", [2.0, 0.5])
def test_a_sample_that_points_away_from_all_is_the_most_ood(power: float) -> None:
    """c = -1, so I = -log 2: its power keeps the sign, and a fractional one is no NaN."""
    head = Head(np.array([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]))  # type: ignore[arg-type]
    f = torch.tensor([[3.0, 3.0, 0.0], [3.0, 3.0, 0.0]], dtype=torch.float64)
    actsub = oodbench.create_detector("actsub", neighbours=1, percentile=50.0, power=power)
    actsub.fit(Outputs(f, head(f), torch.tensor([0, 1]), head))
    x = torch.tensor([[1.0, -3.0, 0.0]], dtype=torch.float64)
    e = np.exp(1)
    found = actsub.score(Outputs(x, head(x), torch.tensor([0]), head))
    np.testing.assert_allclose(found, [logsumexp([2 * e, -2 * e]) * np.log(2) ** power], rtol=1e-8)
