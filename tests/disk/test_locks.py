"""Locks among processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from pathlib import Path

from oodbench import files


def _count(path: Path, times: int) -> None:
    for _ in range(times):
        with files.locked(path.with_suffix(".lock")):
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
