"""Locks among processes: the kernel's where the file system has them, else a file of one's own.

``filelock`` would do, but falls back on file systems without locks in one case of many, writes into
the file that it locks, and waits without a word.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from oodbench.disk import full, leftovers

fcntl: Any
msvcrt: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None

_LOG = logging.getLogger("oodbench")
_PATIENCE = 2.0
_BEAT = 600.0
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_held: set[BinaryIO] = set()


def _drop_in_child() -> None:
    # A data worker that outlives its killed parent must not hold what the parent held.
    for handle in list(_held):
        with contextlib.suppress(OSError):
            handle.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_in_child)


class _UnsupportedError(Exception):
    """This file system, or this Python, has no locks."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` (made if missing) among processes that share it.

    The lock ends with the process, however it ends.

    Raises:
        StorageError: the file cannot be made.
    """
    with _lock(path, own=False, wait=lambda: None):
        yield


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Does long work that no two processes shall do at once; the second waits, and says so.

    Args:
        path: a lock file for this work alone; it is gone afterwards, and its folder if it is empty.
        what: the work, for the message: ``"the outputs for cifar10/test"``.

    Raises:
        StorageError: the file cannot be made.
    """

    def wait() -> None:
        owner = _read(path) or _read(_soft(path))
        told = f" ({owner.rpartition('-')[0]})" if owner else ""
        _LOG.warning("oodbench: another process%s works on %s; waiting for it (%s)", told, what,
                     path)  # fmt: skip

    try:
        with _lock(path, own=True, wait=wait):
            yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.rmdir()


@contextlib.contextmanager
def _lock(path: Path, own: bool, wait: Callable[[], None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_native(path, own, wait))
        except _UnsupportedError:
            stack.enter_context(_by_file(_soft(path), wait))
        yield


def _soft(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def _native(path: Path, own: bool, wait: Callable[[], None]) -> Iterator[None]:
    for _ in _pauses(wait):
        opened = _opened(path)
        if opened is None:
            continue
        handle = opened
        try:
            if _try(handle):
                if not own or _is_at(handle, path):
                    break
                _release(handle)
        except BaseException as error:
            handle.close()
            if own and isinstance(error, _UnsupportedError):
                leftovers.remove(path)
            raise
        handle.close()
    _held.add(handle)
    try:
        if own:
            with contextlib.suppress(OSError):  # for the message alone
                handle.truncate(0)
                handle.write(leftovers.whose().encode())
                handle.flush()
        yield
    finally:
        if own:
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                path.unlink()
        _held.discard(handle)
        _release(handle)
        with contextlib.suppress(OSError):
            handle.close()


def _opened(path: Path) -> BinaryIO | None:
    """The file, made with its folder if it is missing; None if somebody just removed that."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise full.storage_error(path, error) from error


def _is_at(handle: BinaryIO, path: Path) -> bool:
    """Whether the file that is locked is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except OSError:
        return False


_FAR = 2**40
"""Where Windows locks a byte: behind all content, which stays readable."""


def _try(handle: BinaryIO) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            handle.seek(_FAR)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            raise _UnsupportedError
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise _UnsupportedError from error
    return True


def _release(handle: BinaryIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        if fcntl is not None:  # a forked child may have the file open still
            fcntl.flock(handle, fcntl.LOCK_UN)
        elif msvcrt is not None:
            handle.seek(_FAR)
            msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)


def _pauses(wait: Callable[[], None]) -> Iterator[None]:
    """Endlessly, with longer and longer pauses; calls ``wait`` once when it takes long."""
    began, told, pause = time.monotonic(), False, 0.005
    while True:
        yield
        time.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))
        pause = min(0.5, 1.5 * pause)
        if not told and time.monotonic() - began > _PATIENCE:
            told = True
            wait()


@contextlib.contextmanager
def _by_file(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    """A file that only one can make; of a process that is dead or silent for a day, it is removed.

    Its owner touches it from time to time, as only its own machine knows whether it runs.
    """
    name = leftovers.whose()
    for _ in _pauses(wait):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileNotFoundError:  # somebody just removed the folder
            continue
        except (FileExistsError, PermissionError) as error:
            if not path.exists() and isinstance(error, PermissionError):
                raise full.storage_error(path, error) from error
            _break(path)
            continue
        except OSError as error:
            raise full.storage_error(path, error) from error
        try:
            os.write(handle, name.encode())
        except OSError as error:
            path.unlink(missing_ok=True)
            raise full.storage_error(path, error, len(name)) from error
        finally:
            os.close(handle)
        break
    ended = threading.Event()
    beat = threading.Thread(target=_touch, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        if _read(path) == name:
            with contextlib.suppress(OSError):
                path.unlink()


def _touch(path: Path, ended: threading.Event) -> None:
    while not ended.wait(_BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _break(path: Path) -> None:
    """Remove a lock file whose owner is dead, or silent for too long."""
    owner = _read(path)
    try:
        silent = time.time() - path.stat().st_mtime
    except OSError:
        return
    # killed between making it and signing it
    most = leftovers.OLD if owner else 60.0
    if not leftovers.is_dead(f".x.{owner}.part") and silent < most:
        return
    aside = path.with_name(leftovers.temporary_name(path.name))
    with contextlib.suppress(OSError):
        path.rename(aside)
        if _read(aside) != owner and not path.exists():  # somebody was quicker, and has a new one
            aside.rename(path)
        aside.unlink(missing_ok=True)
