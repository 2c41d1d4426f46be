"""Work: a cell as it is handed to another process or machine, which starts a process for it.

Nothing heavy is imported: who waits for that process needs no memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

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
