"""Confidence intervals of metrics' means over OOD sets that share their ID scores.

**AUROC and AUPR.** With the mean p of a metric, and its variance V by the influence functions of
both classes (``Ranks.influence``; of AUROC that is DeLong's), the interval holds all t with

``(p - t)² <= z² v t (1 - t) sqrt((t (1 - t) + c) / (q + c))``,
``q = p (1 - p)``, ``v = (V + c e) / (q + c)``, ``c = 1.25 z² e``, ``e = max(V / q, E)``.

It is Wilson's score interval of 1/v trials but for the root: towards 1, V falls faster than q,
about as ``q^1.5``, so intervals with one V for all t miss truths below them twice as often as they
say. And V cannot be seen where hardly a score is out of order. There E stands in, the share of p
that one misplaced score is taken to cost, by simulation 0.08 (1/n + 1/m) for the AUROC and 0.12 of
1/n or 1/m, of the positive class, for the AUPR (of J sets, ``(sum_j 1/m_j) / J²`` for 1/m). So the
interval is continuous up to p = 1, is there as wide as some 0.9 / n, and further pairs out of order
do not raise its lower end (1.25 is the least that does so, rounded up), but where V is that of one
outlier, then by a twentieth of the width at most. V and E are enlarged by ``1 + (z² + 1) / 2k``, as
Student's t of k degrees would do, k + 1 the size of the smallest set; V of the AUPR by ``1 + 8/k``
more, which its second order adds at a hundred scores.
docs/coverage.md tells how often the intervals hold the truth.

Where the variance is zero inside of (0, 1), as of constant scores, or cannot be estimated since a
class has one score, Wilson's interval of ``min(n, m_1, ..., m_J)`` trials takes its place: it rests
on ``A (1 - A) / min(n, m)``, the largest variance that an AUROC of A can have.

**FPR at a TPR.** Of n positives, as many are truly accepted by the threshold of the population as
a draw of ``B ~ Binomial(n, tpr)`` says, so it lies between the B-th and the next positive; and c of
m negatives accepted there leave a rate of ``Beta(c + 1/2, m - c + 1/2)`` (Jeffreys; with 1/2J for J
sets of negatives, lest their halves add up). Percentiles of such draws are the interval. A
bootstrap draws the threshold one rank too low on average, which shows at a hundred positives. Sets
that share positives share B; sets that share negatives draw their rates from one Dirichlet
distribution.

Sources: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988), of V; Wilson, Journal of the
American Statistical Association 22 (1927); Newcombe, Statistics in Medicine 25 (2006), and Kottas,
Kuss & Zapf, BMC Medical Research Methodology 14 (2014), of score intervals for the AUROC; Birnbaum
& Klose, Annals of Mathematical Statistics 28 (1957), of its largest variance; Boyd, Eng & Page,
ECML PKDD 2013, of intervals for the AUPR, whose logit interval knows the positives alone; Gu,
Ghosal & Roy, Statistics in Medicine 27 (2008), of resampling both classes' distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np

from oodbench.metrics.ranks import Floats, Ranks

Interval: TypeAlias = tuple[float, float]

EVENT = {"auroc": 0.08, "aupr_in": 0.12, "aupr_out": 0.12}
"""What a misplaced score is taken to cost where none is seen, in shares of one score's weight."""

SECOND = 8.0
"""What an AUPR's variance has beyond first order, in first orders per score of the smallest set."""


def of_mean(sets: Sequence[Ranks], metric: str, level: float) -> Interval:
    """Interval of a metric's unweighted mean over OOD sets that share their ID scores.

    Args:
        sets: J of them.
        metric: ``auroc``, ``aupr_in`` or ``aupr_out``.
        level: coverage, in (0, 1).
    """
    z = quantile_of_normal(level)
    p = math.fsum(getattr(s, metric) for s in sets) / len(sets)
    variance, _ = _variance(sets, metric)
    q, smallest = p * (1.0 - p), min(len(sets[0].id), *(len(s.ood) for s in sets))
    if math.isnan(variance) or (variance == 0.0 and q > 0.0):
        return wilson(p, 1.0 / smallest, level)
    student = _student(level, smallest)
    variance, event = variance * student, _event(sets, metric) * student
    if metric != "auroc":
        variance *= 1.0 + SECOND / (smallest - 1)
    if q > 0.0:
        event = max(event, variance / q)
    pull = 1.25 * z * z * event
    v = (variance + pull * event) / (q + pull)

    def holds(t: float) -> bool:
        r = t * (1.0 - t)
        return (p - t) ** 2 <= z * z * v * r * math.sqrt((r + pull) / (q + pull))

    return _end(holds, p, 0.0), _end(holds, p, 1.0)


def _end(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where, between two values, a property ends that the first one has; by bisection."""
    for _ in range(60):
        middle = (inside + outside) / 2.0
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return inside


def of_gap(
    easier: Sequence[Ranks], harder: Sequence[Ranks], level: float
) -> tuple[float, float, float]:
    """Difference of two mean AUROCs over sets that share their ID scores, and its interval."""
    means, ends, spreads, shared = [], [], [], []
    for sets in (easier, harder):
        variance, of_id = _variance(sets, "auroc")
        means.append(math.fsum(s.auroc for s in sets) / len(sets))
        ends.append(of_mean(sets, "auroc", level))
        spreads.append(math.sqrt(variance + _event(sets, "auroc") ** 2))
        shared.append(of_id)
    gap = means[0] - means[1]
    if math.isnan(sum(spreads)):
        return gap, math.nan, math.nan
    n = len(shared[0])
    covariance = float(np.cov(shared[0], shared[1])[0, 1]) / n
    r = covariance / (spreads[0] * spreads[1])
    smallest = min(n, *(len(s.ood) for s in (*easier, *harder)))
    weights = [1.0 / len(easier)] * len(easier) + [-1.0 / len(harder)] * len(harder)
    contrast = _variance([*easier, *harder], "auroc", weights)[0] * _student(level, smallest)
    half = quantile_of_normal(level) * math.sqrt(contrast)
    below = means[0] - ends[0][0], ends[1][1] - means[1]
    above = ends[0][1] - means[0], means[1] - ends[1][0]
    low, high = (
        math.sqrt((half**2 + max(0.0, a * a + b * b - 2.0 * r * a * b)) / 2.0)
        for a, b in (below, above)
    )
    return gap, max(-1.0, gap - low), min(1.0, gap + high)


def of_mean_fpr(
    sets: Sequence[Ranks], tpr: float, positive: str, level: float, draws: int, seed: int
) -> Interval:
    """Interval of the unweighted mean FPR at a TPR."""
    rng = generator(level, draws, seed)
    point = math.fsum(s.fpr(tpr, positive) for s in sets) / len(sets)
    low, high = percentiles(_rates(sets, tpr, positive, draws, rng), level)
    return min(low, point), max(high, point)


def _rates(
    sets: Sequence[Ranks], tpr: float, positive: str, draws: int, rng: np.random.Generator
) -> Floats:
    """Draws of the mean FPR over sets, ``[draws]``."""
    n, half = len(sets[0].id), 0.5 / len(sets)
    if positive == "id":
        accepted = rng.binomial(n, tpr, draws) + rng.random(draws)
        total = np.zeros(draws)
        for s in sets:
            false = _false(s.id, s.ood, accepted, tpr)
            total += rng.beta(false + half, len(s.ood) - false + half)
        return total / len(sets)
    counts = []
    for s in sets:
        ranks = rng.binomial(len(s.ood), tpr, draws) + rng.random(draws)
        counts.append(_false(*s.oriented(positive), ranks, tpr))
    # The sets' thresholds cut the same ID scores, so the shares between them are drawn one after
    # the other: a Dirichlet distribution, whose parts are the counts between the thresholds.
    total, rate, before = np.zeros(draws), np.zeros(draws), np.full(draws, -0.5)
    for false in np.sort(np.array(counts), axis=0):
        between = false - before
        step = rng.beta(np.maximum(between, 1e-300), n - false + 0.5)
        rate = rate + (1.0 - rate) * np.where(between > 0.0, step, 0.0)
        total += rate
        before = false
    return total / len(sets)


def _false(positives: Floats, negatives: Floats, accepted: Floats, tpr: float) -> Floats:
    """Negatives at or below thresholds that accept so many positives, interpolated, ``[draws]``.

    Beyond the last positive the mean step of the last ``1 - tpr`` of them goes on, for as long as
    waiting times of a Poisson process last; if that is less than one positive, nothing is known,
    and all negatives may be accepted there.
    """
    n = len(positives)
    lower = np.floor(accepted).astype(np.intp)
    few = max(1, round((1.0 - tpr) * n))
    ranks = np.append(lower, [n, n - few])
    ranks, back = _distinct(np.append(ranks, np.minimum(lower + 1, n)))
    counts = np.searchsorted(negatives, positives[np.maximum(ranks, 1) - 1], side="right")
    counts = np.where(ranks > 0, counts, 0)[back]
    low, (last, earlier), high = np.split(counts, [len(lower), len(lower) + 2])
    beyond = last + (last - earlier) / few if (1.0 - tpr) * n >= 1.0 else len(negatives)
    high = np.where(lower < n, high, np.minimum(len(negatives), beyond))
    part = accepted - lower
    part = np.where(lower < n, part, -np.log1p(-part))
    return np.asarray(np.minimum(low + part * (high - low), len(negatives)))


def _distinct(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ``np.unique`` gives with its inverse, without a sort: ranks are close to one another."""
    first = ranks.min()
    at = ranks - first
    is_there = np.zeros(at.max() + 1, dtype=bool)
    is_there[at] = True
    return np.flatnonzero(is_there) + first, np.cumsum(is_there)[at] - 1


def _student(level: float, smallest: int) -> float:
    """What Student's t makes of a variance that is estimated from the smallest set."""
    return 1.0 + (quantile_of_normal(level) ** 2 + 1.0) / (2.0 * (smallest - 1))


def _variance(
    sets: Sequence[Ranks], metric: str, weights: Sequence[float] = ()
) -> tuple[float, Floats]:
    """Variance of a metric's weighted sum over sets (default: mean), and ID scores' influence."""
    of_id, parts = np.zeros(len(sets[0].id)), []
    for s, w in zip(sets, weights or [1.0 / len(sets)] * len(sets), strict=True):
        by_id, by_ood = s.influence(metric)  # one after the other, as sets may be large
        of_id += w * by_id
        parts.append(w**2 * _variance_of_mean(by_ood))
    return math.fsum([_variance_of_mean(of_id), *parts]), of_id


def _event(sets: Sequence[Ranks], metric: str) -> float:
    n = len(sets[0].id)
    per_ood = math.fsum(1.0 / len(s.ood) for s in sets) / len(sets) ** 2
    return (
        EVENT[metric]
        * {"auroc": 1.0 / n + per_ood, "aupr_in": 1.0 / n, "aupr_out": per_ood}[metric]
    )


def _variance_of_mean(values: Floats) -> float:
    if len(values) < 2:
        return math.nan
    # Rounding gives constant values a tiny variance, which would be taken seriously.
    return 0.0 if np.ptp(values) == 0.0 else float(np.var(values, ddof=1)) / len(values)


def quantile_of_normal(level: float) -> float:
    """Half-width of a central interval of the standard normal distribution."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    return NormalDist().inv_cdf(0.5 + level / 2.0)


def wilson(p: float, v: float, level: float) -> Interval:
    """All t with ``(p - t)² <= z² v t (1 - t)``: Wilson's interval of 1 / v trials."""
    spread = quantile_of_normal(level) ** 2 * v
    centre = p + spread / 2
    half = math.sqrt(spread * p * (1.0 - p) + spread * spread / 4)
    # min and max: rounding must not push an end beyond p when p is 0 or 1.
    return (
        max(0.0, min(p, (centre - half) / (1.0 + spread))),
        min(1.0, max(p, (centre + half) / (1.0 + spread))),
    )


def generator(level: float, draws: int, seed: int) -> np.random.Generator:
    """Random numbers of a bootstrap, once its arguments are known to be right."""
    quantile_of_normal(level)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    return np.random.default_rng(seed)


def percentiles(values: Floats, level: float) -> Interval:
    """Central interval of drawn values."""
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)
