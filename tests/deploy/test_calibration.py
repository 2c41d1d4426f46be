"""Thresholds, p-values and false discoveries: by hand, by simulation, and that they agree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from oodbench.deploy.calibration import (
    Calibration,
    discoveries,
    fewest_discoveries,
    thresholds_of,
)
from oodbench.errors import BadScoresError, OptionError


def test_by_hand() -> None:
    nine = Calibration([5, 1, 2, 3, 4, 6, 7, 8, 9])
    assert nine.p_values([0, 5, 9, 10]).tolist() == [1.0, 0.6, 0.2, 0.1]
    assert nine.threshold(0.8).value == 8.0  # ceil(10 * 0.8) = 8th
    assert nine.threshold(0.9).value == 9.0
    assert np.isnan(nine.p_values([np.nan])[0])
    with pytest.raises(OptionError, match="at least 19 held-out"):
        nine.threshold(0.95)


@pytest.mark.parametrize("tpr", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [99, 100, 1999, 2000])
def test_flagged_is_where_the_p_value_is_small(n: int, tpr: float) -> None:
    rng = np.random.default_rng(n)
    calibration = Calibration(rng.integers(0, 50, n))  # with ties
    scores = rng.integers(-5, 60, 500)
    flagged = scores > calibration.threshold(tpr).value
    assert np.array_equal(flagged, calibration.p_values(scores) <= (1 - tpr) + 1e-12)


def test_the_false_alarm_rate_is_what_was_asked_for() -> None:
    """Over calibration sets the rate is Beta(n + 1 - k, k), on average at most 1 - TPR."""
    rng = np.random.default_rng(0)
    n, rates = 199, []
    for _ in range(400):
        threshold = Calibration(rng.normal(size=n)).threshold(0.95).value
        rates.append(stats.norm.sf(threshold))
    k = int(np.ceil((n + 1) * 0.95))
    assert stats.kstest(rates, stats.beta(n + 1 - k, k).cdf).pvalue > 0.01
    assert abs(np.mean(rates) - 0.05) < 4 * np.std(rates) / 20


def test_a_budget_is_kept_with_confidence() -> None:
    rng = np.random.default_rng(1)
    rates = np.array(
        [
            stats.norm.sf(Calibration(rng.normal(size=500)).within_budget(0.05).value)
            for _ in range(400)
        ]
    )
    assert 0.9 < (rates <= 0.05).mean() < 0.995
    assert rates.mean() > 0.025  # and no more is given away than that takes
    with pytest.raises(OptionError, match="at least 59"):
        Calibration(np.arange(50)).within_budget(0.05)
    assert Calibration(np.arange(59)).within_budget(0.05).value == 58.0


def test_p_values_are_valid() -> None:
    rng = np.random.default_rng(2)
    p = np.array(
        [Calibration(rng.normal(size=19)).p_values(rng.normal(size=1))[0] for _ in range(4000)]
    )
    for alpha in (0.05, 0.1, 0.5):
        share = (p <= alpha).mean()
        assert abs(share - alpha) < 4 * np.sqrt(alpha * (1 - alpha) / len(p))


def test_the_false_discovery_rate_is_bounded() -> None:
    """1,000 batches of 100 ID and 25 OOD images, each with a calibration set of its own."""
    rng = np.random.default_rng(3)
    shares, found = [], []
    for _ in range(1000):
        calibration = Calibration(rng.normal(size=1000))
        scores = np.concatenate([rng.normal(size=100), rng.normal(4, 1, 25)])
        flagged = discoveries(calibration.p_values(scores), 0.1)
        shares.append(flagged[:100].sum() / max(flagged.sum(), 1))
        found.append(flagged[100:].mean())
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) <= 0.1 + 3 * error
    # Benjamini and Hochberg: FDR is fdr * (share of ID) = 0.08, less what ranks round off
    assert np.mean(shares) > 0.05
    assert np.mean(found) > 0.8


def test_discoveries_by_hand() -> None:
    p = [0.001, 0.2, 0.03, 0.008, np.nan, 0.9]
    # sorted 0.001 0.008 0.03 0.2 0.9 against 0.02 0.04 0.06 0.08 0.1
    assert discoveries(p, 0.1).tolist() == [True, False, True, True, False, False]
    assert not discoveries([0.5, 0.6], 0.1).any()
    assert discoveries([], 0.1).shape == (0,)
    for fdr in (0, 1, -1):
        with pytest.raises(OptionError, match="fdr"):
            discoveries(p, fdr)


def test_few_calibration_samples_find_no_single_image() -> None:
    assert fewest_discoveries(999, 1000, 0.1) == 10
    assert fewest_discoveries(9999, 100, 0.1) == 1
    calibration = Calibration(np.arange(999))
    alone = np.full(1000, 500.0)
    for n, is_found in ((9, False), (10, True)):
        alone[:n] = 5000
        assert discoveries(calibration.p_values(alone), 0.1).any() == is_found


def test_what_is_asked_for() -> None:
    scores = Calibration(np.arange(1000))
    assert [one.tpr for one in thresholds_of(scores, None, None)] == [0.95]
    several = thresholds_of(scores, [0.99, 0.9, 0.99], None)
    assert [one.tpr for one in several] == [0.99, 0.9]
    assert thresholds_of(scores, None, 0.05)[0].fpr_budget == 0.05
    for tpr, budget in ((0.9, 0.1), ([], None), (1.0, None), (0.0, None), (None, 1.5)):
        with pytest.raises(OptionError):
            thresholds_of(scores, tpr, budget)
    for bad in ([], [1, np.nan], [np.inf]):
        with pytest.raises(BadScoresError):
            Calibration(bad)
