"""Curves of a board are those of the scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from oodbench.board.curves import BINS, GRID, curves_of, roc
from oodbench.results.significance import Sampled
from tests.helpers.pages import entry


def test_a_curve_by_hand() -> None:
    # thresholds 4, 3, 2, 1 give (fpr, tpr): (0, 1/2), (1/2, 1/2), (1/2, 1), (1, 1)
    curve = roc(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    assert curve[0] == 0.5
    assert (curve[GRID < 0.5] == 0.5).all()
    assert (curve[GRID >= 0.5] == 1.0).all()


def test_ties_are_a_slope() -> None:
    curve = roc(np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0]))
    assert np.allclose(curve, np.minimum(1.0, GRID / 0.5))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("digits", [0, 1, 8])
def test_a_curve_is_that_of_scikit_learn(seed: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    known, ood = rng.normal(0, 1, 300).round(digits), rng.normal(1, 1, 200).round(digits)
    truth = np.repeat([0, 1], [300, 200])
    fpr, tpr, _ = roc_curve(truth, np.concatenate([known, ood]), drop_intermediate=False)
    curve = roc(known, ood)
    for x, y in zip(GRID, curve, strict=True):
        at = np.flatnonzero(fpr <= x)[-1]
        beyond = min(at + 1, len(fpr) - 1)
        width = fpr[beyond] - fpr[at]
        expected = tpr[at] + ((x - fpr[at]) / width * (tpr[beyond] - tpr[at]) if width else 0.0)
        assert y == pytest.approx(expected, abs=1e-12)
    area = ((curve[1:] + curve[:-1]) / 2 * np.diff(GRID)).sum()
    assert area == pytest.approx(roc_auc_score(truth, np.concatenate([known, ood])), abs=0.01)


def test_what_is_drawn_of_a_set() -> None:
    rng = np.random.default_rng(0)
    kept = {"id": rng.normal(0, 1, 1000), "ood/near-a": rng.normal(2, 1, 500)}
    row = entry(0.9)[0]
    (drawn,) = curves_of(Sampled(kept), [row])["sets"]
    assert drawn["ood"] == "near-a"
    assert len(drawn["roc"]) == len(GRID)
    assert drawn["roc"] == sorted(drawn["roc"])
    assert drawn["roc"][-1] == 1000
    for name in ("id", "out"):
        assert len(drawn[name]) == BINS
        assert abs(sum(drawn[name]) - 1000) <= BINS / 2, "nothing lies outside of the cells"


@pytest.mark.parametrize("odd", [np.zeros(5), np.array([np.inf, -np.inf]), np.full(3, np.inf)])
def test_scores_that_are_all_one_or_not_finite(odd: np.ndarray) -> None:
    (drawn,) = curves_of(Sampled({"id": odd, "ood/near-a": odd}), [entry(0.9)[0]])["sets"]
    low, high = drawn["ends"]
    assert np.isfinite([low, high]).all()
    assert low < high
    assert abs(sum(drawn["id"]) - 1000) <= 1
    assert drawn["roc"][-1] == 1000
