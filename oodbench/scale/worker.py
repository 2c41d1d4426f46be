"""``python -m oodbench.scale.worker FOLDER KEY LEADERBOARDS``: one cell in a process of its own."""

from __future__ import annotations

import json
import platform
import signal
import sys
import time
from pathlib import Path

from oodbench.evaluation import evaluate
from oodbench.hardware import Hardware
from oodbench.reporting import reason_of
from oodbench.scale import records
from oodbench.scale.matrix import Cell


def run_cell(folder: Path, cell: Cell, leaderboards: Path) -> records.Record:
    """Evaluate a cell in this process; its rows are stored, and its record written.

    Args:
        folder: of the records.
        cell: the cell.
        leaderboards: whose store the rows go to.

    Raises:
        StorageError: the folder cannot be written.
    """
    record = records.Record(
        cell, attempts=records.read(folder, cell).attempts + 1, machine=platform.node()
    )
    began = time.perf_counter()
    try:
        results = evaluate(
            **cell.arguments(),
            hardware=Hardware(**cell.hardware, progress=False),
            leaderboards=leaderboards,
            report=_say,
            command=cell.command(),
        )
    except Exception as error:  # of a stranger's detector, network or data
        record.state, record.error = records.FAILED, reason_of(error)
    else:
        record.rows, record.failures = len(results.rows), dict(results.failures)
        record.state = records.PARTLY if results.failures else records.DONE
    record.seconds = round(time.perf_counter() - began, 3)
    records.write(folder, record)
    return record


def _say(line: str) -> None:
    """A line in the cell's log, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Run the cell that the arguments tell.

    The signal by which submitit is told that a job has to end goes to all of its processes. What
    becomes of this one its parent decides.
    """
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    folder, leaderboards, told = arguments
    run_cell(Path(folder), Cell.from_json(json.loads(told)), Path(leaderboards))


if __name__ == "__main__":
    main(sys.argv[1:])
