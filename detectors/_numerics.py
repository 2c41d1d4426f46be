"""Numerics that several detectors share: streaming moments, pseudo-inverses, nearest neighbours.

Everything reads its data in blocks, so that features larger than memory can be mapped from disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench.errors import BadScoresError
from oodbench.outputs import Outputs

BLOCK = 4096
"""Rows read at a time."""


def precise(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that have no float64 (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def require_finite(features: Tensor, who: str) -> Tensor:
    """The features, if all are finite; BadScoresError naming the first bad row otherwise."""
    if not features.isfinite().all():
        row = int((~features.isfinite()).any(dim=1).nonzero()[0])
        raise BadScoresError(
            f"{who}: the training features hold NaN or infinite values (first in row {row} of a "
            "block). Look at the network: has its training diverged?"
        )
    return features


def normalize(features: Tensor, eps: float = 1e-10) -> Tensor:
    """Rows of ``[N, D]`` divided by (L2 norm + eps); a zero row stays zero."""
    return features / (features.norm(dim=1, keepdim=True) + eps)


@dataclass
class Moments:
    """Mean and scatter of features, grouped or not.

    Args:
        counts: samples a group, ``[G]``.
        means: ``[G, D]``.
        scatter: ``[D, D]``, the sum over samples of ``(z - mean_g)(z - mean_g)^T``.
    """

    counts: Tensor
    means: Tensor
    scatter: Tensor


def moments(
    outputs: Outputs,
    who: str,
    groups: int | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Moments:
    """Means by class (or one mean, ``groups=None``) and the pooled within-group scatter, one pass.

    Each block's moments are merged into the running ones by the update of Chan, Golub and LeVeque
    (1979), in float64: numerically stable where the sum of squares minus squared sum is not.

    Args:
        outputs: features ``[N, D]``, and labels when grouped.
        who: the detector, for messages.
        groups: number of classes C; None for one group.
        transform: applied to each float64 block ``[B, D]`` first.

    Raises:
        BadScoresError: features that are NaN or infinite, or a class without a sample.
    """
    means = scatter = counts = None
    for batch in outputs.batches(BLOCK):
        z = require_finite(batch.features, who).to(precise(batch.features.device))  # [B, D]
        z = transform(z) if transform else z
        y = batch.labels if groups else torch.zeros(len(z), dtype=torch.int64, device=z.device)
        g = groups or 1
        if means is None or counts is None or scatter is None:
            means = z.new_zeros(g, z.shape[1])
            scatter = z.new_zeros(z.shape[1], z.shape[1])
            counts = z.new_zeros(g)
        n = torch.bincount(y, minlength=g).to(z)  # [G]
        m = z.new_zeros(means.shape).index_add_(0, y, z) / n.clamp(min=1)[:, None]  # [G, D]
        centred = z - m[y]
        total = counts + n
        delta = m - means  # [G, D]
        weight = counts * n / total.clamp(min=1)  # [G]
        scatter += centred.T @ centred + delta.T @ (weight[:, None] * delta)
        means += delta * (n / total.clamp(min=1))[:, None]
        counts = total
    if means is None or counts is None or scatter is None:
        raise BadScoresError(f"{who}: fit got no training samples.")
    if (counts == 0).any():
        empty = (counts == 0).nonzero().flatten().tolist()
        raise BadScoresError(
            f"{who}: fit needs every class; no training sample of classes {empty[:10]}."
        )
    return Moments(counts, means, scatter)


def pseudo_inverse(symmetric: Tensor) -> Tensor:
    """Moore-Penrose inverse of a symmetric positive semi-definite ``[D, D]`` matrix."""
    return torch.linalg.pinv(symmetric, hermitian=True)


def squared_mahalanobis(z: Tensor, means: Tensor, precision: Tensor) -> Tensor:
    """``(z - mean_g)^T precision (z - mean_g)`` for all pairs: ``[N, D], [G, D] -> [N, G]``."""
    projected = z @ precision  # [N, D]
    own = (projected * z).sum(dim=1, keepdim=True)
    cross = projected @ means.T
    centre = ((means @ precision) * means).sum(dim=1)
    return (own - 2 * cross + centre).clamp(min=0)


def kth_neighbour_distance(queries: Tensor, bank: Tensor, k: int, block: int = 16384) -> Tensor:
    """Euclidean distance ``[N]`` from each query ``[N, D]`` to its k-th nearest row of the bank.

    Exact; the bank ``[M, D]`` is searched in blocks, so memory is O(N x block) at most.
    """
    best = queries.new_empty(len(queries), 0)  # squared distances
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), block):
        part = bank[start : start + block].to(queries)
        squared = part.square().sum(dim=1) - 2 * queries @ part.T  # less the query's own norm
        near, where = squared.topk(min(k, len(part)), dim=1, largest=False)
        best, rows = torch.cat([best, near], dim=1), torch.cat([rows, where + start], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1, largest=False)
        rows = rows.gather(1, order)
    # The expanded square cancels for close neighbours, so the k-th distance is taken afresh.
    return (queries - bank[rows[:, -1].to(bank.device)].to(queries)).norm(dim=1)


def score_in_blocks(outputs: Outputs, score: Callable[[Tensor], Tensor]) -> Tensor:
    """``score`` of each block of features, joined: ``[N]``."""
    return torch.cat(
        [
            score(batch.features.to(precise(batch.features.device)))
            for batch in outputs.batches(BLOCK)
        ]
        or [torch.empty(0, dtype=torch.float64)]
    )
