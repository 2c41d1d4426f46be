"""What a network says of a batch of samples, also where that is any number of rows for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from oodbench.errors import OODBenchError
from oodbench.networks.door import called, explained, fed, kept
from oodbench.networks.models import outputs_of, pixels_at_once_of

AT_ONCE = 8
"""Samples of one size a forward pass, of networks that give several rows for each: a photograph in
its own size is large, and those of several sizes would be padded to the largest."""


def of_one_size(
    samples: Sequence[Any], most: int = AT_ONCE, pixels: int | None = None
) -> Iterator[list[Any]]:
    """Consecutive samples whose tensors are of the same shapes.

    Args:
        samples: images ``[C, H, W]``, or any tensors in mappings and lists.
        most: how many there are together at most.
        pixels: of images, how many pixels there are together at most (but one image at least);
            takes the place of ``most``.
    """
    for _, same in itertools.groupby(samples, _shapes):
        group = list(same)
        size = most if pixels is None else max(1, pixels // max(1, group[0][0].numel()))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _shapes(sample: Any) -> list[torch.Size]:
    return [value.shape for value in tree_leaves(sample) if isinstance(value, Tensor)]


def rows_of(
    network: nn.Module, samples: Sequence[Any], positions: Sequence[int], owner: str
) -> dict[str, Tensor]:
    """The rows that a network gives for samples, which need not be of one size.

    Args:
        network: ``outputs(batch)`` gives any number of rows for each sample of a batch.
        samples: preprocessed, on the network's device.
        positions: where each of them is in its dataset.
        owner: the output that says which sample of a batch, from 0 on, a row is of.

    Returns:
        Its outputs, with ``owner`` as positions in the dataset.

    Raises:
        OODBenchError: an output has another number of rows, or ``owner`` is no such column.
    """
    parts: list[dict[str, Tensor]] = []
    start = 0
    for group in of_one_size(samples, pixels=pixels_at_once_of(network)):
        batch = default_collate(group)
        with explained(network, batch):
            outputs = outputs_of(network)(fed(network, batch))
        part = kept(network, outputs, _count(network, outputs, owner, len(group)))
        rows = part[owner]
        places = torch.as_tensor(positions[start : start + len(group)], device=rows.device)
        parts.append({**part, owner: places[rows.long()].to(rows.dtype)})
        start += len(group)
    if any(part.keys() != parts[0].keys() for part in parts):
        raise OODBenchError(
            f"the {called(network)} gives other outputs for some samples than for others."
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _count(network: nn.Module, outputs: Any, owner: str, samples: int) -> int:
    """How many rows there are."""
    column = outputs.get(owner) if isinstance(outputs, Mapping) else None
    if (
        not isinstance(column, Tensor)
        or column.ndim != 1
        or column.is_floating_point()
        or bool(((column < 0) | (column >= samples)).any())
    ):
        raise OODBenchError(
            f"the {called(network)} says that its output {owner!r} is the sample of the batch that "
            f"a row is of: whole numbers [rows] from 0 to {samples - 1}, which it does not give."
        )
    return len(column)
