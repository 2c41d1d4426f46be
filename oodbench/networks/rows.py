"""What a network says of a batch of samples, also where that is any number of rows for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from oodbench.errors import OODBenchError
from oodbench.networks.door import called, explained, fed, kept
from oodbench.networks.models import outputs_of

AT_ONCE = 8
"""Samples of one size a forward pass, of networks that give several rows for each: a photograph in
its own size is large, and those of several sizes would be padded to the largest."""


def of_one_size(samples: Sequence[Any], most: int = AT_ONCE) -> Iterator[list[Any]]:
    """Consecutive samples whose tensors are of the same shapes, at most ``most`` together."""
    group: list[Any] = []
    for sample in samples:
        if group and (len(group) == most or _shapes(sample) != _shapes(group[0])):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


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
    for group in of_one_size(samples):
        batch = default_collate(group)
        with explained(network, batch):
            outputs = outputs_of(network)(fed(network, batch))
        part = kept(network, outputs, _count(network, outputs, owner, len(group)))
        places = torch.as_tensor(positions[start : start + len(group)], device=part[owner].device)
        parts.append({**part, owner: places[part[owner].long()]})
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
