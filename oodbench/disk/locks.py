"""Locks among processes: the system's where the file system has them, else a file of one's own.

The system's lock is filelock's, on a file beside what it protects. Where a file system refuses it
(``ENOLCK``, ``ENOTSUP``, some network mounts), a file that only one process can make stands in for
it; of a process that is dead, or silent for a day, it is removed.
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

from filelock import FileLock, Timeout

from oodbench.disk import full, leftovers

_LOG = logging.getLogger("oodbench")
_PATIENCE = 2.0
_BEAT = 600.0
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EDEADLK}


class _UnsupportedError(Exception):
    """This file system has no locks."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` among processes that share its folder.

    The lock is a hidden file beside it, ``.NAME.lock``; it ends with the process, however that
    ends. The folder is made if it is missing, ``path`` itself is not.

    Raises:
        StorageError: the lock file cannot be made.
    """
    with _lock(path.with_name(f".{path.name}.lock"), owner="", wait=lambda: None):
        yield


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Does long work that no two processes shall do at once; the second waits, and says so.

    Args:
        path: a lock file for this work alone; it is gone afterwards, and its folder if it is empty.
        what: the work, for the message: ``"the outputs for cifar10/test"``.

    Raises:
        StorageError: the lock file cannot be made.
    """

    def wait() -> None:
        owner = _read(path) or _read(_stand_in(path))
        where = f" ({owner.rpartition('-')[0]})" if owner else ""
        _LOG.warning("oodbench: another process%s works on %s; waiting for it (%s)", where, what,
                     path)  # fmt: skip

    try:
        with _lock(path, owner=leftovers.whose(), wait=wait):
            yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.rmdir()


@contextlib.contextmanager
def _lock(path: Path, owner: str, wait: Callable[[], None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_by_system(path, owner, wait))
        except _UnsupportedError:
            # Whoever asked may have made the file, and removes it when done, so that none stays.
            stack.callback(leftovers.remove, path)
            stack.enter_context(_by_file(_stand_in(path), wait))
        yield


def _stand_in(path: Path) -> Path:
    return path.with_name(f".{path.name}.own.lock")


@contextlib.contextmanager
def _by_system(path: Path, owner: str, wait: Callable[[], None]) -> Iterator[None]:
    lock = FileLock(path, timeout=0)
    for _ in _pauses(wait):
        if _try(lock, path):
            break
    try:
        if owner:
            with contextlib.suppress(OSError):  # it is read for the message alone
                path.write_bytes(owner.encode())
        yield
    finally:
        # The file goes while it is locked, so that nobody's new one is removed; who waits for the
        # old one sees that it has no name any more. Windows removes no open file: filelock does.
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):
            lock.release()


def _try(lock: FileLock, path: Path) -> bool:
    """Take the lock if nobody holds it; False if somebody does, or just removed its folder."""
    if not _make(path.parent):
        return False
    try:
        lock.acquire()
    except (Timeout, FileNotFoundError):
        return False
    except PermissionError as error:
        raise full.storage_error(path, error) from error
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) in _BUSY:
            return False
        raise _UnsupportedError from error
    return True


def _make(folder: Path) -> bool:
    """Make the folder of a lock; False if somebody just removed it, or one above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        return False
    except OSError as error:
        if isinstance(error, FileExistsError) and not folder.is_file():
            return False  # it was there when it was to be made, and then somebody removed it
        raise full.storage_error(folder, error) from error
    return True


def _pauses(wait: Callable[[], None]) -> Iterator[None]:
    """Endlessly, with longer and longer pauses; calls ``wait`` once when it takes long."""
    began, was_told, pause = time.monotonic(), False, 0.005
    while True:
        yield
        time.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))
        pause = min(0.5, 1.5 * pause)
        if not was_told and time.monotonic() - began > _PATIENCE:
            was_told = True
            wait()


@contextlib.contextmanager
def _by_file(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    """A file that only one can make; of a process that is dead or silent for a day, it is removed.

    Its owner touches it from time to time, as only its own machine knows whether it runs.
    """
    name = leftovers.whose()
    for _ in _pauses(wait):
        if not _make(path.parent):
            continue
        try:
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
