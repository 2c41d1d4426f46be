"""Means by class, of what is made of a block of outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from oodbench.outputs import Outputs

from ._numerics import at_work, blocks, precise


def class_means(
    outputs: Outputs,
    classes: int,
    labels_of: Callable[[Outputs], Tensor],
    transform: Callable[[Tensor], Tensor] | None = None,
    exact: bool = True,
) -> tuple[Tensor, Tensor]:
    """Counts ``[C]`` and mean features ``[C, D]`` of each class, in one pass and float64.

    The mean of a class without a sample is zero.

    Args:
        outputs: features ``[N, D]`` and what ``labels_of`` reads.
        classes: C.
        labels_of: the classes ``[B]`` of a block: its labels, or what is predicted.
        transform: applied to the features ``[B, D]`` of a block first.
        exact: whether it sees them in float64; sums are in float64 either way.
    """
    dtype, device = precise(outputs.features.device), outputs.features.device
    counts = torch.zeros(classes, dtype=dtype, device=device)
    sums: Tensor | None = None
    for batch in blocks(outputs, "features"):
        z = at_work(batch.features, exact)
        z = (transform(z) if transform else z).to(dtype)
        y = labels_of(batch).to(device)
        sums = z.new_zeros(classes, z.shape[1]) if sums is None else sums
        sums.index_add_(0, y, z)
        counts += torch.bincount(y, minlength=classes).to(counts)
    if sums is None:
        sums = torch.zeros(classes, outputs.features.shape[1], dtype=dtype, device=device)
    return counts, sums / counts.clamp(min=1)[:, None]


def labelled(outputs: Outputs) -> Tensor:
    """The true classes ``[N]``."""
    return outputs.labels


def predicted(outputs: Outputs) -> Tensor:
    """The classes ``[N]`` of the largest logits."""
    return outputs.logits.argmax(dim=1)
