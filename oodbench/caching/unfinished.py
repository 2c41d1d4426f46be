"""An extraction that is not complete: its shards, and what is said beside its arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
from torch import Tensor

from oodbench import files
from oodbench.caching.arrays import head_names, write_description, write_head
from oodbench.disk import leftovers
from oodbench.disk.digests import file_digest
from oodbench.errors import OODBenchError, StorageError
from oodbench.outputs import Head, head_arrays, head_meta


class Unfinished:
    """An extraction that is not complete: what it has to say beside its arrays, and its shards.

    Args:
        folder: where it lies.
        n: how many samples.
        size: samples per shard; shards that are written already keep their size.
    """

    layout: ClassVar[int | str]
    """Version of what lies in the folder; others are begun again."""
    fields: ClassVar[tuple[str, ...]] = ("features", "logits")
    """Columns that are fields of ``Outputs``; the others are extras."""

    def __init__(self, folder: Path, n: int, size: int) -> None:
        self.folder, self.n = folder, n
        self.size = self._known_size() or size

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.n // self.size)

    def prepare(self) -> None:
        """Make it fit to go on with; called by one process, which has it for itself.

        Raises:
            StorageError: the folder cannot be written.
        """
        leftovers.sweep(self.folder.parent)
        if self.folder.exists() and self._known_size() is None:
            leftovers.remove(self.folder)
        self._begin()
        settings = {"layout": self.layout, "rows": self.n, "size": self.size}
        files.write_json(self.folder / "shards.json", settings)
        leftovers.sweep(self.folder)
        self.check()

    def _begin(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """Compare the shards that are done with their checksums; those that differ are missing."""
        raise NotImplementedError

    def missing(self) -> list[int]:
        """The shards that are not written yet."""
        raise NotImplementedError

    def write(
        self,
        rows: np.ndarray,
        columns: Mapping[str, Tensor],
        head: Head | None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """One shard; what describes the arrays is on disk before the first shard counts.

        Args:
            rows: positions of its samples.
            columns: what the network says of them.
            head: its head, if that gives the logits.
            notes: what is to be said of outputs that are not there.

        Raises:
            StorageError: there is no room.
            OODBenchError: other columns than in other shards, or of another shape or type.
        """
        raise NotImplementedError

    def finish(self, labels: np.ndarray, key: str) -> None:
        """Describe the arrays as :meth:`Outputs.load` reads them; this makes them complete.

        Args:
            labels: of the samples.
            key: of the cache.

        Raises:
            StorageError: there is no room.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the files."""
        raise NotImplementedError

    # --- what is said beside the arrays ---------------------------------------------------------

    @property
    def _described(self) -> Path:
        return self.folder / "described.json"

    @property
    def _headless(self) -> Path:
        return self.folder / "headless.json"

    def _known_size(self) -> int | None:
        """Samples per shard of what lies in the folder; None if that cannot be gone on with."""
        settings = files.read_json(self.folder / "shards.json")
        known = (self.layout, self.n)
        if (
            not isinstance(settings, dict)
            or (settings.get("layout"), settings.get("rows")) != known
        ):
            return None
        size = settings.get("size")
        return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None

    def _describe(
        self, columns: Mapping[str, Tensor], head: Head | None, notes: Mapping[str, str] | None
    ) -> None:
        about = _sealed(self._described)
        if about is None:
            write_head(self.folder, head_arrays(head))
            about = {"columns": self._files(columns), **head_meta(head)}
            about["notes"] = dict(notes or {})
            about["digests"] = {
                f"head.{name}.npy": file_digest(self.folder / f"head.{name}.npy")
                for name in (head_names(about) if head is not None else ())
            }
            files.write_json(self._described, {**about, "seal": files.digest(about)})
        names = {name.removeprefix("extra/") for name in about["columns"]}
        if names != set(columns):
            raise OODBenchError(
                f"the network gives {', '.join(sorted(columns))} for some images and "
                f"{', '.join(sorted(names))} for others. Wrap it in a module with outputs(images) "
                "and head() that gives the same for all."
            )
        if about["head"] and head is None:  # it was believed by other images
            files.write_json(self._headless, dict(notes or {}))

    def _files(self, columns: Iterable[str]) -> dict[str, str]:
        """The file of each column, by its name in ``Outputs.load``."""
        return {
            name if name in self.fields else f"extra/{name}": self.file_of(name) for name in columns
        }

    def file_of(self, name: str) -> str:
        """The file of a column: no two are the same, nor is one of them a file of ours."""
        return f"{quote(name if name in self.fields else f'extra/{name}', safe='')}.npy"

    def _forget(self) -> None:
        leftovers.remove(self._described)
        leftovers.remove(self._headless)

    def _columns(self) -> dict[str, str] | None:
        """The files of the columns, by name; None if they or the head are not as described."""
        about = _sealed(self._described)
        try:
            if about and all(
                file_digest(self.folder / f) == d for f, d in about["digests"].items()
            ):
                return dict(about["columns"])
        except OSError:
            pass
        return None

    def _complete(self, key: str, columns: Mapping[str, str] | None = None) -> None:
        """Write ``outputs.json``.

        Args:
            key: of the cache.
            columns: files beside those that are described, by column.
        """
        about = _sealed(self._described)
        if about is None:
            raise StorageError(f"{self._described} was removed while {self.folder} was written.")
        files_of = {**about.pop("columns"), **(columns or {})}
        del about["digests"]
        if self._headless.exists():
            notes = files.read_json(self._headless)
            about = {**about, **head_meta(None), "notes": {**about["notes"], **(notes or {})}}
        write_description(self.folder, files_of, about, key)
        leftovers.sweep(self.folder)


def _sealed(path: Path) -> dict[str, Any] | None:
    content = files.read_json(path)
    if not isinstance(content, dict) or content.pop("seal", None) != files.digest(content):
        return None
    return content
