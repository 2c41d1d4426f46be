"""Where things are on disk, and how they are written: whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs

from oodbench.errors import StorageError


def user_path(path: str | Path) -> Path:
    """A path that a user gave: a ``~`` at its beginning is the home folder, as in a shell."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path's own raises without a home)


def data_dir() -> Path:
    """The datasets' folder: ``OODBENCH_DATA``, else the platform's user data folder."""
    return user_path(os.environ.get("OODBENCH_DATA") or platformdirs.user_data_dir("oodbench"))


def cache_dir() -> Path:
    """The folder of network outputs and checkpoints: ``OODBENCH_CACHE``, else the user cache."""
    return user_path(os.environ.get("OODBENCH_CACHE") or platformdirs.user_cache_dir("oodbench"))


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


def writable_cache() -> Path:
    """:func:`cache_dir`, which exists and can be written to; StorageError otherwise."""
    return writable_dir(
        cache_dir(),
        "Set OODBENCH_CACHE to a folder for outputs and checkpoints that you may write.",
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, which becomes ``path`` when the block ends well.

    A reader sees the old file or the new one, never a part; after a failure the old one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; results are meant to be shared as any other file is
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, and only if its content changes."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` (made if missing) among processes of this machine.

    The lock ends with the process, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex sha256 of anything that JSON can say, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
