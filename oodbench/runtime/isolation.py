"""What one detector does must not reach another: not through its inputs, nor through the process.

Each detector reads outputs of its own (:func:`lent`), which cost no copy where they are mapped from
disk, and are looked at afterwards: one that changed them is named. What it leaves changed in the
process is put back (:func:`kept`).
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.detector import changed, check_unchanged
from oodbench.outputs import Outputs
from oodbench.runtime.process import undisturbed


@contextlib.contextmanager
def lent(outputs: Outputs, who: str) -> Iterator[Outputs]:
    """Outputs of its own for a detector, looked at when it is done.

    Args:
        outputs: what the network says, which stays what it is whatever is done to what is lent.
        who: the detector's name.

    Raises:
        ChangedInputsError: the detector changed what it was lent.
    """
    private = outputs.private()
    stamp = private.stamp()
    yield private
    check_unchanged(private, stamp, who)
    # by other ways than torch's: NumPy's views of the same memory
    before = dict(private.arrays())
    for name, value in outputs.arrays():
        if not _same(before[name], value):
            raise changed([name], who)
    outputs.looks_of(private)


def _same(first: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits, so NaN is the same as itself."""
    if first.shape != other.shape or first.dtype != other.dtype:
        return False
    if first.ndim == 2 and first.T.is_contiguous() and other.T.is_contiguous():
        first, other = first.T, other.T  # the rows of a map's pixels; a copy takes far longer
    left, right = (t.contiguous().reshape(-1).view(torch.uint8) for t in (first, other))
    if left.device.type != "cpu":
        return torch.equal(left, right)
    # NumPy's, in blocks that stay in the processor's caches, is several times as quick as torch's
    whole = len(left) // 8 * 8
    a, b = left.numpy()[:whole].view(np.uint64), right.numpy()[:whole].view(np.uint64)
    return torch.equal(left[whole:], right[whole:]) and all(
        np.array_equal(a[i : i + 2**16], b[i : i + 2**16]) for i in range(0, len(a), 2**16)
    )


@contextlib.contextmanager
def kept(network: nn.Module | None = None) -> Iterator[None]:
    """Puts back, however the block ends, what it changed for all that comes after it.

    That is the state of random numbers (Python's, NumPy's, torch's), torch's modes, default dtype,
    device and number of threads, its hooks on all modules, NumPy's error handling, filters of
    warnings, environment variables, the folder that the process is in, and the standard streams.

    Args:
        network: whose classes' methods are put back as well.
    """
    methods = {} if network is None else {c: _methods(c) for c in {*map(type, network.modules())}}
    try:
        with undisturbed(surroundings=True), warnings.catch_warnings():
            yield
    finally:
        for cls, known in methods.items():
            _set_methods(cls, known)


def _methods(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if inspect.isfunction(value)}


def _set_methods(cls: type, known: dict[str, Any]) -> None:
    now = _methods(cls)
    for name in now.keys() - known.keys():
        delattr(cls, name)
    for name, function in known.items():
        if now.get(name) is not function:
            setattr(cls, name, function)
