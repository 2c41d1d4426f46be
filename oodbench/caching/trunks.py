"""What a network with a frozen trunk says: the trunk's features, and the logits of its head."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oodbench import files
from oodbench.disk import full
from oodbench.networks.models import (
    Network,
    trunk_of,
)
from oodbench.outputs import Head, Outputs, to_numpy


def frozen_trunk_of(network: nn.Module) -> nn.Module | None:
    """The part of a network that is not trained and whose features are kept; None without one."""
    trunk = trunk_of(network)
    return trunk if isinstance(trunk, Network) else None


def headed(outputs: Outputs, head: Head | None) -> Outputs:
    """What a network with a frozen trunk says: the trunk's features, and the logits of its head."""
    if head is None:
        return outputs
    rows = max(1, 2**22 // outputs.features.shape[1])
    starts = range(0, len(outputs), rows)
    pieces = (to_numpy(head(outputs.features[s : s + rows].float())) for s in starts)
    logits = _gathered(pieces, (len(outputs), len(head.weight)))
    return replace(outputs, logits=torch.from_numpy(logits), head=head)


def _gathered(pieces: Iterator[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Logits of all pieces, in memory or, of many, in a file that is gone when they are."""
    if math.prod(size) <= 2**26:
        return np.concatenate(list(pieces))
    folder = files.cache_dir()
    with _nameless(folder) as handle, full.telling(folder, 4 * math.prod(size)):
        for piece in pieces:  # written, not mapped: a disk that fills would kill the process
            full.write_all(handle, np.ascontiguousarray(piece, dtype=np.float32).data)
        return np.memmap(handle, dtype=np.float32, mode="c", shape=size)


def _nameless(folder: Path) -> Any:
    try:
        return tempfile.TemporaryFile(buffering=0, dir=folder)
    except OSError:  # a cache that is read-only
        return tempfile.TemporaryFile(buffering=0)
