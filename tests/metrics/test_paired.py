"""Paired comparison: DeLong's and the bootstrap's variances, p-values, Holm's correction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from oodbench import metrics
from oodbench.errors import BadScoresError
from oodbench.metrics import paired
from oodbench.metrics.paired import Measured


def scored(seed: int, n: int = 200, m: int = 150, noise: float = 0.5) -> tuple[np.ndarray, ...]:
    """Two detectors' scores of the same samples: ID and OOD of one, then of the other."""
    rng = np.random.default_rng(seed)
    ids, oods = rng.normal(0, 1, n), rng.normal(1, 1, m)
    return (
        ids + noise * rng.normal(size=n),
        oods + noise * rng.normal(size=m),
        ids + noise * rng.normal(size=n),
        oods + noise * rng.normal(size=m),
    )


def test_delong_by_hand() -> None:
    # placements of ID: 1, 1, 1/2 and 1, 1/2, 1; of OOD: 2/3, 1 and 1, 2/3
    one = paired.measured([1.0, 2.0, 3.0], [[2.5, 4.0]], "auroc")
    other = paired.measured([1.0, 3.0, 2.0], [[4.0, 2.5]], "auroc")
    assert one.value == other.value == pytest.approx(5 / 6)
    difference = one.error - other.error
    assert difference @ difference == pytest.approx(0.25 / 3 + (2 / 9) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_delong_is_the_covariance_of_placements(seed: int) -> None:
    """By the definition of DeLong, DeLong & Clarke-Pearson: all pairs, with ties."""
    id_a, ood_a, id_b, ood_b = (np.round(values, 1) for values in scored(seed, 40, 30))
    kernels = [
        (ids[:, None] < oods) + 0.5 * (ids[:, None] == oods)
        for ids, oods in ((id_a, ood_a), (id_b, ood_b))
    ]
    contrast = np.array([1.0, -1.0])
    of_id = np.cov([k.mean(axis=1) for k in kernels]) / len(id_a)
    of_ood = np.cov([k.mean(axis=0) for k in kernels]) / len(ood_a)
    expected = contrast @ (of_id + of_ood) @ contrast
    a, b = paired.measured(id_a, [ood_a], "auroc"), paired.measured(id_b, [ood_b], "auroc")
    assert paired.variance_of_difference(a, b) == pytest.approx(expected)
    found = paired.difference_of(a, b)
    z = (kernels[0].mean() - kernels[1].mean()) / math.sqrt(expected)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert found.high - found.low == pytest.approx(2 * 1.959964 * math.sqrt(expected), rel=1e-6)


def test_a_mean_over_sets_has_the_variance_of_the_mean() -> None:
    """Two copies of a set are no more than the set, in the ID part; the OOD part halves."""
    id_a, ood_a, *_ = scored(0)
    rng = np.random.default_rng(1)
    other = rng.permutation(ood_a)
    one, both = (paired.measured(id_a, sets, "auroc") for sets in ([ood_a], [ood_a, other]))
    n = len(id_a)
    of_id, of_ood = one.error[:n], one.error[n:]
    assert both.value == pytest.approx(one.value)
    assert both.error @ both.error == pytest.approx(of_id @ of_id + of_ood @ of_ood / 2)


@pytest.mark.parametrize("metric", ["aupr_in", "aupr_out", "fpr95_id", "fpr95_ood"])
def test_weights_are_repetitions(metric: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        n, m = rng.integers(3, 40, 2)
        ids, oods = rng.integers(0, 12, n).astype(float), rng.integers(3, 16, m).astype(float)
        of_id, of_ood = paired._counts(rng, n), paired._counts(rng, m)
        one = paired._Ordered(ids, oods)
        weights = of_id[one.of_id], of_ood[one.of_ood]
        found = paired.weighted(one.ranks, *weights, metric, 0.95)
        repeated = np.repeat(ids, of_id), np.repeat(oods, of_ood)
        assert found == pytest.approx(metrics.all_metrics(*repeated)[metric], abs=1e-12)


def test_the_bootstrap_is_that_of_scipy() -> None:
    id_a, ood_a, id_b, ood_b = scored(3, 300, 300)
    a, b = (paired.measured(ids, [oods], "aupr_in") for ids, oods in ((id_a, ood_a), (id_b, ood_b)))

    def difference(i: np.ndarray, j: np.ndarray) -> float:
        return metrics.aupr_in(id_a[i], ood_a[j]) - metrics.aupr_in(id_b[i], ood_b[j])

    peer = stats.bootstrap(
        (np.arange(300), np.arange(300)), difference, vectorized=False, n_resamples=400,
        method="basic", rng=np.random.default_rng(0),
    ).standard_error  # fmt: skip
    assert math.sqrt(paired.variance_of_difference(a, b)) == pytest.approx(peer, rel=0.15)
    assert a.value - b.value == pytest.approx(difference(np.arange(300), np.arange(300)))


@pytest.mark.parametrize("metric", ["auroc", "fpr95_id", "aupr_out"])
def test_equal_detectors_are_told_apart_as_seldom_as_is_said(metric: str) -> None:
    """Of many pairs that differ by noise alone about a twentieth has p < 0.05."""
    trials = 300 if metric == "auroc" else 100
    found = 0
    for seed in range(trials):
        id_a, ood_a, id_b, ood_b = scored(seed)
        a = paired.measured(id_a, [ood_a], metric, draws=100)
        b = paired.measured(id_b, [ood_b], metric, draws=100)
        found += paired.difference_of(a, b).p < 0.05
    low, high = stats.binom.ppf([0.001, 0.999], trials, 0.05)
    assert low <= found <= high


def test_p_values_of_each_part_alone_are_the_known_tests() -> None:
    d, v, b = np.array([0.03, -0.01, 0.0]), np.array([1e-4, 1e-4, 1e-4]), np.zeros(3)
    np.testing.assert_allclose(paired.p_values(d, v, b), 2 * stats.norm.sf(np.abs(d) / 0.01))
    np.testing.assert_allclose(paired.p_values(d, b, v, 3.0), 2 * stats.t.sf(np.abs(d) / 0.01, 3))


def test_the_p_value_is_the_level_whose_interval_touches_zero() -> None:
    d, v, b, df = 0.05, 2e-4, 3e-4, 2.0
    (p,) = paired.p_values(*(np.array([x]) for x in (d, v, b)), df)
    assert paired.half_width(v, b, df, 1 - p) == pytest.approx(d)


def test_variance_between_networks() -> None:
    one, other = [0.90, 0.92, 0.97], [0.80, 0.81, 0.88]
    test = stats.ttest_rel(one, other)
    between, df = paired.between_networks(one, other, same=True)
    p = paired.p_values(
        np.array([np.mean(one) - np.mean(other)]), np.zeros(1), np.array([between]), df
    )
    assert p[0] == pytest.approx(test.pvalue)
    test = stats.ttest_ind(one, [*other, 0.79], equal_var=False)
    between, df = paired.between_networks(one, [*other, 0.79], same=False)
    p = paired.p_values(
        np.array([np.mean(one) - np.mean([*other, 0.79])]), np.zeros(1), np.array([between]), df
    )
    assert p[0] == pytest.approx(test.pvalue)
    assert paired.between_networks([0.9], [0.8], same=False) == (0.0, math.inf)
    between, df = paired.between_networks(one, [0.8], same=False)
    assert (between, df) == (pytest.approx(np.var(one, ddof=1) * (1 / 3 + 1)), 2)


def test_holm_by_hand_and_by_a_peer() -> None:
    np.testing.assert_allclose(paired.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    p = np.random.default_rng(0).random(20) ** 3
    np.testing.assert_allclose(paired.holm(p), multipletests(p, method="holm")[1])


def test_what_has_no_variance_is_not_told_apart_by_that() -> None:
    perfect = paired.measured(np.zeros(50), [np.ones(50)], "auroc")
    constant = paired.measured(np.zeros(50), [np.zeros(50)], "auroc")
    assert paired.difference_of(perfect, perfect).p == 1.0
    # the largest variance of an AUROC of one half on so many: 0.25 / 50
    assert paired.variance_of_difference(perfect, constant) == pytest.approx(0.005)
    few = paired.measured([0.0, 0.1, 0.2], [[1.0, 2.0]], "auroc")
    worse = paired.measured([0.0, 1.1, 2.2], [[1.0, 2.0]], "auroc")
    assert paired.difference_of(few, worse).p > 0.05


def test_other_samples_are_refused() -> None:
    one, other = (paired.measured(np.arange(n), [np.arange(n)], "auroc") for n in (20, 21))
    with pytest.raises(ValueError, match="not on the same samples"):
        paired.difference_of(one, other)
    with pytest.raises(ValueError, match="no metric"):
        paired.measured([1.0], [[2.0]], "accuracy")
    with pytest.raises(BadScoresError, match="NaN"):
        paired.measured([1.0, math.nan], [[2.0]], "auroc")


def test_means_of_figures_are_means_of_vectors() -> None:
    a, b = Measured(0.8, np.array([1.0, 0.0]), 30), Measured(0.6, np.array([0.0, 1.0]), 20)
    mean = paired.mean_of([a, b])
    assert (mean.value, mean.smallest) == (pytest.approx(0.7), 20)
    assert mean.error @ mean.error == pytest.approx(0.5)
