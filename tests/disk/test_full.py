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
