"""A disk that is full, a quota, a file that may not grow: told as a person would tell it.

Memory-mapped files on a full disk kill a process without a word, so arrays that are mapped have
their blocks reserved first, or are written with plain writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from oodbench.errors import StorageError

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FIXED = {errno.EROFS}


def size_in_words(size: int) -> str:
    """A number of bytes in words, such as ``"3.2 GB"``."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def storage_error(path: Path, error: BaseException, wanted: int | None = None) -> StorageError:
    """What to tell of a file that cannot be written.

    Args:
        path: the file.
        error: what was raised.
        wanted: bytes that it needs, if known.
    """
    code = full_code(error)
    if code is None and isinstance(error, OSError):
        code = error.errno
    reason = os.strerror(code) if code else str(error) or type(error).__name__
    text = f"cannot write {path} ({reason})."
    if code == errno.EISDIR:
        return StorageError(f"{text} Remove the folder of that name.")
    if code not in _FULL:
        return StorageError(f"{text} Choose a folder that you may write.")
    facts = [] if wanted is None else [f"{size_in_words(wanted)} are wanted"]
    if code == errno.ENOSPC and (free := free_space(path)) is not None:
        facts.append(f"{size_in_words(free)} are free there")
    text += f" {', '.join(facts)}." if facts else ""
    return StorageError(f"{text} Make room, or choose another folder{_setting(path)}.")


def _setting(path: Path) -> str:
    from_environment = {name: os.environ.get(name) for name in ("OODBENCH_CACHE", "OODBENCH_DATA")}
    for name, value in from_environment.items():
        if value and path.is_relative_to(Path(value).expanduser()):
            return f" ({name})"
    if "oodbench" in path.parts:  # where the platform keeps caches and data of programs
        return " (OODBENCH_CACHE, OODBENCH_DATA)"
    return ""


def full_code(error: BaseException) -> int | None:
    """The error number, if it says that there is no room; None if something else went wrong.

    Libraries that write files in other languages tell it in words alone.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _FULL else None
    text = str(error)
    if re.fullmatch(r"\d+ requested and \d+ written", text):  # NumPy's, of a write that was short
        return errno.ENOSPC
    if numbered := re.search(r"os error (\d+)", text):
        return int(numbered[1]) if int(numbered[1]) in _FULL else None
    if isinstance(error, RuntimeError | OSError | ValueError) or "Error" in type(error).__name__:
        for code in _FULL:
            if os.strerror(code) in text:
                return code
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None if cause is None else full_code(cause)


def free_space(path: Path) -> int | None:
    """Free bytes where a file is, or would be; None if that cannot be known."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


@contextlib.contextmanager
def telling(path: Path, wanted: int | None = None) -> Iterator[None]:
    """Tells of a full or read-only disk that is met in the block, where ``path`` is written.

    Raises:
        StorageError: there is no room.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        fixed = isinstance(error, OSError) and error.errno in _FIXED
        if fixed or full_code(error) is not None:
            raise storage_error(path, error, wanted) from error
        raise


def reserve(handle: BinaryIO, size: int, path: Path) -> None:
    """Give an open file at least this size, with its blocks where the file system can do that.

    Raises:
        StorageError: there is no room.
    """
    before = os.fstat(handle.fileno()).st_size
    if size <= before:
        return
    try:
        if not _allocate(handle, size):
            handle.truncate(size)
            free = free_space(path)
            missing = 0 if free is None else size - before - free
            if missing > 0:
                _no_room()
    except OSError as error:
        with contextlib.suppress(OSError):
            handle.truncate(before)
        raise storage_error(path, error, size - before) from error


def _no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM}


def _allocate(handle: BinaryIO, size: int) -> bool:
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return False
    try:
        os.posix_fallocate(handle.fileno(), 0, size)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def write_all(handle: BinaryIO, content: bytes | memoryview) -> None:
    """Write everything to an unbuffered file, whose writes may be short on a disk that fills."""
    rest = memoryview(content).cast("B")
    while len(rest):
        rest = rest[handle.write(rest) :]


def flush(handle: BinaryIO) -> None:
    """Have a file's content on disk, where the file system knows how."""
    handle.flush()
    try:
        os.fsync(handle.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
