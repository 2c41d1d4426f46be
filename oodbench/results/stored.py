"""A result on disk: a detector's rows in one evaluation, what made them said once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.errors import OODBenchError
from oodbench.results import rowcheck
from oodbench.results.rows import _ALWAYS, METRICS, SCHEMA, Row, row_id, with_columns

FORMAT = 1
"""Version of the file; a reader refuses newer ones."""

_PER_ROW = {
    *("ood", "group", "is_mean", "ood_sets", "ood_fingerprint", "n_ood", "row_id"),
    *("gap", "gap_low", "gap_high", "shifted_accuracy"),
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")),
}
"""Columns that stay with each row also where all rows have the same there."""

_RESTORE = "Restore the file, or remove it and evaluate again."


@dataclass(frozen=True)
class StoredScores:
    """Where the scores behind a result are.

    Args:
        name: of the file, which is in the result's folder.
        sha256: of its content.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class StoredResult:
    """A result that was read.

    Args:
        path: the file.
        rows: its rows, in the order in which they were measured.
        scores: where the scores of every sample are; None if they were not kept.
    """

    path: Path
    rows: tuple[Row, ...]
    scores: StoredScores | None = None

    @property
    def scores_path(self) -> Path | None:
        """The file of its scores; None if they were not kept."""
        return None if self.scores is None else self.path.with_name(self.scores.name)


def name_of(rows: Sequence[Row]) -> str:
    """A result's file name without its ending: the detector, and a digest of what was measured.

    Row ids are digests of what was asked for and of what came out, so that the same measurement
    with the same figures is the same file wherever it was made, and another outcome is another.
    """
    ids = files.digest(sorted(row["row_id"] for row in rows))
    return f"{files.file_name(rows[0]['detector'])}-{ids[:16]}"


def encode(rows: Sequence[Row], scores: StoredScores | None = None) -> str:
    """The text of a result's file: JSON, with one line for each row.

    Args:
        rows: of one detector in one evaluation.
        scores: where their scores are, if they were kept.
    """
    whole = [dict(row) for row in rows]
    shared = {
        name: value
        for name, value in whole[0].items()
        if name not in _PER_ROW and all(_equal(row, name, value) for row in whole)
    }
    own = [{name: value for name, value in row.items() if name not in shared} for row in whole]
    lines = ",\n".join(" " + json.dumps(row, allow_nan=False) for row in own)
    head = json.dumps(shared, indent=1, allow_nan=False)
    kept = ""
    if scores is not None:
        kept = ',\n"scores": ' + json.dumps({"file": scores.name, "sha256": scores.sha256})
    return f'{{"format": {FORMAT},\n"result": {head},\n"rows": [\n{lines}\n]{kept}}}\n'


def _equal(row: Mapping[str, Any], name: str, value: object) -> bool:
    return name in row and json.dumps(row[name]) == json.dumps(value)


def read(path: Path) -> StoredResult:
    """A result of a file, each row of which must be what an evaluation wrote.

    Raises:
        OODBenchError: names the file, the row, and what is wrong with it.
    """
    try:
        content = rowcheck.parse(path.read_bytes())
        version = content["format"]
        if not rowcheck.is_whole(version, 1):
            raise ValueError(f"format is {version!r}")  # noqa: TRY301 - as the others are
        if version > FORMAT:
            raise OODBenchError(
                f"{path} was written by a newer oodbench (format {version}, this one reads up to "
                f"{FORMAT}). Update oodbench."
            )
        shared, own, scores = content["result"], content["rows"], _scores(content.get("scores"))
        rows = [with_columns(shared, row) for row in own]
        if not rows:
            raise ValueError("it has no rows")  # noqa: TRY301
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OODBenchError(f"{path} is no result ({error}). {_RESTORE}") from error
    check_rows(rows, [f"{path}, row {number}" for number in range(1, len(rows) + 1)], _RESTORE)
    expected = name_of(rows)
    if path.stem != expected:
        raise OODBenchError(
            f"{path} is not what was measured: with these rows its name would be "
            f"{expected}.json, so that some were removed, added or renamed. {_RESTORE}"
        )
    return StoredResult(path, tuple(rows), scores)


def _scores(content: Any) -> StoredScores | None:
    if content is None:
        return None
    name, digest = content["file"], content["sha256"]
    if not isinstance(name, str) or Path(name).name != name or not isinstance(digest, str):
        raise ValueError(f"scores are {content!r}")
    return StoredScores(name, digest)


def check_rows(rows: Sequence[Row], places: Sequence[str], remedy: str) -> None:
    """Check that rows are what evaluations wrote, by themselves and together.

    Args:
        rows: of one benchmark.
        places: where each of them is, in words.
        remedy: what to do if one is not; a sentence.

    Raises:
        OODBenchError: names the place, and what is wrong there.
    """
    at: dict[str, str] = {}
    for row, place in zip(rows, places, strict=True):
        check_row(row, place, remedy)
        if row["row_id"] in at:
            raise OODBenchError(
                f"{place} is the row of {at[row['row_id']].rpartition(', ')[2]} once more. {remedy}"
            )
        at[row["row_id"]] = place
    if wrong := rowcheck.fault_of_means(rows, METRICS):
        raise OODBenchError(f"{places[wrong[0]]} is not what was measured: {wrong[1]}. {remedy}")


def check_row(row: Row, place: str, remedy: str) -> None:
    """Check that a row by itself is what an evaluation wrote.

    Raises:
        OODBenchError: names the place, and what is wrong with it.
    """
    try:
        schema = row["schema"]
        if not rowcheck.is_whole(schema, 1):
            raise ValueError(f"schema is {schema!r}")  # noqa: TRY301
        str(row["row_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise OODBenchError(f"{place} is no result row ({error}). {remedy}") from error
    if schema > SCHEMA:
        raise OODBenchError(
            f"{place} was written by a newer oodbench (schema {schema}, this one reads up to "
            f"{SCHEMA}). Update oodbench."
        )
    if fault := rowcheck.fault(row, _ALWAYS):
        raise OODBenchError(f"{place} is no result row: {fault}. {remedy}")
    if row_id(row) != row["row_id"]:
        raise OODBenchError(
            f"{place} is not what was measured: the row was changed after its row_id was made. "
            f"{remedy}"
        )
