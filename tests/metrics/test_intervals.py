"""Confidence intervals: by definition, as often right as they say, and never above their metric."""

from __future__ import annotations

import itertools
import math
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import beta, binom, binomtest, norm

from oodbench.errors import BadScoresError
from oodbench.metrics import (
    all_intervals,
    all_metrics,
    aupr_ci,
    aupr_in,
    aupr_out,
    auroc,
    auroc_ci,
    bootstrap_ci,
    fpr_ci,
    mean_auroc_ci,
    mean_intervals,
    proportion_ci,
)
from tests.helpers.metrics import PAIRS, Array, normal_scores, quick

Z95 = 1.959963984540054


# --- intervals ------------------------------------------------------------------------------------


def std_of(interval: tuple[float, float], point: float, smallest: int) -> float:
    """The standard error that the lower end of a 95 % interval stands for, away from 0 and 1."""
    (low, _), q = interval, point * (1 - point)

    def lower_end(variance: float) -> float:
        v, c = variance / q, 1.25 * Z95**2 * variance / q
        away = lambda t: (
            point - t - Z95 * math.sqrt(v * t * (1 - t) * math.sqrt((t * (1 - t) + c) / (q + c)))
        )
        return float(brentq(away, 1e-9, point - 1e-9))

    variance = float(brentq(lambda v: lower_end(v) - low, 1e-9, 0.1))
    return math.sqrt(variance / (1 + (Z95**2 + 1) / (2 * (smallest - 1))))


def pairwise_delong_variance(ids: Array, sets: list[Array]) -> float:
    """DeLong's variance of a mean AUROC by its definition, in O(n m)."""
    wins = [(s[:, None] > ids) + 0.5 * (s[:, None] == ids) for s in sets]
    of_id = np.mean([w.mean(axis=0) for w in wins], axis=0)
    variance = np.var(of_id, ddof=1) / len(ids)
    for w in wins:
        variance += np.var(w.mean(axis=1), ddof=1) / len(w) / len(sets) ** 2
    return float(variance)


def test_auroc_ci_by_hand() -> None:
    # Pairs: 1, 1, 1/2, 1, so A = 7/8; both classes' placement values are 1 and 3/4 with the sample
    # variance 1/32, hence var(A) = 1/64 + 1/64, times 1 + (z² + 1) / 2 for two scores a class.
    v = 1 / 32 * (1 + (Z95**2 + 1) / 2) / (7 / 64)
    c = 1.25 * Z95**2 * v
    for t in auroc_ci([1.0, 2.0], [2.0, 3.0]):
        root = math.sqrt((t * (1 - t) + c) / (7 / 64 + c))
        assert (7 / 8 - t) ** 2 == pytest.approx(Z95**2 * v * t * (1 - t) * root, rel=1e-9)


@pytest.mark.parametrize("decimals", [0, 1, 15])
def test_delong_variance_by_definition(decimals: int) -> None:
    ids, first = (np.round(x, decimals) for x in normal_scores(80, 50))
    second = np.round(normal_scores(1, 120, shift=0.3, seed=1)[1], decimals)
    for sets in ([first], [first, second]):
        point = float(np.mean([auroc(ids, s) for s in sets]))
        std = std_of(mean_auroc_ci(ids, sets), point, min(80, *map(len, sets)))
        assert std**2 == pytest.approx(pairwise_delong_variance(ids, sets), rel=1e-9)
    assert mean_auroc_ci(ids, [first]) == auroc_ci(ids, first)


def test_auroc_ci_coverage() -> None:
    # AUROC of N(0, 1) against N(1, 1). The Monte-Carlo error of a coverage of 95 % over 1500 runs
    # is 0.56 %; 3 of these, and 1 % for the interval being an asymptotic one, make 2.7 %.
    truth = 0.5 * (1 + math.erf(0.5))
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1500):
        low, high = auroc_ci(rng.normal(0, 1, 60), rng.normal(1, 1, 40))
        hits += low <= truth <= high
    assert abs(hits / 1500 - 0.95) < 0.027


def test_mean_auroc_ci_agrees_with_a_bootstrap_and_knows_the_covariance() -> None:
    ids = normal_scores(60, 1)[0]
    sets = [normal_scores(1, 400, shift=1.0, seed=j)[1] for j in (1, 2, 3)]
    point = float(np.mean([auroc(ids, s) for s in sets]))
    std = std_of(mean_auroc_ci(ids, sets), point, 60)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(1000):
        resampled = rng.choice(ids, len(ids))
        means.append(np.mean([auroc(resampled, rng.choice(s, len(s))) for s in sets]))
    # The bootstrap's own error is 1 / sqrt(2 * 1000) = 2.2 %, its bias about 1 / 60.
    assert std == pytest.approx(float(np.std(means)), rel=4 * 0.022 + 1 / 60)
    # With few ID scores, most of the error is theirs and common to all sets: taking the three
    # AUROCs for independent would promise a much shorter interval.
    separate = [std_of(auroc_ci(ids, s), auroc(ids, s), 60) for s in sets]
    assert std > 1.4 * math.sqrt(sum(x * x for x in separate)) / 3


@pytest.mark.parametrize(
    ("ids", "oods", "successes", "n"),
    [
        (np.zeros(30), np.zeros(50), 15, 30),
        (np.zeros(1), np.array([-1.0, 1.0, 0.0, 2.0, -2.0]), 0.5, 1),
    ],
)
def test_auroc_ci_without_variance(ids: Array, oods: Array, successes: float, n: int) -> None:
    assert auroc(ids, oods) == successes / n
    assert auroc_ci(ids, oods) == proportion_ci(successes, n)  # type: ignore[arg-type]


def test_constant_placements_have_no_variance_despite_rounding() -> None:
    # The mean of 1, 1 and 0 is no binary fraction, and NumPy's variance of many of it is not 0.
    ids = np.zeros(11)
    sets = [np.ones(6), np.ones(7), -np.ones(9)]
    assert mean_auroc_ci(ids, sets) == pytest.approx(proportion_ci(4, 6))


@pytest.mark.parametrize("positive", ["id", "ood"])
def test_fpr_ci_at_the_edges(positive: Any) -> None:
    # Of m negatives none was accepted: the 97.5 % quantile of Beta(1/2, m + 1/2).
    m = {"id": 80, "ood": 50}[positive]
    end = beta.ppf(0.975, 0.5, m + 0.5)
    low, high = fpr_ci(np.zeros(50), np.ones(80), positive=positive, draws=40_000)
    assert (low, high) == (0.0, pytest.approx(end, rel=0.1))
    low, high = fpr_ci(np.ones(50), np.zeros(80), positive=positive, draws=40_000)
    assert (low, high) == (pytest.approx(1 - end, abs=0.1 * end), 1.0)


@pytest.mark.parametrize("positive", ["id", "ood"])
@pytest.mark.parametrize("decimals", [0, 15])
def test_fpr_ci_by_definition(positive: Any, decimals: int) -> None:
    ids, oods = (np.round(2 * x, decimals) for x in normal_scores(150, 200, shift=2.0))
    low_first = (ids, oods) if positive == "id" else (-oods, -ids)
    positives, negatives = (np.sort(x) for x in low_first)
    n, m = len(positives), len(negatives)
    # Negatives at or below each positive, and one mean step of the last 5 % beyond them.
    counts = np.searchsorted(negatives, positives, side="right").astype(float)
    last = round(0.05 * n)
    counts = np.array([0.0, *counts, min(m, counts[-1] + (counts[-1] - counts[-1 - last]) / last)])
    parts, rates = (np.arange(10) + 0.5) / 10, np.linspace(0, 1, 501)
    share = np.zeros_like(rates)
    for k in range(int(0.8 * n), n + 1):
        false = counts[k] + parts[:, None] * (counts[k + 1] - counts[k])
        below = beta.cdf(rates, false + 0.5, m - false + 0.5).mean(axis=0)
        share += binom.pmf(k, n, 0.95) * below
    low, high = fpr_ci(ids, oods, positive=positive, draws=40_000)
    # A 2.5 % quantile of 40,000 draws is the true one of 2.5 ± 0.3 %, 4 standard errors.
    assert 0.022 < np.interp(low, rates, share) < 0.028
    assert 0.972 < np.interp(high, rates, share) < 0.978


def test_fpr_ci_covers_with_a_hundred_positives() -> None:
    # The percentile bootstrap held the truth in 89 % of such draws: most misses were above it.
    truth, rng = norm.cdf(norm.ppf(0.95) - 2.5), np.random.default_rng(0)
    misses = np.zeros(2)
    for seed in range(1000):
        ids, oods = rng.normal(0, 1, 1000), rng.normal(2.5, 1, 100)
        low, high = fpr_ci(ids, oods, positive="ood", draws=500, seed=seed)
        misses += truth < low, truth > high
    assert 25 <= misses.sum() <= 70
    assert misses.max() <= 40


def test_seeds() -> None:
    ids, oods = normal_scores(100, 100)
    assert fpr_ci(ids, oods, seed=1) == fpr_ci(ids, oods, seed=1)
    assert fpr_ci(ids, oods, draws=200, seed=1) != fpr_ci(ids, oods, draws=200, seed=2)
    assert bootstrap_ci(auroc, ids, oods, draws=20, seed=1) == bootstrap_ci(
        auroc, ids, oods, draws=20, seed=1
    )


def test_bootstrap_ci_agrees_with_delong() -> None:
    ids, oods = normal_scores(150, 150)
    expected = auroc_ci(ids, oods)
    # 4 * 6 % of the standard deviation for 2000 draws, and as much for percentiles being no logits.
    tolerance = 0.5 * std_of(expected, auroc(ids, oods), 150)
    assert bootstrap_ci(auroc, ids, oods, draws=2000) == pytest.approx(expected, abs=tolerance)


def out_of_order(kind: str, n: int = 271, m: int = 520) -> Iterator[tuple[Array, Array]]:
    """Scores in perfect order, then with more and more pairs out of order."""
    ids, oods = np.arange(n, dtype=float), np.arange(n, n + m, dtype=float)
    yield ids.copy(), oods.copy()
    for step in range(1, 60):
        if kind == "one OOD score sinks":
            oods[0] = n - step - 0.5
        elif kind == "one ID score rises":
            ids[-1] = n + step - 0.5
        elif kind == "it ties on its way":
            oods[0] = n - step / 2 - 0.5
        elif kind == "many OOD scores sink a little":
            oods[step - 1] = n - 1.5
        elif kind == "all OOD scores sink":
            oods -= 1.0
        yield ids.copy(), np.sort(oods)


@pytest.mark.parametrize(
    ("sizes", "level"),
    [
        ((271, 520), 0.95),
        ((1000, 100), 0.95),
        ((100, 1000), 0.95),
        ((60, 60), 0.95),
        ((271, 520), 0.8),
        ((60, 60), 0.99),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [
        "one OOD score sinks",
        "one ID score rises",
        "it ties on its way",
        "many OOD scores sink a little",
        "all OOD scores sink",
    ],
)
def test_a_worse_result_has_no_higher_lower_end(
    kind: str, sizes: tuple[int, int], level: float
) -> None:
    before = dict.fromkeys(("auroc_low", "aupr_in_low", "aupr_out_low"), 1.0)
    for ids, oods in out_of_order(kind, *sizes):
        ends = all_intervals(ids, oods, level=level, draws=1)
        for key, low in before.items():
            assert ends[key] <= low + 1e-12
            before[key] = ends[key]


@pytest.mark.parametrize("sizes", [(271, 520), (1000, 100), (100, 1000), (50, 50)])
def test_intervals_are_continuous_up_to_one(sizes: tuple[int, int]) -> None:
    perfect, first, second = itertools.islice(out_of_order("one OOD score sinks", *sizes), 3)
    for name in ("auroc", "aupr_in", "aupr_out"):
        lows = [all_intervals(*pair, draws=1)[f"{name}_low"] for pair in (perfect, first, second)]
        # A pair out of order moves them by about as much as the metric, not by an order of n.
        assert 0.0 <= lows[0] - lows[1] < 0.05 * (1.0 - lows[0])
        assert 0.0 <= lows[1] - lows[2] < 0.2 * (1.0 - lows[0])
        assert 0.2 / max(sizes) < 1.0 - lows[0] < 2.0 / min(sizes)
    assert auroc_ci(*perfect)[1] == 1.0


def test_aupr_near_one_is_known_well() -> None:
    # One pair out of order, of 271 and 520 scores: (0, 1) from the logit interval of one class.
    ids, oods = list(out_of_order("one OOD score sinks"))[1]
    for name, pair in (("aupr_in", aupr_ci(ids, oods)), ("aupr_out", aupr_ci(ids, oods, "ood"))):
        assert all_metrics(ids, oods)[name] > 0.9999
        assert 0.995 < pair[0] < 0.999
        assert pair[1] > 0.99999
    for seed in range(5):
        pair = normal_scores(271, 520, shift=5.0, seed=seed)
        low, high = aupr_ci(*pair)
        assert high - low < 0.01


@pytest.mark.parametrize("decimals", [0, 15])
@pytest.mark.parametrize("sizes", [(300, 60), (60, 300)])
def test_aupr_ci_knows_the_noise_of_both_classes(sizes: tuple[int, int], decimals: int) -> None:
    ids, oods = (np.round(x, decimals) for x in normal_scores(*sizes, shift=1.5))
    rng = np.random.default_rng(0)
    draws = [(rng.choice(ids, len(ids)), rng.choice(oods, len(oods))) for _ in range(1000)]
    for metric, positive in ((aupr_in, "id"), (aupr_out, "ood")):
        low, high = aupr_ci(ids, oods, positive=positive)  # type: ignore[arg-type]
        spread = float(np.std([metric(*pair) for pair in draws]))
        # The bootstrap's own error is 2.2 %; for 60 scores the variance is enlarged by a fifth.
        assert 0.93 < (high - low) / (2 * Z95 * spread) < 1.3


def test_aupr_ci_by_definition() -> None:
    # By numerical derivative: the influence of a score is what more weight on it does to the AP.
    ids, oods = (np.round(x, 1) for x in normal_scores(20, 12))

    def weighted(of_ids: Array, of_oods: Array) -> float:
        p = 0.0
        for x, w in zip(ids, of_ids, strict=True):
            a, b = of_ids[ids <= x].sum() / 20, of_oods[oods <= x].sum() / 12
            p += w / 20 * a / (a + 12 / 20 * b)
        return float(p)

    base = np.ones(20), np.ones(12)
    assert weighted(*base) == pytest.approx(aupr_in(ids, oods))
    slopes = [
        [(weighted(base[0] + side * e, base[1] + (1 - side) * f) - weighted(*base)) / 1e-6]
        for side, size in ((1, 20), (0, 12))
        for i in range(size)
        for e, f in [(1e-6 * np.eye(20)[i % 20], 1e-6 * np.eye(12)[i % 12])]
    ]
    of_ids, of_oods = np.array(slopes[:20]) * 20, np.array(slopes[20:]) * 12
    variance = of_ids.var(ddof=1) / 20 + of_oods.var(ddof=1) / 12
    enlarged = std_of(aupr_ci(ids, oods), aupr_in(ids, oods), 12) ** 2
    assert enlarged == pytest.approx(variance * (1 + 8 / 11), rel=1e-3)


def test_mean_intervals_of_one_set_are_all_intervals() -> None:
    ids, oods = normal_scores(200, 100)
    assert mean_intervals(ids, [oods], draws=50) == all_intervals(ids, oods, draws=50)
    assert mean_intervals(ids, [oods] * 2)["auroc_low"] < mean_auroc_ci(ids, [oods])[1]
    with pytest.raises(BadScoresError, match=r"^OOD set 1 scores"):
        mean_intervals(ids, [oods, [math.inf]])


def test_mean_intervals_know_what_the_sets_share() -> None:
    # Many OOD scores, few ID scores: the error is the ID scores' own, common to all sets.
    ids = normal_scores(80, 1)[0]
    sets = [normal_scores(1, 1500, shift=s, seed=j)[1] for j, s in enumerate((0.8, 1.0, 1.2))]
    mean = mean_intervals(ids, sets)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(500):
        resampled = rng.choice(ids, len(ids))
        each = [all_metrics(resampled, rng.choice(s, len(s))) for s in sets]
        means.append({k: np.mean([one[k] for one in each]) for k in each[0]})
    for name in means[0]:
        width = mean[f"{name}_high"] - mean[f"{name}_low"]
        single = [all_intervals(ids, s) for s in sets]
        apart = [one[f"{name}_high"] - one[f"{name}_low"] for one in single]
        spread = float(np.std([one[name] for one in means]))
        assert width == pytest.approx(2 * Z95 * spread, rel=0.2)
        assert width > 1.3 * math.sqrt(sum(w * w for w in apart)) / 3


@pytest.mark.parametrize(
    ("ids", "oods"),
    [
        (np.zeros(1), np.zeros(1)),
        (np.zeros(1), np.ones(1)),
        (np.ones(1), np.zeros(1)),
        (np.zeros(2), np.ones(2)),
        (np.zeros(1), np.arange(50.0)),
        (np.arange(50.0), np.zeros(1)),
        (np.zeros(5), np.zeros(5)),
    ],
)
def test_little_data_has_wide_intervals(ids: Array, oods: Array) -> None:
    ends = mean_intervals(ids, [oods, oods])
    for name, value in all_metrics(ids, oods).items():
        assert 0.0 <= ends[f"{name}_low"] <= value <= ends[f"{name}_high"] <= 1.0
        assert ends[f"{name}_high"] - ends[f"{name}_low"] > 0.15


def test_large_sets_of_very_different_sizes() -> None:
    ids, oods = normal_scores(400_000, 50, shift=1.5)
    ends = mean_intervals(ids, [oods, normal_scores(1, 100_000, shift=1.5, seed=1)[1]])
    for name in ("auroc", "fpr95_id", "fpr95_ood", "aupr_in"):
        assert 0.0 < ends[f"{name}_high"] - ends[f"{name}_low"] < 0.35


COVERAGE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))


@pytest.mark.parametrize(
    ("name", "n", "m"),
    [
        ("normal 75", 200, 200),
        ("normal 99.3", 1000, 100),
        ("normal 99.77", 200, 200),
        ("normal in steps of 0.5, shift 2.5", 100, 1000),
    ],
)
def test_intervals_cover_as_often_as_they_say(name: str, n: int, m: int) -> None:
    # The Monte-Carlo error of a coverage of 95 % over 250 repeats is 1.4 %; docs/coverage.md has
    # more settings, with smaller errors.
    [setting] = [s for s in COVERAGE["settings"]() if (s.name, s.n, s.m) == (name, n, m)]
    missed = COVERAGE["measure"](setting, setting.truth(100_000), 250, seed=0, draws=300)
    assert list(missed) == list(COVERAGE["FIGURES"])
    covered = {figure: 1 - below - above for figure, (below, above) in missed.items()}
    assert 0.93 < np.mean(list(covered.values())) < 0.975
    for figure, share in covered.items():
        assert 0.93 - 0.028 < share <= 1.0, figure


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_proportion_ci_is_wilsons(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 10**6))
    successes = data.draw(st.integers(0, n))
    level = data.draw(st.floats(0.01, 0.999))
    expected = binomtest(successes, n).proportion_ci(level, method="wilson")
    low, high = proportion_ci(successes, n, level)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0.0 <= low <= successes / n <= high <= 1.0


@quick
@given(PAIRS, st.floats(0.01, 0.999))
def test_intervals_hold_the_metrics(pair: tuple[Array, Array], level: float) -> None:
    values, ends = all_metrics(*pair), all_intervals(*pair, level=level, draws=50)
    assert set(ends) == {f"{name}_{end}" for name in values for end in ("low", "high")}
    for name, value in values.items():
        assert 0.0 <= ends[f"{name}_low"] <= value <= ends[f"{name}_high"] <= 1.0


@quick
@given(PAIRS)
def test_higher_levels_give_wider_intervals(pair: tuple[Array, Array]) -> None:
    narrow, wide = all_intervals(*pair, level=0.8), all_intervals(*pair, level=0.99)
    for key in narrow:
        assert wide[key] <= narrow[key] if key.endswith("low") else wide[key] >= narrow[key]


def test_all_intervals_equals_the_single_functions() -> None:
    ids, oods = normal_scores(200, 100)
    single = {
        "auroc": auroc_ci(ids, oods),
        "fpr95_id": fpr_ci(ids, oods),
        "fpr95_ood": fpr_ci(ids, oods, positive="ood"),
        "aupr_in": aupr_ci(ids, oods),
        "aupr_out": aupr_ci(ids, oods, positive="ood"),
    }
    ends = all_intervals(ids, oods)
    assert {k: (ends[f"{k}_low"], ends[f"{k}_high"]) for k in single} == single
    assert all(type(end) is float for end in ends.values())
