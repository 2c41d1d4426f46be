"""Metrics of scores that come piece by piece, in memory that does not grow with their number.

The pixels of a segmentation benchmark are 10^8 to 10^9. Their scores are counted by value: how many
ID and how many OOD pixels have each. As long as there are at most ``limit`` different values the
metrics are exact. Beyond it neighbouring values are counted together, in cells that are as fine as
the limit allows, and each metric comes with a bound on what that may have changed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oodbench.data.samples import OOD, VOID
from oodbench.errors import BadScoresError, DataError
from oodbench.metrics.ranks import quota
from oodbench.results.rows import METRICS

Counts = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

LIMIT = 2**21
"""Different values that are told apart: 48 MB of keys and counts, and as much for what comes in."""


class StreamedScores:
    """Counts of ID and OOD scores by value.

    Args:
        limit: how many different values are told apart.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        if limit < 2:
            raise ValueError(f"the limit must be at least 2 values, not {limit}")
        self.limit = limit
        self.shift = 0
        self.n_id = self.n_ood = 0
        self._keys: Keys = np.empty(0, np.uint64)
        self._counts: Counts = np.empty((0, 2), np.int64)
        self._waiting: list[tuple[Keys, npt.NDArray[np.bool_]]] = []
        self._n_waiting = 0

    def add(self, scores: npt.ArrayLike, is_ood: npt.ArrayLike) -> None:
        """Count scores ``[n]``, each of an OOD pixel or of one that is not.

        Raises:
            BadScoresError: NaN or infinite scores.
        """
        values = np.asarray(scores, dtype=np.float64).reshape(-1)
        ood = np.asarray(is_ood, dtype=bool).reshape(-1)
        if len(values) != len(ood):
            raise ValueError(f"{len(values)} scores, but {len(ood)} pixels")
        if not np.isfinite(values).all():
            raise BadScoresError(
                f"{int((~np.isfinite(values)).sum())} of {len(values)} pixels' scores are NaN or "
                "infinite. Look at the network's outputs: are they finite?"
            )
        if len(values) == 0:  # a map that is all void
            return
        self.n_ood += int(ood.sum())
        self.n_id += int(len(ood) - ood.sum())
        self._waiting.append((_keys(values), ood))
        self._n_waiting += len(values)
        if self._n_waiting >= self.limit:
            self._settle()

    def add_map(self, scores: npt.NDArray[np.floating], mask: npt.NDArray[np.uint8]) -> None:
        """Count the pixels of an image ``[H, W]``, but for those that are ``VOID``.

        Raises:
            DataError: scores and mask of different sizes.
            BadScoresError: NaN or infinite scores.
        """
        if scores.shape != mask.shape:
            raise DataError(
                f"a score map of {_size(scores)} for a mask of {_size(mask)}: both must have the "
                "size of the image. Resize the scores to it, not the mask."
            )
        known = mask != VOID
        self.add(scores[known], mask[known] == OOD)

    def _settle(self) -> None:
        """Merge what waits into the counts, and coarsen the keys until they are few enough."""
        if not self._waiting:
            return
        keys = np.concatenate([keys for keys, _ in self._waiting]) >> np.uint64(self.shift)
        ood = np.concatenate([ood for _, ood in self._waiting])
        self._waiting, self._n_waiting = [], 0
        id_keys, id_counts = _counted(keys[~ood])
        ood_keys, ood_counts = _counted(keys[ood])
        self._keys, self._counts = _summed(
            np.concatenate([self._keys, id_keys, ood_keys]),
            np.concatenate(
                [
                    self._counts,
                    np.stack([id_counts, np.zeros_like(id_counts)], axis=1),
                    np.stack([np.zeros_like(ood_counts), ood_counts], axis=1),
                ]
            ),
        )
        self._coarsen()

    def _coarsen(self) -> None:
        """Drop the fewest low bits without which the keys are few enough.

        How many that are in the end depends on all keys alone: not on their order, nor on the
        pieces in which they came.
        """
        if len(self._keys) > self.limit:
            self._shift_to(self.shift + _bits_to_drop(self._keys, self.limit))

    def _shift_to(self, shift: int) -> None:
        if shift > self.shift:
            coarse = self._keys >> np.uint64(shift - self.shift)
            self._keys, self._counts = _summed(coarse, self._counts)
            self.shift = shift

    def merge(self, other: StreamedScores) -> None:
        """Add what another has counted; the result is that of one which counted all.

        Raises:
            ValueError: the other tells another number of values apart.
        """
        if other.limit != self.limit:
            raise ValueError(f"limits of {self.limit} and {other.limit} values cannot be merged")
        self._settle()
        other._settle()
        shift = max(self.shift, other.shift)
        self._shift_to(shift)
        other._shift_to(shift)
        self._keys, self._counts = _summed(
            np.concatenate([self._keys, other._keys]),
            np.concatenate([self._counts, other._counts]),
        )
        self.n_id += other.n_id
        self.n_ood += other.n_ood
        self._coarsen()

    def counts(self) -> Counts:
        """ID and OOD counts ``[cells, 2]``, in ascending order of score."""
        self._settle()
        return self._counts

    def metrics(self) -> tuple[dict[str, float], dict[str, float]]:
        """All metrics of ``oodbench.metrics``, and for each the most that coarse cells changed.

        A cell counts as one value: ties are half in AUROC, and a threshold takes a whole cell.
        Where nothing was coarsened the bounds are 0.

        Raises:
            DataError: there is no ID pixel, or no OOD pixel.
        """
        if not self.n_id or not self.n_ood:
            raise DataError(
                f"there are {self.n_id} ID and {self.n_ood} OOD pixels; both are needed. Are the "
                "masks all void, or all of one kind?"
            )
        counts = self.counts()
        a, b = counts[:, 0], counts[:, 1]
        upto_a = a.cumsum()
        n, m = self.n_id, self.n_ood
        wins = float(((upto_a - a).astype(np.float64) * b).sum())
        ties = float((a.astype(np.float64) * b).sum())
        fpr_id, fpr_id_error = _fpr(a, b)
        fpr_ood, fpr_ood_error = _fpr(b[::-1], a[::-1])
        aupr_in, aupr_in_error = _average_precision(a, b)
        aupr_out, aupr_out_error = _average_precision(b[::-1], a[::-1])
        figures = dict(
            zip(METRICS, ((wins + ties / 2) / n / m, fpr_id, fpr_ood, aupr_in, aupr_out),
                strict=True)
        )  # fmt: skip
        if self.shift == 0:
            return figures, dict.fromkeys(METRICS, 0.0)
        bounds = (ties / 2 / n / m, fpr_id_error, fpr_ood_error, aupr_in_error, aupr_out_error)
        return figures, dict(zip(METRICS, bounds, strict=True))


def _keys(values: npt.NDArray[np.float64]) -> Keys:
    """Unsigned integers in the order of the floats; both zeros are one."""
    bits = (values + 0.0).view(np.uint64)
    sign = np.uint64(1) << np.uint64(63)
    return np.where(bits & sign, ~bits, bits | sign)


def _starts(keys: Keys) -> npt.NDArray[np.intp]:
    """Where each value begins among sorted keys."""
    return np.flatnonzero(np.concatenate([np.ones(min(len(keys), 1), bool), keys[1:] != keys[:-1]]))


def _counted(keys: Keys) -> tuple[Keys, Counts]:
    """Different keys in their order, and how often each occurs."""
    keys = np.sort(keys)  # by far quicker than an order to put other arrays in
    starts = _starts(keys)
    return keys[starts], np.diff(starts, append=len(keys))


def _summed(keys: Keys, counts: Counts) -> tuple[Keys, Counts]:
    """Different keys in their order, and the sum ``[n, 2]`` of each one's counts."""
    if not len(keys):  # a share of the pixels may be empty
        return keys, counts
    order = np.argsort(keys, kind="stable")  # which merges runs that are sorted already
    keys = keys[order]
    starts = _starts(keys)
    # column by column: rows of two are gathered and added several times as slowly
    sums = [np.add.reduceat(column[order], starts) for column in np.ascontiguousarray(counts.T)]
    return keys[starts], np.stack(sums, axis=1)


def _bits_to_drop(keys: Keys, limit: int) -> int:
    """The fewest low bits without which no more keys than the limit remain."""
    low, high = 1, 64
    while low < high:
        middle = (low + high) // 2
        coarse = keys >> np.uint64(middle)
        if 1 + np.count_nonzero(coarse[1:] != coarse[:-1]) <= limit:
            high = middle
        else:
            low = middle + 1
    return low


def _fpr(positives: Counts, negatives: Counts) -> tuple[float, float]:
    """FPR at 95 % TPR of counts in the order of acceptance, and the share within the last cell."""
    cell = int(np.searchsorted(positives.cumsum(), quota(0.95, int(positives.sum()))))
    m = int(negatives.sum())
    return int(negatives[: cell + 1].sum()) / m, int(negatives[cell]) / m


def _average_precision(positives: Counts, negatives: Counts) -> tuple[float, float]:
    """Average precision of counts in the order of acceptance, and what ties may have changed.

    Within a cell of p positives and q negatives, P and Q having come before it, the precision at a
    positive lies between ``(P + 1) / (P + 1 + Q + q)`` and ``(P + p) / (P + p + Q)``.
    """
    p, q = positives.astype(np.float64), negatives.astype(np.float64)
    upto_p, upto_q = p.cumsum(), q.cumsum()
    share = p / upto_p[-1]
    with np.errstate(invalid="ignore"):  # cells before the first positive have a share of 0
        tied = np.where(p > 0, upto_p / (upto_p + upto_q), 0.0)
        most = np.where(p > 0, upto_p / (upto_p + upto_q - q), 0.0)
    least = (upto_p - p + 1) / (upto_p - p + 1 + upto_q)
    value = float((share * tied).sum())
    bound = np.where(p > 0, np.maximum(most - tied, tied - np.minimum(least, tied)), 0.0)
    return value, float((share * bound).sum())


def _size(array: npt.NDArray[np.generic]) -> str:
    return " x ".join(map(str, array.shape))
