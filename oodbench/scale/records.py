"""What became of a cell: a file each, written whole or not at all, by whoever ran it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.scale.matrix import Cell, Matrix

WAITING, DONE, PARTLY, FAILED = "waiting", "done", "partly", "failed"


@dataclass
class Record:
    """The outcome of the last attempt at a cell.

    Args:
        cell: the cell.
        state: ``waiting``, ``done``, ``partly`` (some detectors failed) or ``failed``.
        seconds: that it took.
        machine: where.
        rows: how many rows it gave.
        failures: reasons by detector.
        error: why the whole cell failed.
        attempts: how often it was tried.
    """

    cell: Cell
    state: str = WAITING
    seconds: float = 0.0
    machine: str = ""
    rows: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    error: str = ""
    attempts: int = 0

    def to_json(self) -> dict[str, Any]:
        """What :func:`read` reads."""
        return {**vars(self), "key": self.cell.key, "cell": self.cell.to_json()}

    @property
    def reason(self) -> str:
        """Why it is not done, in a line; ``""`` if it is."""
        return self.error or "; ".join(f"{name}: {why}" for name, why in self.failures.items())


def path_of(folder: Path, cell: Cell) -> Path:
    """The file of a cell's record."""
    return folder / f"{cell.key}.json"


def log_of(folder: Path, cell: Cell) -> Path:
    """The file of what a cell printed."""
    return folder / f"{cell.key}.log"


def read(folder: Path, cell: Cell) -> Record:
    """A cell's record; a waiting one where there is none that could be read."""
    told = files.read_json(path_of(folder, cell))
    if not isinstance(told, dict) or told.get("key") != cell.key:
        return Record(cell)
    names = set(Record.__dataclass_fields__) - {"cell"}
    return Record(cell, **{name: told[name] for name in names & set(told)})


def write(folder: Path, record: Record) -> None:
    """Write a cell's record.

    Raises:
        StorageError: the folder cannot be written.
    """
    files.write_json(path_of(folder, record.cell), record.to_json())


def read_all(matrix: Matrix) -> list[Record]:
    """The records of all cells, in their order."""
    return [read(matrix.folder, cell) for cell in matrix.cells]


def seconds_left(records: Sequence[Record]) -> float | None:
    """What the waiting cells will take, one after the other, by those that are done."""
    done = [record for record in records if record.state == DONE]
    if not done:
        return None
    mean = sum(record.seconds for record in done) / len(done)
    total = 0.0
    for record in records:
        if record.state in (DONE, PARTLY):
            continue
        alike = [d.seconds for d in done if _network(d.cell) == _network(record.cell)]
        total += sum(alike) / len(alike) if alike else mean
    return total


def _network(cell: Cell) -> tuple[str, str | None, str | None]:
    return cell.benchmark, cell.method, cell.backbone
