"""Paired comparison of two detectors that scored the same samples: is a difference noise?

A figure is kept with an *error vector*, made so that the squared distance of two figures' vectors
is the sampling variance of their difference. Of the AUROC its elements are the influence of each
sample (DeLong's placement values), centred in each class and divided by ``sqrt(n (n - 1))``: the
squared distance of two detectors on the same images is DeLong's variance of the difference, with
the covariance that comes of sharing images. Of FPR@95 and AUPR they are the deviations of bootstrap
draws, in which both detectors see the same resampled images. Vectors of several seeds are averaged
as their figures are, so that what seeds share of the images' error stays in.

Where figures are means over S networks, their difference has a variance B between networks as well,
with Student's t of its degrees of freedom. The interval is ``d ± sqrt(t² B + z² V)``, the form that
pages have for several seeds, and the p-value is the level at which it just touches zero: without B
that is the test of DeLong, without V Student's (Welch's, where networks differ).

Sources: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988); Efron & Tibshirani, An Introduction
to the Bootstrap (1993), of standard errors by paired resampling; Zou & Donner, Statistics in
Medicine 27 (2008), of the sum of two parts; Holm, Scandinavian Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from oodbench.metrics.ranks import Counts, Floats, Ranks, Scores, quota, sorted_scores, to_numpy

DRAWS = 1000
"""Of the bootstrap; its standard errors are then within some 5 %."""

FEW = 10
"""With fewer samples of a class than this nothing is told apart: variances are guesses."""


@dataclass(frozen=True)
class Measured:
    """A figure, and what its sampling error is made of.

    Args:
        value: in [0, 1].
        error: whose squared distance to another figure's, on the same samples, is the variance of
            the difference.
        smallest: the number of samples of the smallest class.
    """

    value: float
    error: Floats
    smallest: int


@dataclass(frozen=True)
class Difference:
    """The difference of two figures.

    Args:
        value: the first one's minus the second one's.
        low: the lower end of its interval.
        high: the upper end.
        p: of the hypothesis that there is none, two-sided.
    """

    value: float
    low: float
    high: float
    p: float


def measured(
    id_scores: Scores,
    list_of_ood_scores: Sequence[Scores],
    metric: str,
    *,
    tpr: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Measured:
    """A metric's mean over OOD sets that share their ID scores, with its error vector.

    Args:
        id_scores: ``[n]``, in the order of the samples.
        list_of_ood_scores: ``[m_j]`` for each of the sets, in the order of the samples.
        metric: ``auroc``, ``aupr_in``, ``aupr_out``, ``fpr95_id`` or ``fpr95_ood``.
        tpr: at which the FPR is taken.
        draws: of the bootstrap, for all but the AUROC.
        seed: of the bootstrap; figures are only comparable that have the same.

    Raises:
        BadScoresError: scores that are not finite, or none.
        ValueError: no such metric.
    """
    sets = [_Ordered(id_scores, ood_scores) for ood_scores in list_of_ood_scores]
    smallest = min(len(sets[0].of_id), *(len(one.of_ood) for one in sets))
    values = [one.value(metric, tpr) for one in sets]
    error = _delong(sets) if metric == "auroc" else _resampled(sets, metric, tpr, draws, seed)
    return Measured(math.fsum(values) / len(values), error, smallest)


def mean_of(figures: Sequence[Measured]) -> Measured:
    """The mean of figures on the same samples, such as those of several seeds."""
    error = np.mean([figure.error for figure in figures], axis=0)
    value = math.fsum(figure.value for figure in figures) / len(figures)
    return Measured(value, error, min(figure.smallest for figure in figures))


def variance_of_difference(one: Measured, other: Measured) -> float:
    """The sampling variance of the difference of two figures on the same samples.

    Where it is estimated as zero although the figures differ, as of constant scores, or cannot be
    estimated, the largest that two such figures can have takes its place.
    """
    if one.error.shape != other.error.shape:
        raise ValueError(
            f"figures of {one.error.shape} and {other.error.shape} are not on the same samples"
        )
    difference = one.error - other.error
    variance = float(difference @ difference)
    if one.smallest >= FEW and (variance > 0.0 or one.value == other.value):
        return variance
    n = max(1, min(one.smallest, other.smallest))
    largest = sum(figure.value * (1.0 - figure.value) for figure in (one, other)) / n
    return max(variance, largest, 1.0 / n if n < FEW else 0.0)


def difference_of(
    one: Measured,
    other: Measured,
    *,
    between: float = 0.0,
    df: float = math.inf,
    level: float = 0.95,
) -> Difference:
    """The difference of two figures on the same samples, its interval and its p-value.

    Args:
        one: a figure.
        other: the figure that is subtracted.
        between: the variance of the difference between networks; 0 of one network each.
        df: its degrees of freedom.
        level: coverage of the interval.
    """
    variance = variance_of_difference(one, other)
    value = one.value - other.value
    half = half_width(variance, between, df, level)
    p = float(p_values(np.array([value]), np.array([variance]), np.array([between]), df)[0])
    return Difference(value, max(-1.0, value - half), min(1.0, value + half), p)


def half_width(variance: float, between: float, df: float, level: float) -> float:
    """``sqrt(t² B + z² V)``: half of the interval of a difference."""
    z = float(ndtri(0.5 + level / 2.0))
    t = z if math.isinf(df) or between == 0.0 else float(stdtrit(df, 0.5 + level / 2.0))
    return math.sqrt(t * t * between + z * z * variance)


def p_values(
    differences: Floats, variances: Floats, between: Floats, df: Floats | float = math.inf
) -> Floats:
    """For each difference 1 minus the level at which its interval touches zero.

    Args:
        differences: ``[K]``.
        variances: of the samples, ``[K]``.
        between: of the networks, ``[K]``.
        df: degrees of freedom of the latter.
    """
    size = np.abs(differences)
    freedom = np.broadcast_to(np.asarray(df, dtype=np.float64), size.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2.0 * ndtr(-np.where(size == 0.0, 0.0, size / np.sqrt(variances)))
        own = (between > 0.0) & np.isfinite(freedom)
        alone = own & (variances == 0.0)
        p[alone] = 2.0 * stdtr(freedom[alone], -size[alone] / np.sqrt(between[alone]))
    both = own & (variances > 0.0) & (size > 0.0)
    # halving in log p: the interval narrows as p grows
    low, high = np.full(both.sum(), -690.0), np.zeros(both.sum())
    for _ in range(60):
        middle = (low + high) / 2.0
        tail = np.exp(middle) / 2.0
        half = (
            stdtrit(freedom[both], tail) ** 2 * between[both] + ndtri(tail) ** 2 * variances[both]
        )
        is_wider = half > size[both] ** 2
        low, high = np.where(is_wider, middle, low), np.where(is_wider, high, middle)
    p[both] = np.exp((low + high) / 2.0)
    return np.asarray(p)


def between_networks(
    one: Sequence[float], other: Sequence[float], *, same: bool
) -> tuple[float, float]:
    """Variance between networks of the difference of two means, and its degrees of freedom.

    Args:
        one: a figure on each of its networks.
        other: the other's.
        same: whether they are on the same networks, in the same order; the differences on each are
            then what varies. Otherwise the two vary independently (Welch); one that has a single
            network is taken to vary as the other does.

    Returns:
        Variance and degrees of freedom; 0 and infinity where there is one network each, of which
        nothing can be said of others.
    """
    if same and len(one) == len(other):
        if len(one) < 2:
            return 0.0, math.inf
        variance = float(np.var(np.subtract(one, other), ddof=1))
        return variance / len(one), len(one) - 1.0
    parts = [
        (float(np.var(values, ddof=1)) / len(values), len(values) - 1.0)
        for values in (one, other)
        if len(values) > 1
    ]
    if not parts:
        return 0.0, math.inf
    if len(parts) == 1:
        variance, df = parts[0]
        own = df + 1.0
        return variance * own * (1.0 / len(one) + 1.0 / len(other)), df
    total = sum(variance for variance, _ in parts)
    if total == 0.0:
        return 0.0, math.inf
    return total, total**2 / sum(variance**2 / df for variance, df in parts)


def holm(p: Sequence[float] | Floats) -> Floats:
    """p-values corrected for their number by Holm's step-down procedure, in the same order.

    The i-th smallest of K is multiplied by ``K - i + 1``, and is no less than those before it; what
    is then below 0.05 is so with a family-wise error of 0.05, however the tests depend.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return adjusted


# --- error vectors -------------------------------------------------------------------------------


class _Ordered:
    """Ranks of a set, and where each sample stands in them."""

    def __init__(self, id_scores: Scores, ood_scores: Scores) -> None:
        arrays = to_numpy(id_scores), to_numpy(ood_scores)
        self.ranks = Ranks(sorted_scores(arrays[0], "ID"), sorted_scores(arrays[1], "OOD"))
        self.of_id, self.of_ood = (np.argsort(array, kind="stable") for array in arrays)

    def value(self, metric: str, tpr: float) -> float:
        """The metric."""
        if metric in ("auroc", "aupr_in", "aupr_out"):
            return float(getattr(self.ranks, metric))
        if metric in ("fpr95_id", "fpr95_ood"):
            return self.ranks.fpr(tpr, metric.removeprefix("fpr95_"))
        raise ValueError(f"no metric {metric!r} of which differences are known")


def _delong(sets: Sequence[_Ordered]) -> Floats:
    of_id = np.zeros(len(sets[0].of_id))
    parts = []
    for one in sets:
        by_id, by_ood = one.ranks.influence("auroc")
        of_id[one.of_id] += by_id / len(sets)
        own = np.empty(len(by_ood))
        own[one.of_ood] = by_ood / len(sets)
        parts.append(own)
    return np.concatenate([_scaled(part) for part in (of_id, *parts)])


def _scaled(influence: Floats) -> Floats:
    n = len(influence)
    if n < 2:
        return np.zeros(n)
    return np.asarray((influence - influence.mean()) / math.sqrt(n * (n - 1.0)))


def _resampled(sets: Sequence[_Ordered], metric: str, tpr: float, draws: int, seed: int) -> Floats:
    """Deviations of the metric's mean in draws of images, which depend on their numbers alone."""
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        of_id = _counts(rng, len(sets[0].of_id))
        total = 0.0
        for one in sets:
            of_ood = _counts(rng, len(one.of_ood))
            total += weighted(one.ranks, of_id[one.of_id], of_ood[one.of_ood], metric, tpr)
        values[draw] = total / len(sets)
    return np.asarray((values - values.mean()) / math.sqrt(max(1, draws - 1)))


def _counts(rng: np.random.Generator, n: int) -> Counts:
    """How often each of n samples is drawn in n draws."""
    return np.bincount(rng.integers(n, size=n), minlength=n)


def weighted(ranks: Ranks, of_id: Counts, of_ood: Counts, metric: str, tpr: float) -> float:
    """A metric where samples count as often as is said, in the order of the ranks."""
    upto_id = np.append(0, np.cumsum(of_id))
    upto_ood = np.append(0, np.cumsum(of_ood))
    n, m = int(upto_id[-1]), int(upto_ood[-1])
    if metric == "aupr_in":
        true, false = upto_id[ranks.id_upto_id], upto_ood[ranks.ood_upto_id]
        return float(of_id @ (true / np.maximum(true + false, 1))) / n
    if metric == "aupr_out":
        true = m - upto_ood[len(of_ood) - ranks.ood_from_ood]
        false = n - upto_id[ranks.id_below_ood]
        return float(of_ood @ (true / np.maximum(true + false, 1))) / m
    if metric == "fpr95_id":
        last = int(np.searchsorted(upto_id[1:], quota(tpr, n)))
        return float(upto_ood[ranks.ood_upto_id[last]]) / m
    if metric == "fpr95_ood":
        # the threshold catches the share of OOD that scores highest
        first = int(np.searchsorted(upto_ood, m - quota(tpr, m), side="right")) - 1
        return float(n - upto_id[ranks.id_below_ood[first]]) / n
    raise ValueError(f"no metric {metric!r} of which differences are known")
