"""Rows of an extraction whose number is not known before: a file for each shard, joined at the end.

A file is written whole or not at all and holds a digest of itself, so that it is there when its
shard is done. Where the extraction is complete, the rows of all shards are one array a column, as
those of :mod:`oodbench.caching.store` are, and are read like them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
from torch import Tensor

from oodbench.caching.store import ArrayFile, misfit
from oodbench.caching.unfinished import Unfinished
from oodbench.disk import leftovers
from oodbench.disk.digests import read_arrays, write_arrays
from oodbench.errors import StorageError
from oodbench.outputs import Head, to_numpy


class Parts(Unfinished):
    """An extraction that is not complete, of any number of rows per sample.

    Args:
        folder: where it lies.
        n: how many samples.
        size: samples per shard; shards that are written already keep their size.
        owner: the column that says which sample a row is of.
    """

    layout = "parts 1"
    fields = ("features", "logits", "labels")

    def __init__(self, folder: Path, n: int, size: int, owner: str) -> None:
        super().__init__(folder, n, size)
        self.owner = owner

    def _begin(self) -> None:
        """Nothing is laid out before there are rows."""

    def _part(self, shard: int) -> Path:
        return self.folder / f"part-{shard:08}.npz"

    def check(self) -> None:
        """Read the shards that are done; those that are damaged are missing from then on."""
        is_described = self._columns() is not None
        if not is_described:
            self._forget()
        for path in self.folder.glob("part-*.npz"):
            if not is_described or read_arrays(path) is None:
                leftovers.remove(path)

    def missing(self) -> list[int]:
        """The shards that are not written yet."""
        return [shard for shard in range(self.shards) if not self._part(shard).is_file()]

    def write(
        self,
        rows: np.ndarray,
        columns: Mapping[str, Tensor],
        head: Head | None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """One shard.

        Args:
            rows: positions of its samples.
            columns: the rows that there are of these samples.
            head: the network's, if it gives the logits.
            notes: what is to be said of outputs that are not there.

        Raises:
            StorageError: there is no room.
            OODBenchError: other columns than in other shards.
        """
        self._describe(columns, head, notes)
        # a name in an archive is a file's, which must not lead out of it
        arrays = {quote(name, safe=""): to_numpy(value) for name, value in columns.items()}
        write_arrays(self._part(int(rows[0]) // self.size), arrays)

    def finish(self, labels: np.ndarray, key: str) -> None:
        """Join the shards, as :meth:`Outputs.load` reads them.

        Args:
            labels: of the samples; a row has its sample's, unless the network labels it.
            key: of the cache.

        Raises:
            StorageError: there is no room, or a shard is gone.
        """
        counts = [len(self._rows(shard)[self.owner]) for shard in range(self.shards)]
        arrays: dict[str, ArrayFile] = {}
        start = 0
        try:
            for shard, count in enumerate(counts):
                for name, value in self._labelled(self._rows(shard), labels).items():
                    kind = (sum(counts), *value.shape[1:]), value.dtype
                    if name not in arrays:
                        file = self.folder / self.file_of(name)
                        leftovers.remove(file)  # of a run that was killed here
                        arrays[name] = ArrayFile(file, *kind)
                    elif kind != (arrays[name].shape, arrays[name].dtype):
                        raise misfit(
                            arrays[name].path, (arrays[name].shape, arrays[name].dtype), kind
                        )
                    arrays[name].write(start, np.ascontiguousarray(value))
                start += count
        finally:
            for array in arrays.values():
                array.close()
        self._complete(key, self._files(arrays))
        for shard in range(self.shards):
            leftovers.remove(self._part(shard))

    def _labelled(self, rows: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, np.ndarray]:
        return rows if "labels" in rows else {**rows, "labels": labels[rows[self.owner]]}

    def _rows(self, shard: int) -> dict[str, np.ndarray]:
        part = read_arrays(self._part(shard))
        if part is None:
            raise StorageError(f"{self._part(shard)} was removed or changed while it was used.")
        return {unquote(name): value for name, value in part.items()}

    def close(self) -> None:
        """Nothing is open."""
