"""Where things are on disk, and how they are written: whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import platformdirs

from oodbench.disk import full, leftovers
from oodbench.disk.locks import locked as locked
from oodbench.errors import StorageError


def user_path(path: str | Path) -> Path:
    """A path that a user gave: a ``~`` at its beginning is the home folder, as in a shell."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path's own raises without a home)


_data: ContextVar[Path | None] = ContextVar("_data", default=None)


@contextlib.contextmanager
def data_in(folder: Path) -> Iterator[None]:
    """Datasets are looked for in another folder, in the block and by whoever is called there."""
    token = _data.set(folder)
    try:
        yield
    finally:
        _data.reset(token)


def data_dir() -> Path:
    """The datasets' folder: ``OODBENCH_DATA``, else the platform's user data folder."""
    return _data.get() or user_path(
        os.environ.get("OODBENCH_DATA") or platformdirs.user_data_dir("oodbench")
    )


_cache: ContextVar[Path | None] = ContextVar("_cache", default=None)


@contextlib.contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Outputs and checkpoints are kept in another folder, in the block and by who is called there.

    So what is there from before is neither taken nor replaced.
    """
    token = _cache.set(folder)
    try:
        yield
    finally:
        _cache.reset(token)


def cache_dir() -> Path:
    """The folder of network outputs and checkpoints: ``OODBENCH_CACHE``, else the user cache."""
    return _cache.get() or user_path(
        os.environ.get("OODBENCH_CACHE") or platformdirs.user_cache_dir("oodbench")
    )


_PLAIN = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # on Windows, in any folder
_DIGESTED = re.compile(r".*-[0-9a-f]{12}")
_LONGEST = 100


def is_plain_name(name: str) -> bool:
    """Whether a name is a file's name as it is, on any system, and no other name's shortened form.

    Lower case alone, since some file systems do not tell cases apart.
    """
    fits = _PLAIN.fullmatch(name) and len(name) <= _LONGEST and not _DEVICES.fullmatch(name)
    return bool(fits) and not _DIGESTED.fullmatch(name)


def digested_name(name: str) -> str:
    """A file's name for any text: what can be read of its end, and a digest of the whole."""
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", name)[-60:].strip("-") or "name"
    raw = name.encode("utf-8", "surrogatepass")
    return f"{readable}-{hashlib.sha256(raw).hexdigest()[:12]}"


def file_name(name: str) -> str:
    """A name as one of a file: ``scenes/test`` is ``scenes-test``; others get a digest."""
    plain = name.replace("/", "-")
    return plain if is_plain_name(plain) else digested_name(name)


def writable_dir(path: Path, hint: str, *, make: bool = True) -> Path:
    """Make sure that a folder exists and can be written to.

    Args:
        path: the folder.
        hint: what to do if it cannot; ends the message.
        make: whether to make it; if not, its nearest parent that exists must be writable.

    Raises:
        StorageError: it cannot.
    """
    try:
        there = path
        if make:
            path.mkdir(parents=True, exist_ok=True)
        while not there.exists() and there != there.parent:
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write to {path} ({reason}). {hint}") from error
    return path


def make_dir(path: Path) -> Path:
    """Make a folder, with those above it, if it is not there.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise full.storage_error(path, error) from error
    return path


def writable_cache() -> Path:
    """:func:`cache_dir`, which exists and can be written to; StorageError otherwise."""
    return writable_dir(
        cache_dir(),
        "Set OODBENCH_CACHE to a folder for outputs and checkpoints that you may write.",
    )


@contextlib.contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yields a temporary path in the same folder, which becomes ``path`` when the block ends well.

    A reader sees the old file or the new one, never a part; after a failure the old one stays.

    Args:
        path: the file.
        size: bytes that it needs, if known; for the message.

    Raises:
        StorageError: the disk is full, or the file cannot be made.
    """
    temporary = path.with_name(leftovers.temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # as any other file, unlike those of tempfile: results are meant to be shared
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise full.storage_error(path, error, size) from error
    try:
        with full.telling(path, size):
            yield temporary
        try:
            with temporary.open("r+b") as written:
                full.flush(written)
            _replace(temporary, path)
        except OSError as error:
            raise full.storage_error(path, error, size) from error
    finally:
        leftovers.remove(temporary)
    if path.parent not in _swept:
        _swept.add(path.parent)
        leftovers.sweep(path.parent)


_swept: set[Path] = set()


def _replace(temporary: Path, path: Path) -> None:
    for pause in (0.01, 0.1, 0.5):
        try:
            temporary.replace(path)
        except PermissionError:  # on Windows somebody reads it at this moment
            if os.name != "nt":
                raise
            time.sleep(pause)
        else:
            return
    temporary.replace(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        StorageError: the disk is full, or the file cannot be made.
    """
    with replacing(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, and only if its content changes.

    Raises:
        StorageError: the disk is full, or the file cannot be made.
    """
    content = text.encode()
    if not (path.is_file() and path.read_bytes() == content):
        write_bytes(path, content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file says; None if there is none, or nothing that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex sha256 of anything that JSON can say, independent of the order of keys."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str).encode
"""The one text of anything that JSON can say."""
