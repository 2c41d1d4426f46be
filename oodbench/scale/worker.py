"""``python -m oodbench.scale.worker FOLDER KEY LEADERBOARDS``: one cell in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from oodbench.evaluation import evaluate
from oodbench.hardware import Hardware
from oodbench.reporting import reason_of
from oodbench.scale import records
from oodbench.scale.matrix import Cell

PATIENCE = 10
"""Seconds that a process has to end by itself."""


@dataclass(frozen=True)
class Work:
    """A cell to be run, as it is handed to another process or machine.

    Args:
        folder: of the records.
        leaderboards: whose store the rows go to.
        cell: what is evaluated.
        variables: of the environment, such as the device that it is to run on.
    """

    folder: str
    leaderboards: str
    cell: Cell
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        """The process that runs it."""
        module = [sys.executable, "-m", "oodbench.scale.worker"]
        return [*module, self.folder, self.leaderboards, json.dumps(self.cell.to_json())]

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process; what it prints goes to the cell's log."""
        log = records.log_of(Path(self.folder), self.cell)
        with log.open("wb") as handle:
            return subprocess.Popen(  # noqa: S603
                self.command,
                stdout=handle,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.variables},
            )

    def __call__(self) -> None:
        """Run it and wait, on whichever machine this is.

        Raises:
            RuntimeError: the process ended without saying what became of the cell.
        """
        process = self.start()
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                _end(process)
        if code != 0:
            raise RuntimeError(died(code, records.log_of(Path(self.folder), self.cell)))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, so that whoever takes its place does not meet it."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()


def died(code: int, log: Path) -> str:
    """What is said of a process that ended without a record."""
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    return f"its process ended with {how}, before the cell was done; see {log}"


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
