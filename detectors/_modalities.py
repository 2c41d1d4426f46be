"""Detectors of several modalities, or members: where each lies in joint features; a toy problem."""

from __future__ import annotations

from itertools import accumulate, pairwise, permutations

import torch
from torch import Tensor

from oodbench.errors import MissingOutputError
from oodbench.outputs import Head, Outputs

LOOKED_AT = 8
"""Rows that are compared."""
UNSURE = 2.0
"""The check suite's network has a logit above 4 for each ID sample, and none above 1.5 for OOD."""


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
    by_modality = some.of_kind("features/*")
    for order in [*permutations(by_modality), *((name,) for name in by_modality)]:
        parts = [by_modality[name] for name in order]
        if parts and torch.equal(torch.cat(parts, dim=1), some.features):
            ends = accumulate((part.shape[1] for part in parts), initial=0)
            return [slice(start, end) for start, end in pairwise(ends)]
    there = ", ".join(by_modality) or "none"
    raise MissingOutputError(
        f"{who} with per_modality=true wants features that are those of several modalities side by "
        f"side, which these are not (modalities: {there}). Leave per_modality out."
    )


def two_opinions(columns: dict[str, Tensor], head: Head) -> tuple[dict[str, Tensor], Head]:
    """The check suite's toy problem, seen by two networks; see ``Detector.toy``.

    Where the one network is sure of a class, both say what it says. Where it is not, as of OOD
    samples, each of the two is sure of itself, and they are sure of different classes.
    """
    logits = columns["logits"]
    of_one_class = torch.eye(logits.shape[1]).to(logits)[logits.argmax(dim=1)]
    is_unsure = logits.amax(dim=1, keepdim=True) < UNSURE
    one = torch.where(is_unsure, 8 * of_one_class, 4 * logits)
    two = torch.where(is_unsure, 8 * of_one_class.roll(1, dims=1), 4 * logits)
    return {**columns, "logits/one": one, "logits/two": two}, head
