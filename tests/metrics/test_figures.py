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
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import (
    auc,
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from oodbench import metrics
from oodbench.errors import BadScoresError
from oodbench.metrics import (
    accuracy,
    all_intervals,
    all_metrics,
    aupr_ci,
    aupr_in,
    aupr_out,
    aupr_trapezoid,
    auroc,
    auroc_ci,
    bootstrap_ci,
    fpr_at_tpr,
    fpr_ci,
    mean_auroc_ci,
    mean_intervals,
    proportion_ci,
)
from tests.helpers.metrics import PAIRS, Array, normal_scores, quick


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


def sklearn_trapezoid(labels: Array, ranking: Array) -> float:
    precision, recall, _ = precision_recall_curve(labels, ranking)
    return float(auc(recall, precision))


@quick
@given(PAIRS)
@example((np.zeros(3), np.zeros(2)))
@example((np.array([0.0]), np.array([1.0])))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_aupr_trapezoid_equal_to_sklearn(pair: tuple[Array, Array]) -> None:
    scores = np.concatenate(pair)
    is_ood = np.repeat([0.0, 1.0], [len(pair[0]), len(pair[1])])
    expected = sklearn_trapezoid(1 - is_ood, -scores)
    assert aupr_trapezoid(*pair) == pytest.approx(expected, rel=0, abs=1e-12)
    expected = sklearn_trapezoid(is_ood, scores)
    assert aupr_trapezoid(*pair, positive="ood") == pytest.approx(expected, rel=0, abs=1e-12)


def test_the_two_auprs_differ_by_ties_alone() -> None:
    ids, oods = normal_scores(3000, 1000)
    assert aupr_trapezoid(ids, oods) == pytest.approx(aupr_in(ids, oods), abs=1e-3)
    assert aupr_trapezoid(ids, oods, "ood") == pytest.approx(aupr_out(ids, oods), abs=1e-3)
    # Half of the scores are tied at 0, the lowest: by hand, the first point has recall 1/2 and
    # precision 1/4, and there the straight line from (0, 1) is worth 5/16 and the step 1/8.
    ids, oods = np.repeat([0.0, 1.0], [10, 10]), np.repeat([0.0, 2.0], [30, 10])
    assert aupr_in(ids, oods) == pytest.approx(1 / 2 * 1 / 4 + 1 / 2 * 20 / 50)
    expected = 1 / 2 * (1 + 1 / 4) / 2 + 1 / 2 * (1 / 4 + 20 / 50) / 2
    assert aupr_trapezoid(ids, oods) == pytest.approx(expected)
    assert aupr_trapezoid([0.0] * 5, [0.0] * 5) == pytest.approx(0.75)  # chance is 0.5
    with pytest.raises(ValueError, match="positive"):
        aupr_trapezoid(ids, oods, positive="in")  # type: ignore[arg-type]


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


# --- the benchmark --------------------------------------------------------------------------------


def test_benchmark_script_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "metrics.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--n", "500", "--repeat", "1"])
    runpy.run_path(str(script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10].strip() for line in lines[2:]] == [
        "continuous",
        "1000s of v",
        "heavily ti",
        "two values",
    ]


# --- the gap --------------------------------------------------------------------------------------


def test_the_gap_is_the_difference_of_the_means() -> None:
    ids = np.arange(10.0)
    gap, low, high = metrics.auroc_gap(ids, [ids + 100, ids], [ids])
    assert gap == pytest.approx(0.25)
    assert low < gap < high
    gap, low, high = metrics.auroc_gap(ids, [ids + 100], [ids + 200])
    assert gap == 0
    assert -0.3 < low < -0.03  # AUROCs of 1 are not known exactly
    assert high == pytest.approx(-low)
    with pytest.raises(ValueError, match="each side"):
        metrics.auroc_gap(ids, [], [ids])


@pytest.mark.parametrize(
    ("ids", "easier", "harder"),
    [
        (np.arange(4.0), [[2.5]], [[1.5]]),
        (np.arange(4.0), [np.arange(9.0), [2.5]], [np.arange(8.0)]),
        (np.arange(4.0), [np.arange(9.0)], [[2.5]]),
        ([0.0], [np.arange(9.0)], [np.arange(8.0)]),
    ],
)
def test_the_gap_has_no_interval_where_a_set_has_one_score(
    ids: Any, easier: list[Any], harder: list[Any]
) -> None:
    gap, low, high = metrics.auroc_gap(ids, easier, harder)
    means = [np.mean([metrics.auroc(ids, s) for s in side]) for side in (easier, harder)]
    assert gap == pytest.approx(means[0] - means[1])
    assert np.isnan(low)
    assert np.isnan(high)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_the_gaps_interval_is_never_a_point(n: int) -> None:
    ids, constant = np.arange(float(n)), np.zeros(n)
    for base, easier, harder in (
        (ids, ids + 100, ids + 200),
        (ids, ids + 100, ids - 100),
        (ids, ids, ids),
        (constant, constant, constant),
        (constant, constant + 1, constant),
    ):
        gap, low, high = metrics.auroc_gap(base, [easier], [harder])
        assert -1 <= low <= gap <= high <= 1
        assert high - low > 0.01


def test_the_gaps_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = {}
    for shift in (0.5, 1.2):
        normal = rng.normal(size=400_000)
        truth[shift] = metrics.auroc(normal, rng.normal(shift, 1, 400_000))
    wanted = truth[1.2] - truth[0.5]
    hits = 0
    for _ in range(400):
        ids = rng.normal(size=60)
        _, low, high = metrics.auroc_gap(
            ids, [rng.normal(1.2, 1, 50), rng.normal(1.2, 1, 40)], [rng.normal(0.5, 1, 70)]
        )
        hits += low <= wanted <= high
    assert 0.91 < hits / 400 < 0.98


def test_the_gap_changes_its_sign_with_the_sides() -> None:
    rng = np.random.default_rng(0)
    ids, a, b = rng.normal(size=30), [rng.normal(size=20)], [rng.normal(1, 1, 25)]
    gap, low, high = metrics.auroc_gap(ids, a, b)
    assert metrics.auroc_gap(ids, b, a) == pytest.approx((-gap, -high, -low))
