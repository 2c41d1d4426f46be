"""Digests that tell whether what is read is what was written: quick ones, for damage, not attacks.

A file's is the CRC-32 of each 4 MiB of it, and a sha256 over these: with zlib's 1 to 4 GB/s a core
(sha256 alone has 0.4 to 1.5) a look at a file costs little more than to read it.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodbench import files
from oodbench.disk import full
from oodbench.errors import StorageError

BLOCK = 2**22
"""Bytes of a file that one checksum covers."""


def file_digest(path: Path) -> str:
    """Hex digest of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size

    def checksum(start: int) -> bytes:
        with path.open("rb", buffering=0) as handle:
            handle.seek(start)
            return zlib.crc32(_exactly(handle, min(BLOCK, size - start))).to_bytes(4, "little")

    starts = range(0, size, BLOCK)
    whole = hashlib.sha256(size.to_bytes(8, "little"))
    if len(starts) < 16:
        whole.update(b"".join(map(checksum, starts)))
    else:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            whole.update(b"".join(pool.map(checksum, starts)))
    return whole.hexdigest()


def _exactly(handle: io.FileIO, size: int) -> bytes:
    content = handle.read(size)
    if len(content) != size:
        raise OSError(f"{handle.name} became shorter while it was read")
    return content


def value_digest(value: Any) -> str:
    """Hex sha256 of tensors, arrays and plain values in mappings and lists, however deep."""
    whole = hashlib.sha256()
    for piece in _pieces(value):
        whole.update(piece)
    return whole.hexdigest()


def _pieces(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, Mapping):
        yield f"{{{len(value)}".encode()
        for key in sorted(value, key=repr):
            yield repr(key).encode()
            yield from _pieces(value[key])
    elif isinstance(value, list | tuple):
        yield f"[{len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    elif isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        flat = value.detach().cpu().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().data
    else:
        yield repr(value).encode()


# --- arrays that are remembered ----------------------------------------------------------------

_MARK = b"\noodbench sha256 "


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to one ``.npz`` file, with a digest of them and of the file's name.

    Raises:
        StorageError: there is no room, or the file cannot be made.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    _write(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What :func:`write_arrays` wrote; None if there is no such file, or it is damaged.

    Damaged are files that were truncated or changed, those of another name, and other files.
    """
    content = _read(path)
    if content is None:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def remember(path: Path, array: np.ndarray) -> None:
    """Write an array that spares work later; nothing is written where the cache is read-only.

    Raises:
        StorageError: the disk is full.
    """
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    try:
        _write(path, buffer.getvalue())
    except StorageError as error:
        if error.__cause__ is None or full.full_code(error.__cause__) is not None:
            raise


def remembered(path: Path, n: int, dtype: Any) -> np.ndarray | None:
    """What :func:`remember` wrote, if it is ``[n]`` of that type and not damaged; else None."""
    content = _read(path)
    if content is None:
        return None
    array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return array if array.shape == (n,) and array.dtype == np.dtype(dtype) else None


def _write(path: Path, content: bytes) -> None:
    files.write_bytes(path, content + _MARK + _seal(path, content))


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as handle:
            content, mark, seal = handle.read().rpartition(_MARK)
    except OSError:
        return None
    return content if mark and seal == _seal(path, content) else None


def _seal(path: Path, content: bytes) -> bytes:
    return hashlib.sha256(path.name.encode() + b"\0" + content).hexdigest().encode()
