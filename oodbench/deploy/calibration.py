r"""Thresholds and p-values from held-out ID scores, and what they guarantee.

With n calibration scores :math:`s_1, \dots, s_n` and a new score s (higher = more OOD):

.. math:: p(s) = \frac{1 + \#\{i : s_i \ge s\}}{n + 1}

Where the new sample is ID and exchangeable with the calibration samples (drawn as they were, and
seen as little by network and detector), :math:`P(p \le \alpha) \le \alpha` for every
:math:`\alpha`: the split-conformal p-value (Vovk, Gammerman, Shafer, "Algorithmic Learning in a
Random World", 2005). The probability is over calibration and new sample together; given one
calibration set the false alarm rate is :math:`\mathrm{Beta}(n + 1 - k, k)` about it, with
:math:`k = \lceil (n + 1)(1 - \alpha) \rceil`. A threshold is the k-th smallest calibration score,
and a sample is flagged where its score is above it, which is where :math:`p \le \alpha`.

p-values of several samples share the calibration set, so they are not independent; they are
positively dependent in the sense (PRDS) in which the procedure of Benjamini and Hochberg still
bounds the false discovery rate: S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia, "Testing for
outliers with conformal p-values", Annals of Statistics 51 (2023), arXiv:2104.08279.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import stats

from oodbench.errors import BadScoresError, OptionError

CONFIDENCE = 0.95
"""How sure a false alarm budget is kept, over calibration sets."""


@dataclass(frozen=True)
class Threshold:
    """A score above which a sample is flagged.

    Args:
        value: the score.
        tpr: share of ID samples that it keeps.
        fpr_budget: share of ID samples that it flags at most, where that was asked for.
    """

    value: float
    tpr: float
    fpr_budget: float | None = None


class Calibration:
    """Held-out ID scores.

    Args:
        scores: ``[n]``, in any order; higher = more OOD.

    Attributes:
        scores: ``[n]`` float64, rising.

    Raises:
        BadScoresError: none, or not all finite.
    """

    def __init__(self, scores: Any) -> None:
        values = np.sort(np.asarray(scores, dtype=np.float64).reshape(-1))
        if not len(values) or not np.isfinite(values).all():
            raise BadScoresError(
                "thresholds want finite scores of held-out ID samples, and there are "
                f"{'none' if not len(values) else 'some that are not finite'}."
            )
        values.setflags(write=False)
        self.scores: np.ndarray = values

    def __len__(self) -> int:
        return len(self.scores)

    def p_values(self, scores: Any) -> np.ndarray:
        """``[N]`` in (0, 1]: conformal p-values, small = more OOD; NaN where a score is NaN."""
        values = np.asarray(scores, dtype=np.float64)
        below = np.searchsorted(self.scores, values, side="left")
        p: np.ndarray = (1 + len(self) - below) / (len(self) + 1)
        return np.where(np.isnan(values), np.nan, p)

    def threshold(self, tpr: float) -> Threshold:
        """Keeps a share of ``tpr`` of ID samples: P(flagged) <= 1 - tpr for exchangeable ones.

        Raises:
            OptionError: ``tpr`` is not in (0, 1), or n is too small for it.
        """
        if not 0 < tpr < 1:
            raise OptionError(f"`tpr` is a share in (0, 1), such as 0.95, not {tpr:g}.")
        k = math.ceil((len(self) + 1) * Fraction(str(float(tpr))))
        if k > len(self):
            least = math.ceil(Fraction(str(float(tpr))) / (1 - Fraction(str(float(tpr)))))
            raise OptionError(
                f"`tpr={tpr:g}` wants at least {least:,} held-out ID samples, and there are "
                f"{len(self):,}: no score is so high that it could be told. Give more, or choose "
                f"a smaller one."
            )
        return Threshold(float(self.scores[k - 1]), float(tpr))

    def within_budget(self, budget: float, confidence: float = CONFIDENCE) -> Threshold:
        """The lowest threshold that flags at most a share of ``budget`` of ID samples, surely.

        That is the case for all but a share of ``1 - confidence`` of calibration sets; a threshold
        by ``tpr`` keeps its share on average over them.

        Raises:
            OptionError: the budget is not in (0, 1), or n is too small for it.
        """
        if not 0 < budget < 1:
            raise OptionError(f"`fpr_budget` is a share in (0, 1), such as 0.05, not {budget:g}.")
        n = len(self)
        k = np.arange(1, n + 1)
        kept = np.flatnonzero(stats.beta.cdf(budget, n + 1 - k, k) >= confidence)
        if not len(kept):
            least = math.ceil(math.log(1 - confidence) / math.log1p(-budget))
            raise OptionError(
                f"`fpr_budget={budget:g}` wants at least {least:,} held-out ID samples, and there "
                f"are {n:,}. Give more, or a larger budget."
            )
        return Threshold(float(self.scores[kept[0]]), 1 - budget, float(budget))


def thresholds_of(
    calibration: Calibration, tpr: float | Sequence[float] | None, fpr_budget: float | None
) -> list[Threshold]:
    """The thresholds that are asked for; at 95 % TPR where nothing is.

    Raises:
        OptionError: both are given, or what :class:`Calibration` refuses.
    """
    if fpr_budget is not None:
        if tpr is not None:
            raise OptionError("give `tpr` or `fpr_budget`, not both.")
        return [calibration.within_budget(fpr_budget)]
    asked = 0.95 if tpr is None else tpr
    shares = [float(asked)] if isinstance(asked, int | float) else [float(one) for one in asked]
    if not shares:
        raise OptionError("`tpr` names no share.")
    return [calibration.threshold(share) for share in dict.fromkeys(shares)]


def discoveries(p_values: Any, fdr: float) -> np.ndarray:
    """``[N]`` bool: samples flagged so that a share of at most ``fdr`` of them is ID, on average.

    The procedure of Benjamini and Hochberg: the m smallest p-values, with the largest m for which
    the m-th is at most ``fdr * m / N``. NaN is never flagged, and not counted.

    Raises:
        OptionError: ``fdr`` is not in (0, 1).
    """
    if not 0 < fdr < 1:
        raise OptionError(f"`fdr` is a share in (0, 1), such as 0.1, not {fdr:g}.")
    p = np.asarray(p_values, dtype=np.float64)
    known = ~np.isnan(p)
    ordered = np.sort(p[known])
    bound = fdr * np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    passing = np.flatnonzero(ordered <= bound * (1 + 1e-12))
    if not len(passing):
        return np.zeros(p.shape, dtype=bool)
    flagged: np.ndarray = known & (p <= ordered[passing[-1]])
    return flagged


def fewest_discoveries(n: int, samples: int, fdr: float) -> int:
    """How many of ``samples`` must stand out before any can be flagged at this FDR.

    The smallest p-value of n calibration samples is 1 / (n + 1), so a single one of many is none.
    """
    return max(1, math.ceil(samples / (fdr * (n + 1)) - 1e-9))
