"""Names of temporary files that say whose they are, and removal of those that nobody writes.

A name holds the machine, the process and something random, so that neither two processes nor two
machines that share a folder meet in one. What a killed process left behind is removed once its
process is known to be dead, which only its own machine can know, or once it is a day old.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from pathlib import Path

OLD = 24 * 3600.0
"""Seconds after which a temporary file is nobody's, whoever made it."""

_OWNED = re.compile(r"\..*\.(?P<host>[A-Za-z0-9-]+)-(?P<pid>\d+)-[0-9a-f]{8}\.part", re.DOTALL)


def temporary_name(name: str) -> str:
    """A name beside ``name`` that no other process and no other machine takes."""
    short = name.encode()[:80].decode(errors="ignore")  # names have at most 255 bytes
    return f".{short}.{whose()}.part"


def whose() -> str:
    """This machine, this process, and something random: ``"node7-3f2a91-4711-9c0e12ab"``."""
    return f"{_host(socket.gethostname())}-{os.getpid()}-{secrets.token_hex(4)}"


@functools.cache
def _host(name: str) -> str:
    # Containers may share a name: process ids mean something within one boot and one namespace.
    here = [name]
    with contextlib.suppress(OSError):
        here.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        here.append(str(Path("/proc/self/ns/pid").readlink()))
    host = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:32] or "host"
    return f"{host}-{hashlib.sha256(repr(here).encode()).hexdigest()[:6]}"


def is_dead(name: str) -> bool:
    """Whether the process that a temporary name tells of is known to have ended."""
    owned = _OWNED.fullmatch(name)
    if owned is None or owned["host"] != _host(socket.gethostname()):
        return False
    return not _runs(int(owned["pid"]))


def _runs(pid: int) -> bool:
    if os.name == "nt":  # there, os.kill ends the process that it asks for
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return not status.rpartition(")")[2].lstrip().startswith(("Z", "X"))
    return True


def sweep(folder: Path) -> None:
    """Remove temporary files and folders of processes that ended, and those that are old."""
    with contextlib.suppress(OSError):
        for path in list(folder.glob(".*.part")):
            if is_dead(path.name) or _is_old(path):
                remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there and that is possible."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    try:
        inside = path.iterdir() if path.is_dir() and not path.is_symlink() else ()
        newest: float = max(p.lstat().st_mtime for p in (path, *inside))
    except OSError:  # it went away, or somebody else's
        return False
    return time.time() - newest > OLD
