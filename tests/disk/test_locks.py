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


def once(error: BaseException, does: Any) -> Any:
    """What fails with an error the first time, and then does what it did."""
    waiting = [error]

    def call(*args: Any, **options: Any) -> Any:
        if waiting:
            raise waiting.pop()
        return does(*args, **options)

    return call


def held(path: Path) -> bool:
    """Takes a lock and lets go of it; whether it was there meanwhile."""
    with locked(path):
        return any(path.parent.iterdir())


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "gone"), FileExistsError(errno.EEXIST, "there, and gone")],
)
def test_a_folder_that_somebody_removes_meanwhile_is_made_again(
    error: OSError, system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", once(error, Path.mkdir))
    assert held(tmp_path / "new" / "rows.jsonl")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EDEADLK, errno.ENOENT])
def test_a_system_that_is_busy_is_asked_again(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr(filelock.FileLock, "acquire", once(error, filelock.FileLock.acquire))
    with locked(tmp_path / "rows.jsonl"):
        assert not [path for path in tmp_path.iterdir() if path.name.endswith(".own.lock")]
        assert list(tmp_path.iterdir()), "the system's lock, no file that stands in for it"
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_may_not_be_made_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(filelock.FileLock, "acquire", once(error, None))
    with pytest.raises(StorageError, match=r"rows.*Permission denied"), locked(tmp_path / "rows"):
        pass


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)


OWN = "..rows.lock.own.lock"
"""The file that stands in for a lock on ``rows``."""


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("call", "number"),
    [("open", errno.EACCES), ("open", errno.ENOSPC), ("write", errno.ENOSPC)],
)
def test_a_stand_in_that_cannot_be_made_is_said_and_not_left(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(number, os.strerror(number))
    with monkeypatch.context() as patch:
        patch.setattr(locks.os, call, once(error, getattr(os, call)))
        with pytest.raises(StorageError, match=os.strerror(number)), locked(tmp_path / "rows"):
            pass
    assert list(tmp_path.iterdir()) == []
    assert held(tmp_path / "rows")


@pytest.mark.usefixtures("refusing")
def test_a_stand_in_is_made_again_where_its_folder_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = FileNotFoundError(errno.ENOENT, "gone")
    monkeypatch.setattr(locks.os, "open", once(error, os.open))
    assert held(tmp_path / "rows")


def stale(path: Path, owner: str, seconds: float) -> None:
    path.write_text(owner)
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("owner", "silent", "is_free"),
    [
        ("elsewhere-12ab34-7-0123abcd", 25 * 3600, True),
        ("elsewhere-12ab34-7-0123abcd", 23 * 3600, False),
        ("", 70, True),  # killed before it signed
        ("", 20, False),
    ],
)
def test_who_is_silent_for_too_long_loses_its_stand_in(
    owner: str, silent: float, is_free: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WaitsError(Exception):
        pass

    def pauses(wait: Any) -> Any:
        yield
        yield
        raise WaitsError

    monkeypatch.setattr(locks, "_pauses", pauses)
    stale(tmp_path / OWN, owner, silent)
    if is_free:
        assert held(tmp_path / "rows")
        assert list(tmp_path.iterdir()) == []
    else:
        with pytest.raises(WaitsError):
            held(tmp_path / "rows")
        assert (tmp_path / OWN).read_text() == owner


@pytest.mark.usefixtures("refusing")
def test_an_owner_says_from_time_to_time_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_BEAT", 0.001)
    with locked(tmp_path / "rows"):
        name = (tmp_path / OWN).read_text()
        stale(tmp_path / OWN, name, 24 * 3600)
        limit = time.monotonic() + 60
        while time.time() - (tmp_path / OWN).stat().st_mtime > 3600:
            assert time.monotonic() < limit
            time.sleep(0.001)
        assert (tmp_path / OWN).read_text() == name


@pytest.mark.usefixtures("refusing")
def test_a_stand_in_that_is_anothers_by_now_is_left(tmp_path: Path) -> None:
    with locked(tmp_path / "rows"):
        (tmp_path / OWN).write_text("another")
    assert (tmp_path / OWN).read_text() == "another"
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / OWN).unlink()
    with locked(tmp_path / "rows"):
        (tmp_path / OWN).unlink()
    assert list(tmp_path.iterdir()) == []


def test_who_breaks_a_lock_gives_back_the_new_one_of_somebody_quicker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = tmp_path / OWN, "elsewhere-12ab34-8-4567abcd"
    stale(path, "elsewhere-12ab34-7-0123abcd", 25 * 3600)
    rename = Path.rename

    def quicker(self: Path, to: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        path.write_text(new)
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", quicker)
    locks._break(path)
    assert path.read_text() == new
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    locks._break(path)  # gone by itself
