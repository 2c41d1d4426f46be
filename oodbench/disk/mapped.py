"""Arrays on disk as memory: mapped copy-on-write, and mapped anew for each who might write."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

SMALL = 2**26
"""Bytes of a tensor in memory that is copied where a mapped one is mapped anew."""


@dataclass(frozen=True)
class _Source:
    """Where an array in memory comes from; of use as long as that array lives."""

    array: weakref.ref[np.ndarray]
    file: Path | IO[bytes]
    offset: int
    state: tuple[int, ...]


# by address: torch forgets whose memory a tensor is, and while the array lives nobody else's is
# there
_SOURCES: dict[int, _Source] = {}


def load(path: Path) -> np.ndarray:
    """An ``.npy`` file as memory: writable, but the file never changes.

    Raises:
        OSError, ValueError: it cannot be read, or is none.
    """
    path = path.absolute()
    with path.open("rb") as handle:
        plain = np.lib.format.read_magic(handle) == (1, 0)
        if plain:
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(handle)
            offset = handle.tell()
            plain = not fortran and dtype.isnative and math.prod(shape) > 0
    if not plain:
        whole: np.ndarray = np.load(path, allow_pickle=False)
        return whole
    array = _map(path, dtype, offset, shape)
    _remember(array, path, offset)
    return array


def _map(file: Path | IO[bytes], dtype: Any, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    if not isinstance(file, Path):
        return np.memmap(file, dtype, mode="c", offset=offset, shape=shape)
    size = offset + math.prod(shape) * np.dtype(dtype).itemsize
    if size > file.stat().st_size:
        raise ValueError(f"{file.name} is truncated")
    # NumPy's mappings each keep a file open, of which a process may have a thousand; torch's do not
    storage: Any = torch.UntypedStorage.from_file(str(file), False, size)
    whole = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,))
    content: np.ndarray = whole.numpy()[offset:].view(dtype)
    return content.reshape(shape)


def private(value: Tensor) -> Tensor:
    """The same values in memory of its own, which nobody else sees written to.

    What :func:`load` gave is mapped once more, which reads and copies nothing. Any other tensor is
    copied.
    """
    source = _source(value)
    if source is None:
        return value.clone()
    dtype = value.numpy().dtype
    try:
        again = _map(source.file, dtype, source.offset, tuple(value.shape))
    except (OSError, ValueError, RuntimeError):
        return value.clone()
    _remember(again, source.file, source.offset)
    return torch.from_numpy(again)


def spilled(value: Tensor, folder: Path) -> Tensor:
    """A large tensor's values mapped from a file without a name, so that :func:`private` is cheap.

    A tensor that is small, mapped already, or that there is no room for comes back as it is.
    """
    known = value.device.type != "cpu" or value.dtype == torch.bfloat16
    if known or value.nbytes <= SMALL or _source(value) is not None:
        return value
    try:
        handle = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as it is mapped
        rows = max(1, SMALL // value[:1].nbytes)
        for start in range(0, len(value), rows):
            handle.write(np.ascontiguousarray(value[start : start + rows].numpy()).data)
        handle.flush()
        array = np.memmap(handle, value.numpy().dtype, mode="c", shape=tuple(value.shape))
    except OSError:
        return value
    _remember(array, handle, 0)
    return torch.from_numpy(array)


def _remember(array: np.ndarray, file: Path | IO[bytes], offset: int) -> None:
    for address in [a for a, source in list(_SOURCES.items()) if source.array() is None]:
        _SOURCES.pop(address, None)
    if array.flags.c_contiguous and array.size:
        _SOURCES[array.ctypes.data] = _Source(weakref.ref(array), file, offset, _state(file))


def _source(value: Tensor) -> _Source | None:
    """Where a whole mapped array comes from, if its file is what it was."""
    if value.device.type != "cpu" or not value.is_contiguous():
        return None
    source = _SOURCES.get(value.data_ptr())
    if source is None:
        return None
    array = source.array()
    if array is None or array.nbytes != value.nbytes:
        return None
    try:
        return source if _state(source.file) == source.state else None
    except (OSError, ValueError):
        return None


def _state(file: Path | IO[bytes]) -> tuple[int, ...]:
    status = file.stat() if isinstance(file, Path) else os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns
