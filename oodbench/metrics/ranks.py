"""Scores of both classes in order, and the rank counts that all metrics are made of."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from oodbench.errors import BadScoresError

if TYPE_CHECKING:
    import torch

Scores: TypeAlias = "npt.ArrayLike | torch.Tensor"
Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.intp]


class Ranks:
    """Both classes' scores in ascending order, and the rank counts that all metrics share."""

    def __init__(self, ids: Floats, oods: Floats) -> None:
        self.id, self.ood = ids, oods

    @classmethod
    def of(cls, id_scores: Scores, ood_scores: Scores) -> Ranks:
        """Ranks of unsorted scores, once they are known to be finite."""
        return cls(sorted_scores(id_scores, "ID"), sorted_scores(ood_scores, "OOD"))

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
    def ood_upto_id(self) -> Counts:
        """For each ID score x, the number of OOD scores <= x."""
        return _transposed(self.id_below_ood, len(self.id))

    @cached_property
    def ood_from_ood(self) -> Counts:
        """For each OOD score y, the number of OOD scores >= y."""
        return _run_ends(self.ood[::-1])[::-1]

    @cached_property
    def auroc(self) -> float:
        """Area under the ROC curve."""
        # Twice the Mann-Whitney U in integers: one rounding, and ties count exactly one half.
        twice = int(self.id_below_ood.sum()) + int(self.id_upto_ood.sum())
        return twice / (2 * len(self.id) * len(self.ood))

    @cached_property
    def aupr_in(self) -> float:
        """Average precision with ID as the positive class."""
        return float(np.mean(self.id_upto_id / (self.id_upto_id + self.ood_upto_id)))

    @cached_property
    def aupr_out(self) -> float:
        """Average precision with OOD as the positive class."""
        false = len(self.id) - self.id_below_ood
        return float(np.mean(self.ood_from_ood / (self.ood_from_ood + false)))

    def trapezoid(self, positive: str) -> float:
        """Area under the precision-recall curve with its points joined by straight lines."""
        positives, negatives = self.oriented(positive)
        true = np.append(np.flatnonzero(positives[1:] != positives[:-1]) + 1, len(positives))
        before = np.append(0, true[:-1])
        false, earlier = (
            np.searchsorted(negatives, positives[true - 1], side=side) for side in ("right", "left")
        )
        # The threshold before accepts the negatives between as well; before all is precision 1.
        start = np.where(before + earlier > 0, before / np.maximum(before + earlier, 1), 1.0)
        return float(np.dot(true - before, start + true / (true + false)) / 2 / len(positives))

    def influence(self, metric: str) -> tuple[Floats, Floats]:
        """How much each score moves a metric: ``[n]`` ID and ``[m]`` OOD values, sorted as scores.

        The metric's empirical influence function but for a constant in each class, so that
        ``var(ID values) / n + var(OOD values) / m`` estimates the metric's sampling variance. Of
        ``auroc`` these are DeLong's placement values. ``aupr_in`` is a mean over positives,
        ``AP = mean_t P(t)`` with the precision ``P = a / (a + b)`` of a positives and b negatives
        accepted at t. So a positive has its own precision, and each score accepted at t moves P(t)
        by its derivative, ``b / (a + b)²`` for a positive, ``-a / (a + b)² m / n`` for a negative
        (n positives, m negatives); likewise ``aupr_out``.
        """
        n, m = len(self.id), len(self.ood)
        if metric == "auroc":
            below = _transposed(self.id_upto_ood, n)
            of_id = 1.0 - (self.ood_upto_id + below) / (2 * m)
            return of_id, (self.id_below_ood + self.id_upto_ood) / (2 * n)
        if metric == "aupr_in":
            precision, gain, loss = _slopes(self.id_upto_id, self.ood_upto_id, m / n)
            start = n - _run_ends(self.id[::-1])[::-1]  # first threshold that accepts each ID score
            of_id = precision + (gain[-1] - gain[start])
            return of_id, loss[self.id_below_ood] - loss[-1]
        if metric == "aupr_out":
            false = n - self.id_below_ood
            precision, gain, loss = _slopes(self.ood_from_ood, false, n / m)
            return -loss[self.ood_upto_id], precision + gain[_run_ends(self.ood)]
        raise ValueError(f"no influence function of {metric!r}")

    def oriented(self, positive: str) -> tuple[Floats, Floats]:
        """Ascending positives and negatives, negated if need be so that positives are low."""
        if positive == "id":
            return self.id, self.ood
        if positive == "ood":
            return -self.ood[::-1], -self.id[::-1]
        raise ValueError(f"positive must be 'id' or 'ood', got {positive!r}")

    def fpr(self, tpr: float, positive: str) -> float:
        """False positive rate at the first threshold that reaches a true positive rate."""
        positives, negatives = self.oriented(positive)
        threshold = positives[quota(tpr, len(positives)) - 1]
        return int(np.searchsorted(negatives, threshold, side="right")) / len(negatives)


def _slopes(true: Counts, false: Counts, ratio: float) -> tuple[Floats, Floats, Floats]:
    """Precision at each of n thresholds, and running sums from 0 of its derivatives, ``[n + 1]``.

    Args:
        true: positives accepted at the thresholds.
        false: negatives accepted at them.
        ratio: negatives to positives.
    """
    total = (true + false).astype(np.float64)
    precision = true / total
    gain = np.cumsum(np.append(0.0, false / total**2))
    return precision, gain, np.cumsum(np.append(0.0, precision / total)) * ratio


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


def quota(tpr: float, n: int) -> int:
    """Smallest k with ``k / n >= tpr`` in floating point, as a comparison with TPRs sees it."""
    if not 0.0 < tpr <= 1.0:
        raise ValueError(f"tpr must be in (0, 1], got {tpr}")
    k = min(max(math.ceil(tpr * n), 1), n)
    while k > 1 and (k - 1) / n >= tpr:
        k -= 1
    while k / n < tpr:
        k += 1
    return k


def to_numpy(values: Any) -> npt.NDArray[Any]:
    """An array of what may be a tensor on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        try:
            return np.asarray(values.numpy())
        except TypeError:  # bfloat16 has no NumPy counterpart; float32 holds it exactly
            return np.asarray(values.float().numpy())
    return np.asarray(values)


def sorted_scores(values: Scores, name: str) -> Floats:
    """A sorted float64 copy of scores, once they are known to be a 1-D array of finite numbers."""
    try:
        array = to_numpy(values)
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
