"""Disks that are full, and what is left on them."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from oodbench import Outputs, files
from oodbench.disk import full, leftovers
from oodbench.errors import StorageError
from oodbench.extract import extract
from oodbench.results.store import ResultStore
from oodbench.training import train
from tests.helpers.images import CPU, GREY, arrays
from tests.helpers.networks import flat_model
from tests.helpers.rows import numbered
from tests.helpers.training import short, tiny


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


ROW = numbered(0, text="x" * 5000)
WRITERS: dict[str, Callable[[Path], Any]] = {
    "extraction": lambda p: extract(flat_model(), arrays(2000), GREY, hardware=CPU),
    "training": lambda p: train.train(short(tiny()[0]), CPU),
    "rows": lambda p: ResultStore(p).append([ROW]),
    "page": lambda p: files.write_text(p / "page.md", "x" * 5000),
    "outputs": lambda p: Outputs(torch.zeros(100, 9)).save(p / "saved"),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk_is_told(what: str, tmp_path: Path) -> None:
    with files_of_at_most(900), pytest.raises(StorageError, match=r"cannot write .*wanted"):
        WRITERS[what](tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".") or p.name == "saved"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_blocks_are_reserved_before_anything_is_seen(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"wanted.*Make room"):
        extract(flat_model(), arrays(), GREY, hardware=CPU)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, None])
def test_file_systems_that_reserve_and_flush_nothing(
    code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*args: Any) -> None:
        raise OSError(code or errno.EINVAL, "cannot")

    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", cannot)
    for name in ("fsync", "chmod", "link"):
        monkeypatch.setattr(os, name, cannot)
    model = flat_model()
    found = extract(model, arrays(), GREY, hardware=CPU)
    assert found.logits.equal(extract(model, arrays(), GREY, hardware=CPU).logits)


def test_words_of_libraries() -> None:
    assert full.full_code(RuntimeError("I/O error: No space left (os error 28)")) == errno.ENOSPC
    assert full.full_code(RuntimeError("shapes differ")) is None
    assert full.full_code(OSError(errno.EACCES, "no")) is None


def test_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = leftovers.temporary_name("a")
    dead = mine.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    theirs, older = leftovers.temporary_name("b"), leftovers.temporary_name("c")
    monkeypatch.undo()
    assert "elsewhere" in theirs
    for name in (mine, dead, theirs, older, ".old.7.part", ".new.7.part", "kept.part"):
        (tmp_path / name).touch()
    for name in (older, ".old.7.part", "kept.part"):
        os.utime(tmp_path / name, (0, time.time() - 25 * 3600))
    leftovers.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {mine, theirs, ".new.7.part", "kept.part"}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc")
def test_files_do_not_stay_open() -> None:
    counts = []
    for seed in range(12):
        torch.manual_seed(seed)
        outputs = [extract(flat_model(), arrays(), GREY, hardware=CPU) for _ in range(2)]
        counts.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208
        assert outputs
    assert counts[-1] <= counts[1] + 2


def test_without_fcntl() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import oodbench.files"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (3.2e9, "3.2 GB"),
        (4.5e12, "4.5 TB"),
        (7e15, "7000.0 TB"),
    ],
)
def test_sizes_in_words(size: float, words: str) -> None:
    assert full.size_in_words(int(size)) == words


def test_what_libraries_say_of_a_full_disk() -> None:
    assert full.full_code(OSError("8192 requested and 100 written")) == errno.ENOSPC  # NumPy's
    assert full.full_code(RuntimeError(f"write: {os.strerror(errno.EFBIG)}")) == errno.EFBIG
    assert full.full_code(KeyError(os.strerror(errno.EFBIG))) == errno.EFBIG
    assert full.full_code(RuntimeError("failed (os error 13)")) is None
    outer = ValueError("cannot be saved")
    outer.__cause__ = OSError(errno.ENOSPC, "no room")
    assert full.full_code(outer) == errno.ENOSPC


def test_which_setting_moves_a_full_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(path: str) -> str:
        return str(full.storage_error(Path(path), OSError(errno.EFBIG, "large"), 2000))

    monkeypatch.setenv("OODBENCH_CACHE", "/some/where")
    monkeypatch.delenv("OODBENCH_DATA")
    assert "2.0 kB are wanted" in told("/some/where/x")
    assert told("/some/where/x").endswith("choose another folder (OODBENCH_CACHE).")
    assert told("/home/.cache/oodbench/x").endswith("folder (OODBENCH_CACHE, OODBENCH_DATA).")
    assert told("/else/x").endswith("choose another folder.")


def test_how_much_is_free_may_not_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (full.free_space(tmp_path / "no" / "such") or 0) > 0

    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(full.shutil, "disk_usage", refuse)
    assert full.free_space(tmp_path) is None


def test_room_is_asked_for_where_no_blocks_can_be_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(full, "free_space", lambda path: 1000)
    path = tmp_path / "x"
    with path.open("wb") as handle:
        full.reserve(handle, 1000, path)
        full.reserve(handle, 2000, path)
        assert path.stat().st_size == 2000
        with pytest.raises(StorageError, match=r"1\.0 kB are wanted, 1\.0 kB are free there"):
            full.reserve(handle, 3001, path)
    assert path.stat().st_size == 2000, "it is as long as before"


def test_a_disk_that_fails_to_keep_what_it_took_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with (tmp_path / "x").open("wb") as handle, pytest.raises(OSError, match="Input/output error"):
        full.flush(handle)
