"""Stores of before: all rows of a benchmark in one file, a line of JSON each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oodbench.errors import OODBenchError
from oodbench.results import rowcheck
from oodbench.results.rows import Row
from oodbench.results.stored import check_rows

_REMEDY = "Restore the file, or remove the line."


def read(path: Path) -> list[Row]:
    """Rows of a file of lines, oldest first; a last line that was left half written is none.

    Raises:
        OODBenchError: names the file, the line, and what is wrong with it.
    """
    rows: list[Row] = []
    lines = path.read_bytes().split(b"\n")[:-1]
    places = [f"{path}, line {number}" for number in range(1, len(lines) + 1)]
    for line, place in zip(lines, places, strict=True):
        try:
            row = rowcheck.parse(line)
            row["schema"], row["row_id"]
        except (ValueError, KeyError, TypeError) as error:
            raise OODBenchError(f"{place} is no result row ({error}). {_REMEDY}") from error
        rows.append(row)
    check_rows(rows, places, _REMEDY)
    return rows


def by_evaluation(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in lists that were measured together; a set once more begins another list."""
    whole: list[list[Row]] = []
    latest: dict[str, list[Row]] = {}
    for row in rows:
        key = rowcheck.evaluation(row)
        group = latest.get(key)
        if group is None or any(other["ood"] == row["ood"] for other in group):
            group = latest[key] = []
            whole.append(group)
        group.append(row)
    return whole
