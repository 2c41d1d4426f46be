"""Whether logits have a level: something in them that their softmax does not see.

A network that ends in a log-softmax gives logits whose log-sum-exp is zero for every sample. Scores
that are read off it (energies) are the rounding noise of the sum then.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.errors import OptionError

LOOKED_AT = 4096
"""Rows of logits that are looked at."""

LEAST = 8
"""Samples from which the same log-sum-exp is no accident, whatever it is."""

SHARE = 1e-4
"""A log-sum-exp that varies by no more of what the logits vary by is taken for a constant."""


DEPTH = 50.0
"""Logits that are further below the largest of their sample add nothing, however far they are."""

ROUNDING = 2.0**-21
"""What float32 may lose of a log-softmax, of the largest value: a few units in the last place."""


def has_level(logits: Tensor) -> bool:
    """Whether the log-sum-exp of logits differs between samples, as far as they differ themselves.

    It does not where ``max_i L_i - min_i L_i`` is at most 1e-4 (or the precision that the logits
    have) of the largest range of one class's logits over the samples, but for rounding. Of fewer
    than eight samples that can be an accident, unless it is zero. Logits that are the same for all
    samples, or not finite, are no case of this.

    Args:
        logits: ``[N, C]``; the first 4,096 rows are looked at.
    """
    z = logits[:LOOKED_AT].detach()
    share = max(SHARE, _precision(z))
    z = z.to(torch.float32 if z.device.type == "mps" else torch.float64)
    if len(z) < 2 or z.shape[1] < 2 or not z.isfinite().all():
        return True
    z = z.maximum(z.amax(dim=1, keepdim=True) - DEPTH)
    varies = float((z.amax(dim=0) - z.amin(dim=0)).amax())
    least = share * varies + ROUNDING * float(z.abs().amax())
    level = z.logsumexp(dim=1)
    if len(z) < LEAST and float(level.abs().amax()) > least:
        return True
    return varies <= least or float(level.amax() - level.amin()) > least


def _precision(values: Tensor) -> float:
    """That of the narrowest type that holds the values exactly."""
    if not values.is_floating_point():
        return 0.0
    for kind in (torch.bfloat16, torch.float16):
        if values.numel() and values.to(kind).to(values.dtype).equal(values):
            return torch.finfo(kind).eps
    return torch.finfo(values.dtype).eps


def refuse_without(logits: Tensor, who: str) -> None:
    """Refuse logits without a level for a score that lives on it.

    Raises:
        OptionError: says what to do.
    """
    if not has_level(logits):
        raise OptionError(
            f"{who}: it reads the level of the logits (their log-sum-exp), which is the same for "
            "every sample here (does the network end in a log-softmax?), so its score would be "
            "rounding noise, or mean something else. Give the network without that last layer, or "
            "choose a score of the probabilities."
        )
