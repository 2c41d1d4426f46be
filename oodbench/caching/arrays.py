"""Columns of outputs on disk: a folder of ``.npy`` files, whole or not at all, and checked."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

import numpy as np

from oodbench import files
from oodbench.disk import full, leftovers, mapped
from oodbench.disk.digests import file_digest
from oodbench.errors import OODBenchError, StorageError

FORMAT = 2
"""Version of the on-disk layout; a reader takes 1, which has no digests, and refuses others."""


def write(
    path: str | Path,
    columns: Mapping[str, np.ndarray],
    head: Mapping[str, np.ndarray] | None,
    about: Mapping[str, Any],
    key: str | None = None,
) -> None:
    """Write a folder of arrays; whole or not at all.

    Args:
        path: the folder.
        columns: the arrays, by name.
        head: the arrays of the head, where there is one.
        about: what else ``outputs.json`` has to say.
        key: what a reader can ask for, so that the folder cannot pass for another.

    Raises:
        FileExistsError: there is something at ``path`` already.
        StorageError: there is no room.
    """
    path = files.user_path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; save Outputs to a new folder.")
    temporary = path.with_name(leftovers.temporary_name(path.name))
    wanted = sum(array.nbytes for array in columns.values())
    try:
        temporary.mkdir(parents=True)
        with full.telling(path, wanted):
            # no two names are the same file
            names = {name: f"{quote(name, safe='')}.npy" for name in columns}
            for name, array in columns.items():
                _write(temporary / names[name], array)
            write_head(temporary, head)
            write_description(temporary, names, about, key)
        _into_place(temporary, path)
    except OSError as error:
        if isinstance(error, StorageError) or path.exists():
            raise
        raise full.storage_error(path, error, wanted) from error
    finally:
        leftovers.remove(temporary)


@contextlib.contextmanager
def readable(path: str | Path) -> Iterator[Path]:
    """The folder; what cannot be read in the block is told as an error of oodbench's.

    Raises:
        OODBenchError: names the folder, and says what is wrong.
    """
    path = files.user_path(path)
    try:
        yield path
    except OODBenchError as error:
        if str(path) in str(error):
            raise
        raise OODBenchError(f"{path} holds no readable Outputs ({error})") from error
    except Exception as error:  # damaged files have as many errors as bytes
        raise OODBenchError(f"{path} holds no readable Outputs ({error}).") from error


def read(
    folder: Path, mmap: bool = True, key: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None, dict[str, Any]]:
    """The columns, the head's arrays where there is one, and what ``outputs.json`` says.

    Args:
        folder: what :func:`write` wrote.
        mmap: whether the columns stay on disk until they are touched.
        key: the key that it must have; None for any.

    Raises:
        OODBenchError: another format, another key, or a file that is damaged.
    """
    meta = _description(folder, key)
    load = mapped.load if mmap else np.load
    columns = {name: load(folder / Path(file).name) for name, file in meta["columns"].items()}
    head = None
    if meta["head"]:
        head = {name: np.load(folder / f"head.{name}.npy") for name in head_names(meta)}
    return columns, head, meta


def head_names(about: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a head's arrays: two, and those of its text where it has one."""
    return ("weight", "bias", *(Path(name).name for name in about.get("head_text", ())))


class _Sink:
    """A file that NumPy does not take for one: its own writer loses the end on a full disk."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle = handle

    def write(self, content: bytes) -> None:
        """Write all of it, or raise."""
        full.write_all(self.handle, content)


def _write(path: Path, array: np.ndarray) -> None:
    with path.open("wb", buffering=0) as handle:
        np.save(cast(Any, _Sink(cast(BinaryIO, handle))), array, allow_pickle=False)


def _into_place(temporary: Path, path: Path) -> None:
    try:
        temporary.rename(path)
    except OSError:
        if path.exists():
            raise
        # some file systems rename no folders: what makes it whole comes last
        path.mkdir()
        for file in sorted(temporary.iterdir(), key=lambda f: f.name == "outputs.json"):
            file.replace(path / file.name)


def write_head(folder: Path, head: Mapping[str, np.ndarray] | None) -> None:
    """Write a head's arrays, if there is one.

    Raises:
        StorageError: there is no room.
    """
    if head is not None:
        for name, value in head.items():
            buffer = io.BytesIO()
            np.save(buffer, value, allow_pickle=False)
            files.write_bytes(folder / f"head.{name}.npy", buffer.getvalue())


def write_description(
    folder: Path, columns: Mapping[str, str], about: Mapping[str, Any], key: str | None = None
) -> None:
    """Write ``outputs.json``, which makes a folder of arrays complete, with their digests.

    The arrays are on disk before it.

    Args:
        folder: where they are.
        columns: their files, by name.
        about: what else there is to say: what ``oodbench.outputs.head_meta`` does, whose arrays are
        there too,
            and ``notes``.
        key: of the cache, so that a folder cannot pass for another.

    Raises:
        StorageError: there is no room.
    """
    of_head = [f"head.{name}.npy" for name in head_names(about)] if about["head"] else []
    names = [*columns.values(), *of_head]
    meta = {"format": FORMAT, "columns": dict(columns), "key": key, **about}
    for name in names:
        with full.telling(folder / name), (folder / name).open("r+b") as handle:
            full.flush(handle)
    meta["digests"] = {name: file_digest(folder / name) for name in names}
    files.write_json(folder / "outputs.json", {**meta, "seal": files.digest(meta)})


_verified: dict[Path, tuple[Any, ...]] = {}
"""Folders whose files were compared with their digests, and how the files looked then."""


def _description(folder: Path, key: str | None) -> dict[str, Any]:
    """What ``outputs.json`` says, once it and the files that it names are found to be whole.

    Raises:
        OODBenchError: they are not; the message says how.
    """
    content = (folder / "outputs.json").read_bytes()
    meta: dict[str, Any] = json.loads(content)
    if meta["format"] == 1 and key is None:  # written before there were digests
        return meta
    if meta["format"] != FORMAT:
        raise OODBenchError(
            f"{folder} has Outputs of format {meta['format']}; this version reads {FORMAT}."
        )
    if meta.pop("seal") != files.digest(meta):
        raise OODBenchError("outputs.json was changed.")
    if key is not None and meta["key"] != key:
        raise OODBenchError("these are the outputs of another network or other data.")
    digests: dict[str, str] = meta["digests"]
    if bare := {Path(name).name for name in meta["columns"].values()} - set(digests):
        raise OODBenchError(f"{', '.join(sorted(bare))} has no digest.")
    stats = [(folder / name).stat() for name in digests]
    looks = (content, *((s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats))
    if _verified.get(folder.absolute()) != looks:
        for name, digest in digests.items():
            if file_digest(folder / name) != digest:
                raise OODBenchError(f"{name} is damaged: it is not what was written.")
        _verified[folder.absolute()] = looks
    return meta
