"""Metrics of OOD detection and their confidence intervals.

An OOD score is higher for OOD data, everywhere. Scores are only ever compared with each other, in
float64 and as they come: no sigmoid, no rescaling, so scores of -98 ± 1e-3 or 1e30 keep their
order. Every metric is a function of ranks and follows scikit-learn on ties.

Two conventions exist for each of FPR@95 and AUPR, and papers mix them; here each name says which
class is the positive one: ``fpr95_id`` and ``aupr_in`` (ID), ``fpr95_ood`` and ``aupr_out`` (OOD).

Arguments that mean the same in every function:

- ``id_scores``, ``ood_scores``: ``[n]`` and ``[m]`` finite real numbers, n and m at least 1, as
  NumPy arrays, Python sequences or torch tensors on any device and in any precision. Arrays that
  are empty, not one-dimensional, NaN or infinite somewhere raise ``BadScoresError``.
- ``tpr`` in (0, 1], ``positive`` "id" or "ood", ``level`` (an interval's coverage) in (0, 1),
  ``draws`` (of a bootstrap) at least 1; else ``ValueError``. Equal ``seed``, equal draws.

Metrics lie in [0, 1]. Intervals are pairs ``(low, high)`` within [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np

from oodbench.errors import BadScoresError
from oodbench.metrics import intervals
from oodbench.metrics.intervals import Interval
from oodbench.metrics.ranks import Floats, Ranks, Scores, sorted_scores, to_numpy

Positive: TypeAlias = Literal["id", "ood"]

INTERVALS = (
    "AUROC and AUPR: score intervals with the variance of influence functions, DeLong's for AUROC; "
    "FPR@95: draws of threshold and rate"
)
"""How :func:`all_intervals` and :func:`mean_intervals` are made, in the words of the pages."""


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """Area under the ROC curve: ``P(ood > id) + P(ood = id) / 2``; 0.5 is chance."""
    return Ranks.of(id_scores, ood_scores).auroc


def fpr_at_tpr(
    id_scores: Scores, ood_scores: Scores, tpr: float = 0.95, positive: Positive = "id"
) -> float:
    """False positive rate at the first threshold that reaches a true positive rate.

    With ``positive="id"`` the threshold t is the smallest ID score such that the share of ID
    scores <= t is at least ``tpr``; the result is the share of OOD scores <= t (OOD data taken for
    ID). With ``positive="ood"`` t is the largest OOD score such that the share of OOD scores >= t
    is at least ``tpr``; the result is the share of ID scores >= t (false alarms). Both equal the
    first point of scikit-learn's ``roc_curve`` (``drop_intermediate=False``) with that TPR.
    """
    return Ranks.of(id_scores, ood_scores).fpr(tpr, positive)


def aupr_in(id_scores: Scores, ood_scores: Scores) -> float:
    """Average precision with ID as the positive class, ranked by low scores.

    ``AP = sum_k (R_k - R_(k-1)) P_k`` over the distinct scores, without interpolation, as in
    scikit-learn's ``average_precision_score``. Chance is ``n / (n + m)``, so values compare only
    between equal class ratios.
    """
    return Ranks.of(id_scores, ood_scores).aupr_in


def aupr_out(id_scores: Scores, ood_scores: Scores) -> float:
    """Average precision with OOD as the positive class, ranked by high scores.

    The formula is that of :func:`aupr_in`; chance is ``m / (n + m)``.
    """
    return Ranks.of(id_scores, ood_scores).aupr_out


def aupr_trapezoid(id_scores: Scores, ood_scores: Scores, positive: Positive = "id") -> float:
    """AUPR as other suites compute it: points of the curve are joined by straight lines.

    ``sum_k (R_k - R_(k-1)) (P_k + P_(k-1)) / 2`` over the distinct scores, from R_0 = 0 and
    P_0 = 1: scikit-learn's ``auc`` of its ``precision_recall_curve``, as in OpenOOD
    (``openood/evaluators/metrics.py``) and MultiOOD (``metrics.py``, the same code). Rows and pages
    have the average precision, which differs little without ties. With many ties the lines promise
    points that no threshold reaches, which is too optimistic in general (Davis & Goadrich, ICML
    2006). PALM's AUIN and AUOUT (``util/evaluations/metrics.py``) are trapezoids as well, but from
    P_0 = 0, which takes up to 1 / 2n off for n positives.
    """
    return Ranks.of(id_scores, ood_scores).trapezoid(positive)


def all_metrics(id_scores: Scores, ood_scores: Scores) -> dict[str, float]:
    """All five metrics from one sort of each array.

    Returns:
        ``auroc``, ``fpr95_id``, ``fpr95_ood``, ``aupr_in`` and ``aupr_out``.
    """
    ranks = Ranks.of(id_scores, ood_scores)
    return {
        "auroc": ranks.auroc,
        "fpr95_id": ranks.fpr(0.95, "id"),
        "fpr95_ood": ranks.fpr(0.95, "ood"),
        "aupr_in": ranks.aupr_in,
        "aupr_out": ranks.aupr_out,
    }


def accuracy(logits_or_predictions: Scores, labels: Scores) -> float:
    """Share of samples whose prediction equals the label; see :func:`correct`."""
    return float(np.mean(correct(logits_or_predictions, labels)))


def correct(logits_or_predictions: Scores, labels: Scores) -> np.ndarray:
    """Where the prediction equals the label, ``[N]`` of true and false.

    Args:
        logits_or_predictions: ``[N, C]`` logits, of which the first largest is the prediction, or
            ``[N]`` predicted labels.
        labels: ``[N]`` true labels.

    Raises:
        BadScoresError: The logits or predictions have NaN values.
        ValueError: There are no samples, or the shapes do not fit each other.
    """
    predicted, true = to_numpy(logits_or_predictions), to_numpy(labels)
    fits = predicted.ndim in (1, 2) and true.ndim == 1 and len(predicted) == len(true)
    if not fits or predicted.size == 0:
        raise ValueError(
            f"accuracy needs [N, C] logits or [N] predictions and [N] labels with N >= 1, got the "
            f"shapes {predicted.shape} and {true.shape}"
        )
    bad = int(np.count_nonzero(predicted != predicted))  # isnan would refuse labels that are names
    if bad:
        raise BadScoresError(
            f"{bad} of {predicted.size} logits or predictions are NaN: accuracy is undefined; look "
            f"for a diverged training or half-precision overflow"
        )
    if predicted.ndim == 2:
        predicted = predicted.argmax(axis=1)
    return np.asarray(predicted == true)


def auroc_ci(id_scores: Scores, ood_scores: Scores, level: float = 0.95) -> Interval:
    """Interval of :func:`auroc`: :func:`mean_auroc_ci` with one OOD set."""
    return intervals.of_mean([Ranks.of(id_scores, ood_scores)], "auroc", level)


def mean_auroc_ci(
    id_scores: Scores, list_of_ood_scores: Sequence[Scores], level: float = 0.95
) -> Interval:
    """Interval of the unweighted mean AUROC of J OOD sets that share their ID scores.

    The variance is DeLong's, ``S_id / n + sum_j S_j / (m_j J²)``. ``S_id`` is the sample variance
    of the ID placement values ``P(ood > x) + P(ood = x) / 2`` after averaging them over the J sets,
    which carries the covariance that the shared ID scores bring; ``S_j`` is that of the OOD
    placement values of set j. The interval is that of :func:`mean_intervals`.

    Sources: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988); placement values from ranks in
    O(n log n): Sun & Xu, IEEE Signal Processing Letters 21 (2014).

    Raises:
        ValueError: ``list_of_ood_scores`` (J arrays ``[m_j]``) is empty.
    """
    return intervals.of_mean(_sharing(id_scores, list_of_ood_scores), "auroc", level)


def aupr_ci(
    id_scores: Scores, ood_scores: Scores, positive: Positive = "id", level: float = 0.95
) -> Interval:
    """Interval of :func:`aupr_in` (``positive="id"``) or :func:`aupr_out`.

    A score interval with the variance of the average precision's influence function, in which both
    classes have their part; it is that of :func:`mean_intervals`.
    """
    if positive not in ("id", "ood"):
        raise ValueError(f"positive must be 'id' or 'ood', got {positive!r}")
    metric = "aupr_in" if positive == "id" else "aupr_out"
    return intervals.of_mean([Ranks.of(id_scores, ood_scores)], metric, level)


def fpr_ci(
    id_scores: Scores,
    ood_scores: Scores,
    tpr: float = 0.95,
    positive: Positive = "id",
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of :func:`fpr_at_tpr` that counts the noise of the threshold and of the rate.

    Percentiles of draws: of n positives ``B ~ Binomial(n, tpr)`` are accepted by the population's
    threshold, so it lies between the B-th and the next positive, and there c of m negatives give
    the rate ``Beta(c + 1/2, m - c + 1/2)``; see ``oodbench.metrics.intervals``. If need be the
    interval is widened to hold the FPR.
    """
    sets = [Ranks.of(id_scores, ood_scores)]
    return intervals.of_mean_fpr(sets, tpr, positive, level, draws, seed)


def mean_intervals(
    id_scores: Scores,
    list_of_ood_scores: Sequence[Scores],
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Intervals of the unweighted means of all metrics over J OOD sets that share their ID scores.

    AUROC and AUPR: score intervals by the influence functions of both classes; FPR: draws of the
    threshold and of the rate. The ID scores' part of the error is counted once, as it is common to
    the sets. ``oodbench.metrics.intervals`` has the formulas and sources, docs/coverage.md how
    often they hold the truth. Time and memory are of the order of the scores, whatever ``draws``.

    Args:
        id_scores: ``[n]``.
        list_of_ood_scores: J arrays ``[m_j]``, J at least 1.
        level: of the intervals.
        draws: of the FPRs.
        seed: of the draws.

    Returns:
        ``<metric>_low`` and ``<metric>_high`` for each key of :func:`all_metrics`.

    Raises:
        ValueError: ``list_of_ood_scores`` (J arrays ``[m_j]``) is empty.
    """
    return _all_intervals(_sharing(id_scores, list_of_ood_scores), level, draws, seed)


def all_intervals(
    id_scores: Scores, ood_scores: Scores, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Intervals of all metrics: :func:`mean_intervals` with one OOD set."""
    return _all_intervals([Ranks.of(id_scores, ood_scores)], level, draws, seed)


def auroc_gap(
    id_scores: Scores, easier: Sequence[Scores], harder: Sequence[Scores], level: float = 0.95
) -> tuple[float, float, float]:
    """How much higher the mean AUROC of some OOD sets is than that of others, and its interval.

    ``mean_j AUROC(easier_j) - mean_k AUROC(harder_k)``, in [-1, 1]. Each end is as far away as the
    root mean square of two distances. One is DeLong's, ``z`` standard errors of the contrast, for
    which the ID scores that all sets share are counted once. The other joins the two means' own
    intervals (:func:`mean_auroc_ci`: l, u and L, U around A and B) by the method of variance
    estimates recovery, ``sqrt((A - l)² + (U - B)² - 2 r (A - l) (U - B))`` to the lower end, and
    the like with the other two ends, where r is the means' correlation by the shared ID scores. The
    first misses above the interval near 1, and is no wide one where no variance can be seen, such
    as at AUROCs of 1; the second misses below it where few ID scores are most of the error.

    Sources: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988); Zou & Donner, Statistics in
    Medicine 27 (2008).

    Args:
        id_scores: ``[n]``.
        easier: J arrays ``[m_j]``, J at least 1.
        harder: K arrays, K at least 1.
        level: of the interval.

    Returns:
        The gap, and the interval's ends; both are NaN where an array has a single score, as nothing
        can be known of how scores vary then.

    Raises:
        ValueError: no arrays on a side.
    """
    if len(easier) == 0 or len(harder) == 0:
        raise ValueError("auroc_gap needs at least one array of OOD scores on each side")
    sets = _sharing(id_scores, [*easier, *harder])
    return intervals.of_gap(sets[: len(easier)], sets[len(easier) :], level)


def proportion_ci(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion ``p = successes / n``, such as an accuracy.

    ``(p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)``. Source: Wilson, Journal of the
    American Statistical Association 22 (1927).

    Raises:
        ValueError: ``n < 1``, ``successes`` outside [0, n], or ``level`` outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    return intervals.wilson(successes / n, 1 / n, level)


def bootstrap_ci(
    metric: Callable[[Floats, Floats], float],
    id_scores: Scores,
    ood_scores: Scores,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of any metric, by resampling both classes: general, slow.

    ``metric`` takes ``[n]`` ID and ``[m]`` OOD scores in float64. The interval's ends are quantiles
    of its resampled values and need not hold the metric of the original scores.
    """
    ids, oods = sorted_scores(id_scores, "ID"), sorted_scores(ood_scores, "OOD")
    rng = intervals.generator(level, draws, seed)
    values = [metric(rng.choice(ids, len(ids)), rng.choice(oods, len(oods))) for _ in range(draws)]
    return intervals.percentiles(np.asarray(values, dtype=np.float64), level)


def _sharing(id_scores: Scores, list_of_ood_scores: Sequence[Scores]) -> list[Ranks]:
    if len(list_of_ood_scores) == 0:
        raise ValueError("a mean needs at least one array of OOD scores, got none")
    ids = sorted_scores(id_scores, "ID")
    return [Ranks(ids, sorted_scores(s, f"OOD set {j}")) for j, s in enumerate(list_of_ood_scores)]


def _all_intervals(sets: Sequence[Ranks], level: float, draws: int, seed: int) -> dict[str, float]:
    pairs = {
        "auroc": intervals.of_mean(sets, "auroc", level),
        "fpr95_id": intervals.of_mean_fpr(sets, 0.95, "id", level, draws, seed),
        "fpr95_ood": intervals.of_mean_fpr(sets, 0.95, "ood", level, draws, seed),
        "aupr_in": intervals.of_mean(sets, "aupr_in", level),
        "aupr_out": intervals.of_mean(sets, "aupr_out", level),
    }
    return {
        f"{metric}_{end}": pair[i]
        for metric, pair in pairs.items()
        for i, end in enumerate(("low", "high"))
    }
