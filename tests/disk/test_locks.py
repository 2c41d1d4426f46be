"""Locks among processes: they exclude, end with their holder, and leave nothing behind."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import filelock
import pytest

from oodbench import files
from oodbench.disk import locks
from oodbench.disk.locks import alone, locked
from oodbench.errors import StorageError

SYSTEMS = ["usual", "no locks"]


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with locks, and one that refuses them."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        Path(self.lock_file).touch()  # the file is made before the lock is asked for
        raise OSError(errno.ENOLCK, "no locks available")

    if request.param != "usual":
        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    return str(request.param)


def test_threads_exclude_each_other_and_nothing_is_left(system: str, tmp_path: Path) -> None:
    inside: list[int] = []
    together: list[int] = []

    def work() -> None:
        with alone(tmp_path / "locks" / "x.lock", "x"), locked(tmp_path / "rows.jsonl"):
            inside.append(1)
            together.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=600)
    assert together == [1, 1, 1, 1]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX systems fork")
def test_a_killed_holders_lock_is_free_although_its_child_lives(
    system: str, tmp_path: Path
) -> None:
    """A data worker that outlives its killed parent does not hold what the parent held."""
    path, ready, done = tmp_path / "x.lock", tmp_path / "ready", tmp_path / "done"
    holder = os.fork()
    if holder == 0:
        with locked(path):
            if os.fork() == 0:
                ready.touch()
                # the folder goes as soon as the test has passed
                while tmp_path.exists() and not done.exists():
                    time.sleep(0.01)
                os._exit(0)
            time.sleep(600)
        os._exit(1)
    while not ready.exists():
        time.sleep(0.01)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    began = time.monotonic()
    with locked(path):
        assert time.monotonic() - began < 60
    done.touch()


def test_who_waits_says_for_whom(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.05)
    told: list[str] = []
    monkeypatch.setattr(locks._LOG, "handle", lambda record: told.append(record.getMessage()))
    path = tmp_path / "locks" / "x.lock"

    def second() -> None:
        with alone(path, "the outputs for x"):
            pass

    thread = threading.Thread(target=second)
    with alone(path, "the outputs for x"):
        thread.start()
        for _ in range(6000):
            if told:
                break
            time.sleep(0.01)
    thread.join(timeout=600)
    (said,) = told
    assert "works on the outputs for x; waiting" in said
    assert f"-{os.getpid()}) works" in said, "the holder is named by machine and process"


def test_a_folder_that_cannot_be_made_is_said(system: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"), locked(tmp_path / "file" / "rows.jsonl"):
        pass


def _count(path: Path, times: int) -> None:
    for _ in range(times):
        with files.locked(path):
            number = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(number + 1))


def test_a_lock_holds_among_processes(tmp_path: Path) -> None:
    path = tmp_path / "number.txt"
    path.write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(path, 25)) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for worker in workers:
            worker.start()
            stack.callback(worker.join)
    assert path.read_text() == "75"
