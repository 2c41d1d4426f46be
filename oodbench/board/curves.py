"""ROC curves and histograms of stored scores, small enough to be part of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from oodbench.results.rows import Row
from oodbench.results.significance import Sampled

GRID = np.arange(101) ** 2 / 10_000
"""False positive rates at which a curve is given: more of them near zero, where curves bend."""

BINS = 40
"""Cells of a histogram."""

TAIL = 0.5
"""Percent of scores at either end that the first and the last cell hold together."""


def curves_of(samples: Sampled, rows: Sequence[Row]) -> dict[str, Any]:
    """What is drawn of a detector's scores on each OOD set.

    The ROC curve has OOD as the positive class: at each false positive rate of :data:`GRID` (the
    share of ID at or above a threshold) the share of OOD there, in per mille; between thresholds
    it is a straight line, as the AUROC has it. A histogram has the shares of ID and of OOD in
    cells of equal width, in units of 0.1 %.

    Args:
        samples: the scores behind the rows.
        rows: of OOD sets alone, no means; all of one evaluation.

    Returns:
        ``sets``, a list with ``ood``, ``roc``, ``id``, ``out`` (histograms) and ``ends`` (the least
        and the largest edge of the cells) of each.
    """
    return {"sets": [_of_set(samples, row) for row in rows]}


def _of_set(samples: Sampled, row: Row) -> dict[str, Any]:
    known, others = samples.of(row)
    ood = np.concatenate(others).astype(np.float64)
    known = known.astype(np.float64)
    edges = _edges(known, ood)
    return {
        "ood": row["ood"],
        "roc": _per_mille(roc(known, ood)),
        "id": _per_mille(_shares(known, edges)),
        "out": _per_mille(_shares(ood, edges)),
        "ends": [float(f"{edges[0]:.4g}"), float(f"{edges[-1]:.4g}")],
    }


def roc(known: np.ndarray, ood: np.ndarray) -> np.ndarray:
    """The true positive rate at each false positive rate of :data:`GRID`, OOD being positive.

    Args:
        known: ``[N]`` ID scores.
        ood: ``[M]`` OOD scores.

    Returns:
        ``[101]``, in [0, 1]. Where a curve rises straight up it has the value at the top.
    """
    thresholds = np.unique(np.concatenate([known, ood]))[::-1]
    # counts before shares: a rate that a grid's is must be that number, not one beside it
    fpr = (len(known) - np.searchsorted(np.sort(known), thresholds, side="left")) / len(known)
    tpr = (len(ood) - np.searchsorted(np.sort(ood), thresholds, side="left")) / len(ood)
    fpr, tpr = np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])
    last = np.flatnonzero(np.append(np.diff(fpr) > 0, True))  # the top of each vertical step
    return _between(GRID, fpr, tpr, last)


def _between(at: np.ndarray, fpr: np.ndarray, tpr: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Points of the curve: on its steps the top, elsewhere on the line to the next threshold."""
    left = last[np.searchsorted(fpr[last], at, side="right") - 1]
    right = np.minimum(left + 1, len(fpr) - 1)
    width = fpr[right] - fpr[left]
    part = np.divide(at - fpr[left], width, out=np.zeros_like(at), where=width > 0)
    return np.asarray(tpr[left] + part * (tpr[right] - tpr[left]))


def _edges(known: np.ndarray, ood: np.ndarray) -> np.ndarray:
    """Edges of the cells: from nearly the least to nearly the largest finite score of both."""
    parts = [values[np.isfinite(values)] for values in (known, ood)]
    ends = [np.percentile(values, (TAIL, 100.0 - TAIL)) for values in parts if len(values)]
    low, high = (min(e[0] for e in ends), max(e[1] for e in ends)) if ends else (0.0, 1.0)
    if not high > low:
        half = max(abs(low), 1.0) / 2
        low, high = low - half, high + half
    return np.linspace(low, high, BINS + 1)


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return np.asarray(counts / len(values))


def _per_mille(shares: np.ndarray) -> list[int]:
    return [int(value) for value in np.rint(1000.0 * shares)]
