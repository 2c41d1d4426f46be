"""The arrays of an extraction, one row per sample: full-sized, filled shard by shard, and checked.

A checksum a shard says that it is done, so that a run that was killed goes on where it stopped, and
a shard whose bytes never reached the disk counts as missing. Several processes of one run fill one
set of files, and nothing is ever merged or copied.
"""

from __future__ import annotations

import io
import math
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from oodbench import files
from oodbench.caching.places import retire
from oodbench.caching.unfinished import Unfinished
from oodbench.disk import full, leftovers
from oodbench.errors import OODBenchError, OODBenchWarning, StorageError
from oodbench.outputs import Head, Outputs, to_numpy

_DONE = 1 << 32  # beside the checksum, so that that of a finished shard is never zero


def stored(folder: Path, key: str) -> tuple[Outputs | None, str | None]:
    """What a folder of the cache holds; or None, and why it cannot be used if there is something.

    Args:
        folder: of the cache.
        key: what it has to be of.
    """
    if not (folder / "outputs.json").exists():
        return None, None
    try:
        return Outputs.load(folder, key=key), None
    except OODBenchError as error:
        return None, str(error)


def discard(folder: Path, damage: str) -> None:
    """Remove a folder of the cache that is damaged, and say that its content is made again.

    Raises:
        StorageError: it cannot be removed.
    """
    warnings.warn(
        f"what is cached in {folder} cannot be used, and is made again: {damage}",
        OODBenchWarning,
        stacklevel=3,
    )
    try:
        retire(folder)
    except StorageError as error:
        text = f"cannot remove {folder}, which is damaged ({damage}). Remove it."
        raise StorageError(text) from error


class Store(Unfinished):
    """An extraction that is not complete, of one row per sample.

    Args:
        folder: where it lies.
        n: how many samples.
        size: samples per shard; shards that are written already keep their size.
    """

    layout = 2

    def __init__(self, folder: Path, n: int, size: int) -> None:
        super().__init__(folder, n, size)
        self._arrays: dict[str, ArrayFile] = {}

    def _begin(self) -> None:
        kind = _kind(self.folder / "done.npy")
        if kind is not None and kind[:2] != ((self.shards,), np.dtype(np.uint64)):
            leftovers.remove(self.folder / "done.npy")

    def check(self) -> None:
        """Compare the shards that are done with their checksums; those that differ are missing."""
        done = self._done().read()
        finished = np.flatnonzero(done)
        columns = self._columns()
        if columns is None:
            self._forget()
        for shard in finished.tolist():
            rows = slice(shard * self.size, min((shard + 1) * self.size, self.n))
            checksum = 0
            for file in sorted((columns or {}).values()):
                checksum = zlib.crc32(_bytes(self.folder / file, self.n, rows), checksum)
            if columns is None or done[shard] != _DONE | checksum:
                self._done().write(shard, np.zeros(1, np.uint64))

    def missing(self) -> list[int]:
        """The shards that are not written yet."""
        return np.flatnonzero(self._done().read() == 0).tolist()

    def write(
        self,
        rows: np.ndarray,
        columns: Mapping[str, Tensor],
        head: Head | None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """One shard; what describes the arrays is on disk before the first shard counts.

        Raises:
            StorageError: there is no room.
            OODBenchError: other columns than in other shards, or of another shape or type.
        """
        start, checksum = int(rows[0]), 0
        arrays = {
            self.file_of(name): np.ascontiguousarray(to_numpy(v)) for name, v in columns.items()
        }
        for file, array in sorted(arrays.items()):
            self._array(file, (self.n, *array.shape[1:]), array.dtype).write(start, array)
            checksum = zlib.crc32(array.reshape(-1).view(np.uint8).data, checksum)
        self._describe(columns, head, notes)
        self._done().write(start // self.size, np.array([_DONE | checksum], np.uint64))

    def finish(self, labels: np.ndarray, key: str) -> None:
        """Describe the arrays as :meth:`Outputs.load` reads them; this makes them complete.

        Raises:
            StorageError: there is no room.
        """
        self.close()
        buffer = io.BytesIO()
        np.save(buffer, labels, allow_pickle=False)
        files.write_bytes(self.folder / "labels.npy", buffer.getvalue())
        self._complete(key, {"labels": "labels.npy"})

    def close(self) -> None:
        """Close the files."""
        for array in self._arrays.values():
            array.close()
        self._arrays.clear()

    def _done(self) -> ArrayFile:
        """``[shards]`` uint64: zero, or what tells that a shard is done and how it looks."""
        return self._array("done.npy", (self.shards,), np.dtype(np.uint64))

    def _array(self, file: str, shape: tuple[int, ...], dtype: np.dtype) -> ArrayFile:
        array = self._arrays.get(file)
        if array is None:
            array = self._arrays[file] = ArrayFile(self.folder / file, shape, dtype)
        elif (array.shape, array.dtype) != (shape, dtype):
            raise misfit(array.path, (array.shape, array.dtype), (shape, dtype))
        return array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}  # files that are open stay here


class ArrayFile:
    """A ``.npy`` file that is made at its full size and written in pieces.

    Plain writes: through a mapping, a disk that fills would kill the process.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        buffer = io.BytesIO()
        described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, described)
        self._header = buffer.getvalue()
        self._row = math.prod(shape[1:]) * dtype.itemsize
        self._size = len(self._header) + shape[0] * self._row
        try:
            path.open("ab").close()
            self._handle = path.open("r+b", buffering=0)
        except OSError as error:
            raise full.storage_error(path, error) from error
        try:
            if not self._is_made():
                with files.locked(path):  # several may come here at once
                    self._make()
        except BaseException:
            self._handle.close()
            raise

    def _is_made(self) -> bool:
        self._handle.seek(0)
        there = self._handle.read(len(self._header))
        return there == self._header and os.fstat(self._handle.fileno()).st_size == self._size

    def _make(self) -> None:
        if self._is_made():
            return
        there = _kind(self.path)
        if there is not None and there[:2] != (self.shape, self.dtype):
            raise misfit(self.path, there[:2], (self.shape, self.dtype))
        full.reserve(self._handle, self._size, self.path)
        with full.telling(self.path, self._size):
            self._handle.truncate(self._size)
            self._put(0, self._header)

    def write(self, start: int, rows: np.ndarray) -> None:
        """Write some rows, from a start on.

        Raises:
            StorageError: there is no room.
        """
        with full.telling(self.path, self._size):
            self._put(len(self._header) + start * self._row, rows.reshape(-1).view(np.uint8).data)

    def _put(self, at: int, content: bytes | memoryview) -> None:
        self._handle.seek(at)
        full.write_all(self._handle, content)

    def read(self) -> np.ndarray:
        """Read the whole array."""
        self._handle.seek(len(self._header))
        size = self.shape[0] * self._row
        content = self._handle.read(size).ljust(size, b"\0")
        return np.frombuffer(content, self.dtype).reshape(self.shape)

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


def _kind(path: Path) -> tuple[tuple[int, ...], np.dtype, int] | None:
    """Shape, type and start of the array in a ``.npy`` file; None if it is none."""
    try:
        with path.open("rb") as handle:
            if np.lib.format.read_magic(handle) != (1, 0):
                return None
            shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
            return shape, dtype, handle.tell()
    except (OSError, ValueError):
        return None


def _bytes(path: Path, n: int, rows: slice) -> bytes:
    """What is in some rows of a file; as much of it as is there."""
    kind = _kind(path)
    if kind is None or kind[0][:1] != (n,):
        return b""
    shape, dtype, start = kind
    row = math.prod(shape[1:]) * dtype.itemsize
    with path.open("rb", buffering=0) as handle:
        handle.seek(start + rows.start * row)
        return handle.read((rows.stop - rows.start) * row)


def misfit(path: Path, there: Any, wanted: Any) -> OODBenchError:
    """The error of an array that is of another shape or type than those before it."""
    (shape, dtype), (other_shape, other_dtype) = there, wanted
    return OODBenchError(
        f"the cached outputs in {path.parent} have {path.stem} of {dtype}{shape}, the network "
        f"gives {other_dtype}{other_shape}. Remove that folder and run again."
    )
