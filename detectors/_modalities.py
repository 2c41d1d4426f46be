"""Where each modality's embedding lies in features that are all of them side by side."""

from __future__ import annotations

from itertools import accumulate, pairwise, permutations

import torch

from oodbench.errors import MissingOutputError
from oodbench.outputs import Outputs

LOOKED_AT = 8
"""Rows that are compared."""


def modality_slices(outputs: Outputs, who: str) -> list[slice]:
    """The columns ``[D]`` of each modality in the joint features, in the order in which they lie.

    The order is found by comparing: what reads outputs from a file need not keep it. Of features of
    one modality alone there is one slice, the whole.

    Args:
        outputs: ``features [N, D]``, and ``features/<modality>`` of each.
        who: the detector, for messages.

    Raises:
        MissingOutputError: the network is not one of several modalities, or joins them otherwise.
    """
    some = outputs[:LOOKED_AT]
    found = some.of_kind("features/*")
    for order in [*permutations(found), *((name,) for name in found)]:
        parts = [found[name] for name in order]
        if parts and torch.equal(torch.cat(parts, dim=1), some.features):
            ends = accumulate((part.shape[1] for part in parts), initial=0)
            return [slice(start, end) for start, end in pairwise(ends)]
    there = ", ".join(found) or "none"
    raise MissingOutputError(
        f"{who} with per_modality=true wants features that are those of several modalities side by "
        f"side, which these are not (modalities: {there}). Leave per_modality out."
    )
