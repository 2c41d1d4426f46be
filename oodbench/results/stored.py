"""A result on disk: a detector's rows in one evaluation, what made them said once."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.errors import OODBenchError
from oodbench.results import quickcheck, rowcheck
from oodbench.results.rows import ALWAYS, METRICS, SCHEMA, Row, row_id, with_columns

FORMAT = 2
"""Version of the file; a reader refuses newer ones. The first one had no seal."""

_PER_ROW = {
    *("ood", "group", "is_mean", "ood_sets", "ood_fingerprint", "n_ood", "row_id"),
    *("gap", "gap_low", "gap_high", "shifted_accuracy"),
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")),
}
"""Columns that stay with each row also where all rows have the same there."""

PACK = "results.jsonl.gz"
"""The file in a benchmark's folder in which many results lie together."""

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
class Check:
    """That a result was made again.

    Args:
        level: how much of it; see :data:`oodbench.results.verdict.LEVELS`.
        outcome: the verdict's word.
        oodbench: the version that made it again.
        date: when, as ``YYYY-MM-DD``.
        processor: on which.
    """

    level: str
    outcome: str
    oodbench: str
    date: str
    processor: str | None = None


@dataclass(frozen=True)
class StoredResult:
    """A result that was read.

    Args:
        path: the file; that of a packed one is not there.
        rows: its rows, in the order in which they were measured.
        scores: where the scores of every sample are; None if they were not kept.
        checks: what was made again of it, the last one last.
    """

    path: Path
    rows: tuple[Row, ...]
    scores: StoredScores | None = None
    checks: tuple[Check, ...] = ()

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


def encode(
    rows: Sequence[Row], scores: StoredScores | None = None, checks: Sequence[Check] = ()
) -> str:
    """The text of a result's file: JSON, with one line for each row.

    Args:
        rows: of one detector in one evaluation.
        scores: where their scores are, if they were kept.
        checks: what was made again of it.
    """
    shared, own = _parts(rows)
    lines = ",\n".join(" " + json.dumps(row, allow_nan=False) for row in own)
    head = json.dumps(shared, indent=1, allow_nan=False)
    kept = "".join(
        f',\n"{name}": {json.dumps(value, allow_nan=False)}'
        for name, value in _beside(scores, checks).items()
    )
    text = f'{{"format": {FORMAT},\n"result": {head},\n"rows": [\n{lines}\n]{kept}'
    return f'{text},\n"seal": "{_seal(text.encode())}"}}\n'


def encode_line(result: StoredResult) -> str:
    """The same content in one line, which names the result's file."""
    shared, own = _parts(result.rows)
    content = {
        "name": result.path.stem,
        "format": FORMAT,
        "result": shared,
        "rows": own,
        **_beside(result.scores, result.checks),
    }
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))[:-1]
    return f'{text},"seal": "{_seal(text.encode())}"}}\n'


def _parts(rows: Sequence[Row]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all rows have in common, and what each has for itself."""
    whole = [dict(row) for row in rows]
    shared = {
        name: value
        for name, value in whole[0].items()
        if name not in _PER_ROW and all(_equal(row, name, value) for row in whole)
    }
    return shared, [{k: v for k, v in row.items() if k not in shared} for row in whole]


def _beside(scores: StoredScores | None, checks: Sequence[Check]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if scores is not None:
        kept["scores"] = {"file": scores.name, "sha256": scores.sha256}
    if checks:
        kept["checks"] = [vars(check) for check in checks]
    return kept


def _seal(text: bytes) -> str:
    r"""A digest of all that stands before it, of lines that end in ``\n`` alone."""
    return hashlib.sha256(text).hexdigest()


def _equal(row: Mapping[str, Any], name: str, value: object) -> bool:
    return name in row and json.dumps(row[name]) == json.dumps(value)


def read(path: Path) -> StoredResult:
    """A result of a file, each row of which must be what an evaluation wrote.

    Raises:
        OODBenchError: names the file, the row, and what is wrong with it.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        if (packed := packed_beside(path).get(path.stem)) is not None:
            return packed
        raise OODBenchError(f"{path} is no result ({error}). {_RESTORE}") from error
    return parse(raw, path)


def packed_beside(path: Path) -> dict[str, StoredResult]:
    """Results in the pack of the same folder, by name; none where there is none.

    Raises:
        OODBenchError: the pack is damaged.
    """
    pack = path.with_name(PACK)
    try:
        state = pack.stat()
    except OSError:
        return {}
    return _pack_as_it_was(pack, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4)
def _pack_as_it_was(path: Path, _changed: int, _size: int) -> dict[str, StoredResult]:
    return {result.path.stem: result for result in read_pack(path)}


def paths_in(folder: Path) -> list[Path]:
    """The results of a folder, also those that lie together, which have no file of their own."""
    packed = (folder / f"{name}.json" for name in packed_beside(folder / PACK))
    names = sorted({path.name for path in (*folder.glob("*.json"), *packed)})
    return [folder / name for name in names]


def read_all(paths: Sequence[Path]) -> list[StoredResult]:
    """The results of many files; see :func:`read`, which takes longer for each.

    Raises:
        OODBenchError: names the file, the row, and what is wrong with it.
    """
    results: list[StoredResult] = []
    for start in range(0, len(paths), _AT_ONCE):
        results += _read_some(paths[start : start + _AT_ONCE])
    return results


_AT_ONCE = 256
"""So many files are read together: enough to gain by, few enough to be held twice."""


def _read_some(paths: Sequence[Path]) -> list[StoredResult]:
    contents: list[tuple[bytes, Path, str]] = []
    packed: dict[int, StoredResult] = {}
    for number, path in enumerate(paths):
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - of thousands: a third quicker
                contents.append((file.read(), path, ""))
        except OSError:
            packed[number] = read(path)
    others = iter(parse_all(contents))
    return [packed[n] if n in packed else next(others) for n in range(len(paths))]


def parse(raw: bytes, path: Path | None, place: str = "") -> StoredResult:
    """The same of a file's content.

    Args:
        raw: the content.
        path: the file; None for a line, which names it.
        place: of a line, the file that it is in, where it names a file of the same folder.
    """
    return parse_all([(raw, path, place)])[0]


def parse_all(contents: Sequence[tuple[bytes, Path | None, str]]) -> list[StoredResult]:
    """The same of several, each with what :func:`parse` has of it."""
    sealed = [_is_sealed(raw) for raw, _, _ in contents]
    plain = [
        quickcheck.content_of(c[0]) if ok else None for c, ok in zip(contents, sealed, strict=True)
    ]
    rows = quickcheck.sound_rows([_parts_of(content) for content in plain])
    return [
        _plain(content, own, path, place) or _examined(raw, path, place, is_sealed=is_sealed)
        for (raw, path, place), is_sealed, content, own in zip(
            contents, sealed, plain, rows, strict=True
        )
    ]


def _parts_of(content: Any) -> quickcheck.Parts:
    """The columns of a file's rows, as its JSON has them; none where that has another shape."""
    shared, own = _entry(content, "result"), _entry(content, "rows")
    if not isinstance(shared, dict) or not isinstance(own, list):
        return {}, []
    return (shared, own) if all(isinstance(row, dict) for row in own) else ({}, [])


def _entry(content: Any, name: str) -> Any:
    return content.get(name) if isinstance(content, dict) else None


def _plain(
    content: Any, rows: Sequence[Row] | None, path: Path | None, place: str
) -> StoredResult | None:
    """A result that is plainly sound, as nearly all are; None for one that has to be examined.

    Args:
        content: of its file, as JSON has it.
        rows: its rows, if they are sound.
        path: as :func:`parse` has it.
        place: the same.
    """
    if rows is None:
        return None
    try:
        if not 1 < content["format"] <= FORMAT:
            return None
        path = path or Path(place).with_name(f"{content['name']}.json")
        if path.stem != name_of(rows):
            return None
        checks = tuple(Check(**check) for check in content.get("checks", ()))
        return StoredResult(path, tuple(rows), _scores(content.get("scores")), checks)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _examined(raw: bytes, path: Path | None, place: str, *, is_sealed: bool) -> StoredResult:
    """A result of any content, of which it is said what is wrong with it."""
    where = place or str(path)
    try:
        content = rowcheck.parse(raw)
        version = content["format"]
        if not rowcheck.is_whole(version, 1):
            raise ValueError(f"format is {version!r}")  # noqa: TRY301 - as the others are
        if version > FORMAT:
            raise OODBenchError(
                f"{where} was written by a newer oodbench (format {version}, this one reads up to "
                f"{FORMAT}). Update oodbench."
            )
        shared, own, scores = content["result"], content["rows"], _scores(content.get("scores"))
        rows = [with_columns(shared, row) for row in own]
        checks = tuple(Check(**check) for check in content.get("checks", ()))
        if path is None:
            path = Path(place).with_name(f"{content['name']}.json")
            where = f"{place}: {path.name}"
        if not rows:
            raise ValueError("it has no rows")  # noqa: TRY301
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OODBenchError(f"{where} is no result ({error}). {_RESTORE}") from error
    check_rows(rows, [f"{where}, row {number}" for number in range(1, len(rows) + 1)], _RESTORE)
    expected = name_of(rows)
    if path.stem != expected:
        raise OODBenchError(
            f"{where} is not what was measured: with these rows its name would be "
            f"{expected}.json, so that some were removed, added or renamed. {_RESTORE}"
        )
    if version > 1 and not is_sealed:
        raise OODBenchError(
            f"{where} is not what was written: its content was changed after its seal was made. "
            f"{_RESTORE}"
        )
    return StoredResult(path, tuple(rows), scores, checks)


_SEALED = re.compile(rb',\n?"seal": "([0-9a-f]{64})"}\s*\Z')


def _is_sealed(raw: bytes) -> bool:
    """Whether the text ends in a seal, and it is its own."""
    text = raw.replace(b"\r\n", b"\n") if b"\r" in raw else raw
    found = _SEALED.search(text, max(0, len(text) - 100))
    return found is not None and found[1].decode() == _seal(text[: found.start()])


def read_pack(path: Path) -> list[StoredResult]:
    """The results of a pack: a line of JSON each, compressed by gzip.

    Raises:
        OODBenchError: names the file, the result, and what is wrong with it.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise OODBenchError(f"{path} is no pack of results ({error}). {_RESTORE}") from error
    return parse_all([(line, None, str(path)) for line in lines])


def encode_pack(results: Iterable[StoredResult]) -> bytes:
    """The content of a pack: the same results give the same bytes."""
    # results of one command have the most in common, which the compression takes once
    ordered = sorted(results, key=lambda r: (str(r.rows[0]["command"]), r.path.stem))
    return gzip.compress("".join(map(encode_line, ordered)).encode(), mtime=0)


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
    if fault := rowcheck.fault(row, ALWAYS):
        raise OODBenchError(f"{place} is no result row: {fault}. {remedy}")
    if row_id(row) != row["row_id"]:
        raise OODBenchError(
            f"{place} is not what was measured: the row was changed after its row_id was made. "
            f"{remedy}"
        )
