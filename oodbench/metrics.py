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

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from oodbench.errors import BadScoresError

if TYPE_CHECKING:
    import torch

Scores: TypeAlias = "npt.ArrayLike | torch.Tensor"
Positive: TypeAlias = Literal["id", "ood"]
Interval: TypeAlias = tuple[float, float]
Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.intp]


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """Area under the ROC curve: ``P(ood > id) + P(ood = id) / 2``; 0.5 is chance."""
    return _Sorted.of(id_scores, ood_scores).auroc


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
    return _Sorted.of(id_scores, ood_scores).fpr(tpr, positive)


def aupr_in(id_scores: Scores, ood_scores: Scores) -> float:
    """Average precision with ID as the positive class, ranked by low scores.

    ``AP = sum_k (R_k - R_(k-1)) P_k`` over the distinct scores, without interpolation, as in
    scikit-learn's ``average_precision_score``. Chance is ``n / (n + m)``, so values compare only
    between equal class ratios.
    """
    return _Sorted.of(id_scores, ood_scores).aupr_in


def aupr_out(id_scores: Scores, ood_scores: Scores) -> float:
    """Average precision with OOD as the positive class, ranked by high scores.

    The formula is that of :func:`aupr_in`; chance is ``m / (n + m)``.
    """
    return _Sorted.of(id_scores, ood_scores).aupr_out


def all_metrics(id_scores: Scores, ood_scores: Scores) -> dict[str, float]:
    """All five metrics from one sort of each array.

    Returns:
        ``auroc``, ``fpr95_id``, ``fpr95_ood``, ``aupr_in`` and ``aupr_out``.
    """
    ranks = _Sorted.of(id_scores, ood_scores)
    return {
        "auroc": ranks.auroc,
        "fpr95_id": ranks.fpr(0.95, "id"),
        "fpr95_ood": ranks.fpr(0.95, "ood"),
        "aupr_in": ranks.aupr_in,
        "aupr_out": ranks.aupr_out,
    }


def accuracy(logits_or_predictions: Scores, labels: Scores) -> float:
    """Share of samples whose prediction equals the label.

    Args:
        logits_or_predictions: ``[N, C]`` logits, of which the first largest is the prediction, or
            ``[N]`` predicted labels.
        labels: ``[N]`` true labels.

    Raises:
        BadScoresError: The logits or predictions have NaN values.
        ValueError: There are no samples, or the shapes do not fit each other.
    """
    predicted, true = _to_numpy(logits_or_predictions), _to_numpy(labels)
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
    return float(np.mean(predicted == true))


def auroc_ci(id_scores: Scores, ood_scores: Scores, level: float = 0.95) -> Interval:
    """DeLong interval of :func:`auroc`: :func:`mean_auroc_ci` with one OOD set."""
    return _delong_interval([_Sorted.of(id_scores, ood_scores)], level)


def mean_auroc_ci(
    id_scores: Scores, list_of_ood_scores: Sequence[Scores], level: float = 0.95
) -> Interval:
    """Interval of the unweighted mean AUROC of J OOD sets that share their ID scores.

    DeLong's variance is ``S_id / n + sum_j S_j / (m_j J²)``. ``S_id`` is the sample variance of the
    ID placement values ``P(ood > x) + P(ood = x) / 2`` after averaging them over the J sets, which
    carries the covariance that the shared ID scores bring; ``S_j`` is that of the OOD placement
    values of set j. The interval is symmetric on the logit scale and holds the mean AUROC.

    When the variance is zero (as for an AUROC of exactly 0 or 1) or cannot be estimated (one score
    only), the Wilson interval for ``n = min(n, m_1, ..., m_J)`` takes its place: it rests on
    ``A (1 - A) / min(n, m)``, the largest variance that an AUROC of A can have (Birnbaum & Klose,
    Annals of Mathematical Statistics 28, 1957).

    Sources: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988); placement values from ranks in
    O(n log n): Sun & Xu, IEEE Signal Processing Letters 21 (2014).

    Raises:
        ValueError: ``list_of_ood_scores`` (J arrays ``[m_j]``) is empty.
    """
    if len(list_of_ood_scores) == 0:
        raise ValueError("mean_auroc_ci needs at least one array of OOD scores, got none")
    ids = _sorted_scores(id_scores, "ID")
    oods = [_sorted_scores(s, f"OOD set {j}") for j, s in enumerate(list_of_ood_scores)]
    return _delong_interval([_Sorted(ids, ood) for ood in oods], level)


def auroc_gap(
    id_scores: Scores, easier: Sequence[Scores], harder: Sequence[Scores], level: float = 0.95
) -> tuple[float, float, float]:
    """How much higher the mean AUROC of some OOD sets is than that of others, and its interval.

    ``mean_j AUROC(easier_j) - mean_k AUROC(harder_k)``, in [-1, 1]. The variance is DeLong's for a
    contrast, as in :func:`mean_auroc_ci` with weights 1/J and -1/K: the ID scores that all sets
    share are counted once. The interval is symmetric and cut at -1 and 1.

    Args:
        id_scores: ``[n]``.
        easier: J arrays ``[m_j]``, J at least 1.
        harder: K arrays, K at least 1.
        level: of the interval.

    Returns:
        The gap, and the interval's ends; they are the gap itself where no variance can be seen.

    Raises:
        ValueError: no arrays on a side.
    """
    if len(easier) == 0 or len(harder) == 0:
        raise ValueError("auroc_gap needs at least one array of OOD scores on each side")
    ids = _sorted_scores(id_scores, "ID")
    sets = [
        _Sorted(ids, _sorted_scores(s, f"OOD set {j}")) for j, s in enumerate((*easier, *harder))
    ]
    weights = [1 / len(easier)] * len(easier) + [-1 / len(harder)] * len(harder)
    point = math.fsum(w * s.auroc for w, s in zip(weights, sets, strict=True))
    variance = _delong_variance(sets, weights)
    half = _quantile_of_normal(level) * math.sqrt(variance) if variance > 0.0 else 0.0
    return point, max(-1.0, point - half), min(1.0, point + half)


def fpr_ci(
    id_scores: Scores,
    ood_scores: Scores,
    tpr: float = 0.95,
    positive: Positive = "id",
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of :func:`fpr_at_tpr`, drawn without resampling arrays.

    Both classes are resampled, so the threshold's uncertainty counts too. The k-th smallest of n
    values drawn with replacement is the ``ceil(n U)``-th smallest of the original ones, with
    ``U ~ Beta(k, n - k + 1)`` (the k-th order statistic of n uniform variables); given that
    threshold, the number of false positives among m resampled negatives is binomial. So each draw
    has exactly the distribution of a resample, at the cost of two random numbers.

    Where the draws cannot vary (an FPR of 0 or 1 in every one) the Wilson interval for
    ``min(n, m)`` takes their place; elsewhere the interval is widened to hold the FPR, if need be.
    """
    return _Sorted.of(id_scores, ood_scores).fpr_interval(tpr, positive, level, draws, seed)


def aupr_ci(value: float, n_positive: int, level: float = 0.95) -> Interval:
    """Logit interval of an average precision: ``logit(p) ± z (n_positive p (1 - p))^(-1/2)``.

    The Wilson interval takes its place when p is exactly 0 or 1. Source: Boyd, Eng & Page, Area
    under the Precision-Recall Curve, ECML PKDD 2013.

    Args:
        value: The average precision p, in [0, 1].
        n_positive: Number of positives: ID samples for ``aupr_in``, OOD samples for ``aupr_out``.
        level: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: An argument is out of its range.
    """
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"an average precision lies in [0, 1], got {value}")
    if n_positive < 1:
        raise ValueError(f"n_positive must be at least 1, got {n_positive}")
    spread = n_positive * value * (1.0 - value)
    if spread == 0.0:
        return _wilson(value, n_positive, level)
    return _logit_interval(value, 1.0 / math.sqrt(spread), level)


def proportion_ci(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion ``p = successes / n``, such as an accuracy.

    ``(p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)``. Source: Wilson, Journal of the
    American Statistical Association 22 (1927).

    Raises:
        ValueError: ``n < 1``, ``successes`` outside [0, n], or ``level`` outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    return _wilson(successes / n, n, level)


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
    ids, oods = _sorted_scores(id_scores, "ID"), _sorted_scores(ood_scores, "OOD")
    rng = _generator(level, draws, seed)
    values = [metric(rng.choice(ids, len(ids)), rng.choice(oods, len(oods))) for _ in range(draws)]
    return _percentiles(np.asarray(values, dtype=np.float64), level)


def all_intervals(
    id_scores: Scores, ood_scores: Scores, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Intervals of all metrics, as of :func:`auroc_ci`, :func:`fpr_ci` and :func:`aupr_ci`.

    Returns:
        ``<metric>_low`` and ``<metric>_high`` for each key of :func:`all_metrics`.
    """
    ranks = _Sorted.of(id_scores, ood_scores)
    intervals = {
        "auroc": _delong_interval([ranks], level),
        "fpr95_id": ranks.fpr_interval(0.95, "id", level, draws, seed),
        "fpr95_ood": ranks.fpr_interval(0.95, "ood", level, draws, seed),
        "aupr_in": aupr_ci(ranks.aupr_in, len(ranks.id), level),
        "aupr_out": aupr_ci(ranks.aupr_out, len(ranks.ood), level),
    }
    return {
        f"{k}_{end}": pair[i]
        for k, pair in intervals.items()
        for i, end in enumerate(("low", "high"))
    }


class _Sorted:
    """Both classes' scores in ascending order, and the rank counts that all metrics share."""

    def __init__(self, ids: Floats, oods: Floats) -> None:
        self.id, self.ood = ids, oods

    @classmethod
    def of(cls, id_scores: Scores, ood_scores: Scores) -> _Sorted:
        return cls(_sorted_scores(id_scores, "ID"), _sorted_scores(ood_scores, "OOD"))

    @cached_property
    def id_upto_id(self) -> Counts:
        """For each ID score x, the number of ID scores <= x."""
        return _run_ends(self.id)

    @cached_property
    def id_below_ood(self) -> Counts:
        """For each OOD score y, the number of ID scores < y."""
        # A stable sort finds the two ascending runs and only merges them, in half the time of a
        # binary search. OOD scores come first, so those that tie with ID scores precede them.
        m = len(self.ood)
        order = np.argsort(np.concatenate([self.ood, self.id]), kind="stable")
        return np.flatnonzero(order < m) - np.arange(m)

    @cached_property
    def id_upto_ood(self) -> Counts:
        """For each OOD score y, the number of ID scores <= y."""
        # A second merge would cost several times as much: the first one already points at the
        # run of ID scores that equal y, if there is one.
        at = np.minimum(self.id_below_ood, len(self.id) - 1)
        return np.where(self.id[at] == self.ood, self.id_upto_id[at], self.id_below_ood)

    @cached_property
    def auroc(self) -> float:
        # Twice the Mann-Whitney U in integers: one rounding, and ties count exactly one half.
        twice = int(self.id_below_ood.sum()) + int(self.id_upto_ood.sum())
        return twice / (2 * len(self.id) * len(self.ood))

    @cached_property
    def aupr_in(self) -> float:
        ood_upto_id = _transposed(self.id_below_ood, len(self.id))
        return float(np.mean(self.id_upto_id / (self.id_upto_id + ood_upto_id)))

    @cached_property
    def aupr_out(self) -> float:
        ood_from = _run_ends(self.ood[::-1])[::-1]
        return float(np.mean(ood_from / (ood_from + (len(self.id) - self.id_below_ood))))

    def placements(self) -> tuple[Floats, Floats]:
        """``[n]`` shares of OOD scores above each ID score, ``[m]`` of ID scores below each OOD."""
        n, m = len(self.id), len(self.ood)
        upto, below = (_transposed(c, n) for c in (self.id_below_ood, self.id_upto_ood))
        return 1.0 - (upto + below) / (2 * m), (self.id_below_ood + self.id_upto_ood) / (2 * n)

    def oriented(self, positive: str) -> tuple[Floats, Floats]:
        """Ascending positives and negatives, negated if need be so that positives are low."""
        if positive == "id":
            return self.id, self.ood
        if positive == "ood":
            return -self.ood[::-1], -self.id[::-1]
        raise ValueError(f"positive must be 'id' or 'ood', got {positive!r}")

    def fpr(self, tpr: float, positive: str) -> float:
        positives, negatives = self.oriented(positive)
        threshold = positives[_quota(tpr, len(positives)) - 1]
        return int(np.searchsorted(negatives, threshold, side="right")) / len(negatives)

    def fpr_interval(
        self, tpr: float, positive: str, level: float, draws: int, seed: int
    ) -> Interval:
        point = self.fpr(tpr, positive)
        rng = _generator(level, draws, seed)
        positives, negatives = self.oriented(positive)
        n, m = len(positives), len(negatives)
        k = _quota(tpr, n)
        order = np.ceil(n * rng.beta(k, n - k + 1, size=draws)).astype(np.intp)
        thresholds = positives[np.clip(order, 1, n) - 1]
        rates = np.searchsorted(negatives, thresholds, side="right") / m
        values = rng.binomial(m, rates) / m
        if point in (0.0, 1.0) and bool(np.all(values == point)):
            return _wilson(point, min(n, m), level)
        low, high = _percentiles(values, level)
        return min(low, point), max(high, point)


def _run_ends(ascending: npt.NDArray[Any]) -> Counts:
    """For each value of a sorted array, the number of values up to the end of its run of ties."""
    changes = np.flatnonzero(ascending[1:] != ascending[:-1]) + 1
    ends = np.append(changes, len(ascending))
    return np.repeat(ends, np.diff(ends, prepend=0))


def _transposed(counts: Counts, n: int) -> Counts:
    """Turn counts of n sorted a's before each b into counts of b's before each a.

    ``#a < b`` becomes ``#b <= a`` and ``#a <= b`` becomes ``#b < a``: the i-th a (from 0) comes
    after b just when at most i of the a's come before b.
    """
    return np.cumsum(np.bincount(counts, minlength=n + 1)[:n])


def _quota(tpr: float, n: int) -> int:
    """Smallest k with ``k / n >= tpr`` in floating point, as a comparison with TPRs sees it."""
    if not 0.0 < tpr <= 1.0:
        raise ValueError(f"tpr must be in (0, 1], got {tpr}")
    k = min(max(math.ceil(tpr * n), 1), n)
    while k > 1 and (k - 1) / n >= tpr:
        k -= 1
    while k / n < tpr:
        k += 1
    return k


def _delong_interval(sets: Sequence[_Sorted], level: float) -> Interval:
    """Interval of the mean AUROC of sets that share their ID scores."""
    point = math.fsum(s.auroc for s in sets) / len(sets)
    variance = _delong_variance(sets, [1 / len(sets)] * len(sets))
    if not variance > 0.0 or point in (0.0, 1.0):
        return _wilson(point, min(len(sets[0].id), *(len(s.ood) for s in sets)), level)
    return _logit_interval(point, math.sqrt(variance) / (point * (1.0 - point)), level)


def _delong_variance(sets: Sequence[_Sorted], weights: Sequence[float]) -> float:
    """Variance of a weighted sum of AUROCs of sets that share their ID scores."""
    placements = [s.placements() for s in sets]
    id_mean = sum(w * of_id for w, (of_id, _) in zip(weights, placements, strict=True))
    variances = [_variance_of_mean(np.asarray(id_mean))]
    variances += [
        w**2 * _variance_of_mean(of_ood) for w, (_, of_ood) in zip(weights, placements, strict=True)
    ]
    return math.fsum(variances)


def _variance_of_mean(values: Floats) -> float:
    if len(values) < 2:
        return math.nan
    # Rounding gives constant values a tiny variance, which the logit scale would take seriously.
    return 0.0 if np.ptp(values) == 0.0 else float(np.var(values, ddof=1)) / len(values)


def _quantile_of_normal(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    return NormalDist().inv_cdf(0.5 + level / 2.0)


def _wilson(p: float, n: int, level: float) -> Interval:
    z = _quantile_of_normal(level)
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1.0 - p) / n + z * z / (4 * n * n))
    scale = 1.0 + z * z / n
    # min and max: rounding must not push an end beyond p when p is 0 or 1.
    return max(0.0, min(p, (centre - half) / scale)), min(1.0, max(p, (centre + half) / scale))


def _logit_interval(p: float, std: float, level: float) -> Interval:
    half = _quantile_of_normal(level) * std
    centre = math.log(p) - math.log1p(-p)
    return min(p, _expit(centre - half)), max(p, _expit(centre + half))


def _expit(x: float) -> float:
    e = math.exp(-abs(x))  # never overflows
    return 1.0 / (1.0 + e) if x >= 0.0 else e / (1.0 + e)


def _generator(level: float, draws: int, seed: int) -> np.random.Generator:
    _quantile_of_normal(level)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    return np.random.default_rng(seed)


def _percentiles(values: Floats, level: float) -> Interval:
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _to_numpy(values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        try:
            return np.asarray(values.numpy())
        except TypeError:  # bfloat16 has no NumPy counterpart; float32 holds it exactly
            return np.asarray(values.float().numpy())
    return np.asarray(values)


def _sorted_scores(values: Scores, name: str) -> Floats:
    """A sorted float64 copy of scores, once they are known to be a 1-D array of finite numbers."""
    try:
        array = _to_numpy(values)
    except (TypeError, ValueError) as error:
        raise BadScoresError(f"{name} scores are no array of numbers: {error}") from error
    if array.ndim != 1:
        raise BadScoresError(
            f"{name} scores must be one-dimensional, one per sample, got shape {array.shape}"
        )
    if array.size == 0:
        raise BadScoresError(f"{name} scores are empty: give at least one score")
    if array.dtype.kind not in "biuf":
        raise BadScoresError(f"{name} scores must be real numbers, got the type {array.dtype}")
    # float32 sorts in half the time, and widening afterwards keeps the order.
    if array.dtype != np.float32:
        array = array.astype(np.float64, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        first, nans = int(np.argmin(finite)), int(np.count_nonzero(np.isnan(array)))
        infinite = int(np.count_nonzero(~finite)) - nans
        raise BadScoresError(
            f"{name} scores have {nans} NaN and {infinite} infinite values among {array.size}, the "
            f"first ({array[first]}) at index {first}: they cannot be ranked; look for overflow in "
            f"half precision, a diverged network or a singular matrix in the detector"
        )
    return np.sort(array).astype(np.float64, copy=False)
