"""The metrics against hand-computed values, scikit-learn and simulations."""

from __future__ import annotations

import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from oodbench.errors import BadScoresError
from oodbench.metrics import (
    accuracy,
    all_intervals,
    all_metrics,
    aupr_ci,
    aupr_in,
    aupr_out,
    auroc,
    auroc_ci,
    bootstrap_ci,
    fpr_at_tpr,
    fpr_ci,
    mean_auroc_ci,
    mean_intervals,
    proportion_ci,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
Z95 = 1.959963984540054

TIED = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=60)
FEW = st.lists(st.sampled_from([0.0, -0.0, 1.0]), min_size=1, max_size=5)
ANY = st.lists(
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300),
    min_size=1,
    max_size=40,
)
SCORES = st.one_of(TIED, FEW, ANY).map(np.array)
PAIRS = st.one_of(st.tuples(TIED.map(np.array), TIED.map(np.array)), st.tuples(SCORES, SCORES))
quick = settings(max_examples=150, deadline=None)


def normal_scores(n: int, m: int, shift: float = 1.0, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.0, 1.0, n), rng.normal(shift, 1.0, m)


def sklearn_fpr(labels: Array, ranking: Array, tpr: float) -> float:
    fprs, tprs, _ = roc_curve(labels, ranking, drop_intermediate=False)
    return float(fprs[np.argmax(tprs >= tpr)])


def by_sklearn(ids: Array, oods: Array) -> dict[str, float]:
    scores = np.concatenate([ids, oods])
    is_ood = np.repeat([0.0, 1.0], [len(ids), len(oods)])
    return {
        "auroc": float(roc_auc_score(is_ood, scores)),
        "fpr95_id": sklearn_fpr(1 - is_ood, -scores, 0.95),
        "fpr95_ood": sklearn_fpr(is_ood, scores, 0.95),
        "aupr_in": float(average_precision_score(1 - is_ood, -scores)),
        "aupr_out": float(average_precision_score(is_ood, scores)),
    }


# --- values ---------------------------------------------------------------------------------------


def test_hand_computed_with_ties() -> None:
    ids, oods = [1.0, 2.0, 2.0], [2.0, 3.0]
    # Of the 6 pairs 4 are ordered and 2 tie.
    assert auroc(ids, oods) == pytest.approx(5 / 6)
    # Accepting 1: precision 1 at recall 1/3; accepting 2: precision 3/4 at recall 1.
    assert aupr_in(ids, oods) == pytest.approx(1 / 3 * 1 + 2 / 3 * 3 / 4)
    # Alarm at 3: precision 1 at recall 1/2; alarm at 2: precision 2/4 at recall 1.
    assert aupr_out(ids, oods) == pytest.approx(1 / 2 * 1 + 1 / 2 * 1 / 2)
    # All ID scores are <= 2, and so is one of the OOD scores; all OOD scores are >= 2, and so are
    # two of the ID scores.
    assert fpr_at_tpr(ids, oods) == 1 / 2
    assert fpr_at_tpr(ids, oods, positive="ood") == 2 / 3


def test_the_two_fpr_definitions_differ() -> None:
    ids = np.arange(1.0, 21.0)
    oods = np.array([25.0, 5.0, 19.0, 30.0, 18.5, 19.0, 40.0, 50.0, 60.0, 70.0])
    # 19 of 20 ID scores are <= 19 (exactly 95 %), and so are 5, 18.5, 19, 19.
    assert fpr_at_tpr(ids, oods) == 4 / 10
    # All 10 OOD scores are needed for 95 %: t = 5, and 16 ID scores are >= 5.
    assert fpr_at_tpr(ids, oods, positive="ood") == 16 / 20
    # 9 of 10 OOD scores are >= 18.5, and so are the ID scores 19 and 20.
    assert fpr_at_tpr(ids, oods, tpr=0.9, positive="ood") == 2 / 20
    assert all_metrics(ids, oods)["fpr95_id"] == 4 / 10
    assert all_metrics(ids, oods)["fpr95_ood"] == 16 / 20


def test_threshold_ties_are_all_accepted() -> None:
    # 18 of 20 are not enough, so the threshold is the 19th value, 1, with which the 20th ties.
    ids = np.repeat([0.0, 1.0], [18, 2])
    assert fpr_at_tpr(ids, [0.0, 1.0, 1.5, 2.0]) == 1 / 2


def test_perfect_and_reversed() -> None:
    perfect = {"auroc": 1, "fpr95_id": 0, "fpr95_ood": 0, "aupr_in": 1, "aupr_out": 1}
    assert all_metrics([1.0, 2.0], [3.0, 4.0]) == perfect
    worst = all_metrics([3.0, 4.0], [1.0, 2.0])
    assert (worst["auroc"], worst["fpr95_id"], worst["fpr95_ood"]) == (0, 1, 1)


def test_all_equal_scores_are_chance() -> None:
    values = all_metrics(np.zeros(30), np.zeros(10))
    assert values == {
        "auroc": 0.5,
        "fpr95_id": 1,
        "fpr95_ood": 1,
        "aupr_in": 0.75,
        "aupr_out": 0.25,
    }


def test_single_scores() -> None:
    assert auroc([0.0], [0.0]) == 0.5
    assert auroc([0.0], [1.0]) == 1.0
    assert fpr_at_tpr([0.0], [1.0]) == 0.0


@pytest.mark.parametrize("positive", ["id", "ood"])
def test_quota_is_exact_in_floating_point(positive: Any) -> None:
    # ceil(tpr * n) is off by one for many of these: 0.07 * 100 > 7, though 7 / 100 >= 0.07.
    for n in (1, 3, 7, 10, 20, 49, 100, 1000):
        ranks = np.arange(n) if positive == "id" else -np.arange(n)
        for k in range(1, n + 1):
            ids, oods = (ranks, ranks) if positive == "id" else (ranks[::-1], ranks)
            assert fpr_at_tpr(ids, oods, tpr=k / n, positive=positive) == k / n
            above = min(math.nextafter(k / n, 2.0), 1.0)
            assert fpr_at_tpr(ids, oods, tpr=above, positive=positive) == min(k + 1, n) / n


@quick
@given(PAIRS)
@example((np.array([0.0, -0.0]), np.array([-0.0, 0.0])))
@example((np.array([5e-324, 0.0]), np.array([0.0, 1e-323])))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_equal_to_sklearn(pair: tuple[Array, Array]) -> None:
    assert all_metrics(*pair) == pytest.approx(by_sklearn(*pair), rel=0, abs=1e-9)


@quick
@given(PAIRS, st.one_of(st.floats(1e-9, 1.0), st.sampled_from([0.05, 0.5, 0.8, 0.9, 0.99, 1.0])))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_fpr_at_any_tpr_equal_to_sklearn(pair: tuple[Array, Array], tpr: float) -> None:
    scores = np.concatenate(pair)
    is_ood = np.repeat([0.0, 1.0], [len(pair[0]), len(pair[1])])
    assert fpr_at_tpr(*pair, tpr=tpr) == sklearn_fpr(1 - is_ood, -scores, tpr)
    assert fpr_at_tpr(*pair, tpr=tpr, positive="ood") == sklearn_fpr(is_ood, scores, tpr)


@pytest.mark.parametrize("decimals", [0, 1, 3, 15])
@pytest.mark.parametrize("sizes", [(5000, 5000), (9999, 37), (37, 9999)])
def test_equal_to_sklearn_on_larger_arrays(decimals: int, sizes: tuple[int, int]) -> None:
    pair = tuple(np.round(x, decimals) for x in normal_scores(*sizes))
    assert all_metrics(*pair) == pytest.approx(by_sklearn(*pair), rel=0, abs=1e-12)


@quick
@given(PAIRS)
def test_all_metrics_equals_the_single_functions(pair: tuple[Array, Array]) -> None:
    assert all_metrics(*pair) == {
        "auroc": auroc(*pair),
        "fpr95_id": fpr_at_tpr(*pair),
        "fpr95_ood": fpr_at_tpr(*pair, positive="ood"),
        "aupr_in": aupr_in(*pair),
        "aupr_out": aupr_out(*pair),
    }


# --- properties -----------------------------------------------------------------------------------


@quick
@given(PAIRS)
def test_auroc_by_pairs_and_its_complement(pair: tuple[Array, Array]) -> None:
    ids, oods = pair
    wins = (oods[:, None] > ids).sum() + 0.5 * (oods[:, None] == ids).sum()
    assert auroc(ids, oods) == wins / (len(ids) * len(oods))
    assert auroc(oods, ids) == pytest.approx(1 - auroc(ids, oods), abs=1e-15)


@quick
@given(PAIRS)
def test_swapping_the_classes_and_negating_swaps_the_conventions(
    pair: tuple[Array, Array],
) -> None:
    before, after = all_metrics(*pair), all_metrics(-pair[1], -pair[0])
    swap = {"fpr95_id": "fpr95_ood", "aupr_in": "aupr_out"}
    swap |= {b: a for a, b in swap.items()}
    assert after == pytest.approx({k: before[swap.get(k, k)] for k in before}, abs=1e-15)


@quick
@given(
    PAIRS, st.sampled_from([lambda r: 2.0**r, lambda r: -98 + 1e-3 * r, lambda r: 1e30 * (r + 1)])
)
def test_only_the_order_counts(
    pair: tuple[Array, Array], mapping: Callable[[Array], Array]
) -> None:
    ranks = np.unique(np.concatenate(pair), return_inverse=True)[1].reshape(-1).astype(float)
    mapped = np.split(mapping(ranks), [len(pair[0])])
    assert all_metrics(*mapped) == all_metrics(*pair)


@quick
@given(PAIRS, st.randoms(use_true_random=False))
def test_sample_order_does_not_count(pair: tuple[Array, Array], random: Any) -> None:
    ids, oods = (np.array(random.sample(list(x), len(x))) for x in pair)
    assert all_metrics(ids, oods) == all_metrics(*pair)
    assert all_intervals(ids, oods, draws=20) == all_intervals(*pair, draws=20)


@pytest.mark.parametrize(
    ("base", "step"), [(-98.0, 1e-3), (98.0, 1e-12), (1e30, 1e15), (0, 1e-300)]
)
def test_extreme_scores_are_not_squashed(base: float, step: float) -> None:
    ids, oods = base - step * np.arange(1, 51), base + step * np.arange(1, 51)
    assert auroc(ids, oods) == 1.0
    assert fpr_at_tpr(ids, oods) == 0.0
    assert auroc(oods, ids) == 0.0


# --- inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_torch_tensors_of_any_precision(dtype: torch.dtype) -> None:
    ids, oods = (torch.from_numpy(x).to(dtype) for x in normal_scores(300, 200))
    expected = all_metrics(ids.double().numpy(), oods.double().numpy())
    assert all_metrics(ids, oods) == expected
    assert all_metrics(ids.requires_grad_(), oods.tolist()) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors() -> None:
    ids, oods = (torch.from_numpy(x) for x in normal_scores(300, 200))
    assert all_metrics(ids.cuda(), oods.cuda()) == all_metrics(ids, oods)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.int64, ">f4", ">f8"])
def test_numpy_types(dtype: Any) -> None:
    ids, oods = ((4 * x).astype(dtype) for x in normal_scores(300, 200))
    assert all_metrics(ids, oods) == all_metrics(ids.astype(float), oods.astype(float))


def test_mixed_types_and_strides() -> None:
    ids, oods = normal_scores(300, 200)
    narrow = ids.astype(np.float32)
    wide = narrow.astype(np.float64)
    assert all_metrics(narrow[::-2], oods) == all_metrics(wide[::-2].copy(), list(oods))


def test_inputs_are_not_changed() -> None:
    ids, oods = normal_scores(100, 80)
    copies = ids.copy(), oods.copy()
    for array in (ids, oods):
        array.flags.writeable = False
    tensor = torch.from_numpy(copies[0].copy())
    all_metrics(ids, oods)
    all_intervals(ids, oods, draws=10)
    bootstrap_ci(auroc, ids, oods, draws=3)
    all_metrics(tensor, oods)
    np.testing.assert_array_equal(ids, copies[0])
    np.testing.assert_array_equal(oods, copies[1])
    np.testing.assert_array_equal(tensor.numpy(), copies[0])


TAKING_SCORES: list[Callable[[Any, Any], object]] = [
    auroc,
    fpr_at_tpr,
    aupr_in,
    aupr_out,
    all_metrics,
    auroc_ci,
    lambda ids, oods: mean_auroc_ci(ids, [oods]),
    fpr_ci,
    lambda ids, oods: bootstrap_ci(auroc, ids, oods, draws=2),
    all_intervals,
]


@pytest.mark.parametrize("function", TAKING_SCORES)
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([], "empty"),
        ([1.0, math.nan, math.nan], "2 NaN and 0 infinite values among 3, .* at index 1"),
        ([1.0, 2.0, -math.inf], "0 NaN and 1 infinite values among 3, .*-inf.* at index 2"),
        ([[1.0], [2.0]], r"one-dimensional.*\(2, 1\)"),
        (1.0, "one-dimensional"),
        ([[1.0], [2.0, 3.0]], "no array of numbers"),
        (["a", "b"], "real numbers"),
        ([1j], "real numbers"),
        ([None], "real numbers"),
        (torch.tensor([1.0, math.inf], dtype=torch.bfloat16), "at index 1"),
    ],
)
def test_bad_scores(function: Callable[[Any, Any], object], bad: Any, says: str) -> None:
    with pytest.raises(BadScoresError, match=f"^ID scores .*{says}"):
        function(bad, [1.0, 2.0])
    with pytest.raises(BadScoresError, match=f"^OOD .*{says}"):
        function([1.0, 2.0], bad)


def test_bad_scores_name_the_set() -> None:
    with pytest.raises(BadScoresError, match=r"^OOD set 1 scores"):
        mean_auroc_ci([1.0], [[2.0], [math.nan]])


@pytest.mark.parametrize(
    "call",
    [
        lambda: fpr_at_tpr([1.0], [2.0], tpr=0.0),
        lambda: fpr_at_tpr([1.0], [2.0], tpr=1.01),
        lambda: fpr_at_tpr([1.0], [2.0], tpr=math.nan),
        lambda: fpr_at_tpr([1.0], [2.0], positive="in"),  # type: ignore[arg-type]
        lambda: fpr_ci([1.0], [2.0], tpr=95),
        lambda: fpr_ci([1.0], [2.0], positive="in"),  # type: ignore[arg-type]
        lambda: fpr_ci([1.0], [2.0], draws=0),
        lambda: fpr_ci([1.0], [2.0], level=1.0),
        lambda: auroc_ci([1.0], [2.0], level=0.0),
        lambda: auroc_ci([1.0, 2.0, 3.0], [1.0, 2.5], level=95),
        lambda: mean_auroc_ci([1.0], []),
        lambda: bootstrap_ci(auroc, [1.0], [2.0], draws=0),
        lambda: bootstrap_ci(auroc, [1.0], [2.0], level=-1),
        lambda: aupr_ci([1.0], [2.0], positive="in"),  # type: ignore[arg-type]
        lambda: aupr_ci([1.0, 2.0], [1.5, 2.5], level=2),
        lambda: mean_intervals([1.0], []),
        lambda: proportion_ci(11, 10),
        lambda: proportion_ci(-1, 10),
        lambda: proportion_ci(0, 0),
        lambda: proportion_ci(1, 2, level=math.nan),
    ],
)
def test_bad_arguments(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert not isinstance(caught.value, BadScoresError)


# --- accuracy -------------------------------------------------------------------------------------


def test_accuracy() -> None:
    logits = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [-np.inf, 3.0]])
    # The tie in the third row goes to class 0.
    assert accuracy(logits, [1, 1, 0, 1]) == 3 / 4
    assert accuracy([1, 0, 0, 1], [1, 1, 0, 1]) == 3 / 4
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert accuracy(torch.from_numpy(logits).to(dtype), torch.tensor([1, 1, 0, 1])) == 3 / 4


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [([], []), ([1, 2], [1]), ([[[1.0]]], [0]), (np.zeros((2, 0)), [0, 0]), ([1, 1], [[1], [1]])],
)
def test_accuracy_of_unfit_shapes(predictions: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match="shapes"):
        accuracy(predictions, labels)


def test_accuracy_of_nan_logits() -> None:
    with pytest.raises(BadScoresError, match=r"1 of 4 .* NaN"):
        accuracy([[0.0, math.nan], [1.0, 2.0]], [0, 1])


# --- intervals ------------------------------------------------------------------------------------


def std_of(interval: tuple[float, float], point: float) -> float:
    """The standard error v p (1 - p) that Wilson's 95 % interval of a variance v stands for."""
    low = interval[0]
    return (point - low) / Z95 * math.sqrt(point * (1 - point) / (low * (1 - low)))


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
    # variance 1/32, hence var(A) = 1/64 + 1/64.
    # The ends t solve (7/8 - t)² = z² v t (1 - t) with v = 1/32 / (7/8 * 1/8).
    spread = Z95**2 / 32 / (7 / 8 * 1 / 8)
    roots = np.roots([1 + spread, -(7 / 4 + spread), (7 / 8) ** 2])
    assert auroc_ci([1.0, 2.0], [2.0, 3.0]) == pytest.approx(tuple(sorted(roots)), abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 15])
def test_delong_variance_by_definition(decimals: int) -> None:
    ids, first = (np.round(x, decimals) for x in normal_scores(80, 50))
    second = np.round(normal_scores(1, 120, shift=0.3, seed=1)[1], decimals)
    for sets in ([first], [first, second]):
        point = float(np.mean([auroc(ids, s) for s in sets]))
        std = std_of(mean_auroc_ci(ids, sets), point)
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
    std = std_of(mean_auroc_ci(ids, sets), point)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(1000):
        resampled = rng.choice(ids, len(ids))
        means.append(np.mean([auroc(resampled, rng.choice(s, len(s))) for s in sets]))
    # The bootstrap's own error is 1 / sqrt(2 * 1000) = 2.2 %, its bias about 1 / 60.
    assert std == pytest.approx(float(np.std(means)), rel=4 * 0.022 + 1 / 60)
    # With few ID scores, most of the error is theirs and common to all sets: taking the three
    # AUROCs for independent would promise a much shorter interval.
    separate = [std_of(auroc_ci(ids, s), auroc(ids, s)) for s in sets]
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
    tolerance = 0.5 * std_of(expected, auroc(ids, oods))
    assert bootstrap_ci(auroc, ids, oods, draws=2000) == pytest.approx(expected, abs=tolerance)


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


# --- the benchmark --------------------------------------------------------------------------------


def test_benchmark_script_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "metrics.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--n", "500", "--repeat", "1"])
    runpy.run_path(str(script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10].strip() for line in lines[2:]] == [
        "continuous",
        "1000s of v",
        "heavily ti",
        "two values",
    ]
