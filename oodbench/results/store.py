"""The append-only store that keeps result rows: one file per benchmark."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from oodbench import files
from oodbench.disk import full
from oodbench.errors import OODBenchError, StorageError
from oodbench.registry import BENCHMARKS
from oodbench.results import rowcheck
from oodbench.results.rows import _ALWAYS, METRICS, SCHEMA, Row, row_id

_HINT = "Choose a folder that you may write with `leaderboards`."


class ResultStore:
    """Rows on disk: one ``.jsonl`` file per benchmark below ``folder/results``, append-only.

    A row that is there already (same measurement, same figures) is not written again. A line that
    a crash or a full disk left half written is dropped before the next append, and never read.

    Args:
        folder: the leaderboards' folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = files.user_path(folder)

    def path(self, benchmark: str) -> Path:
        """The file that holds a benchmark's rows."""
        return self.folder / "results" / f"{page_name(benchmark)}.jsonl"

    def check(self, benchmark: str) -> None:
        """Check, before there are rows, that they can be written.

        Raises:
            StorageError: the folder cannot be written to.
        """
        files.writable_dir(self.path(benchmark).parent, _HINT, make=False)

    def _former(self, benchmark: str) -> list[Row]:
        """Rows of the benchmark in the file that it shared with others of a similar name."""
        path = self.folder / "results" / f"{_former_name(benchmark)}.jsonl"
        try:
            if path == self.path(benchmark) or not path.is_file():
                return []
        except OSError:  # a name that was too long for a file
            return []
        return [row for row in _parse(path.read_bytes(), path) if row["benchmark"] == benchmark]

    def append(self, rows: Iterable[Row]) -> int:
        """Write the rows that are new; returns how many.

        Raises:
            StorageError: the folder cannot be written to.
        """
        by_benchmark: dict[str, list[Row]] = {}
        for row in rows:
            by_benchmark.setdefault(row["benchmark"], []).append(row)
        written = 0
        for benchmark, group in by_benchmark.items():
            path = self.path(benchmark)
            files.writable_dir(path.parent, _HINT)
            former = {row["row_id"] for row in self._former(benchmark)}
            group = [row for row in group if row["row_id"] not in former]
            try:
                with files.locked(path):
                    written += self._append(path, group)
            except StorageError:
                raise
            except OSError as error:
                raise StorageError(f"cannot append to {path} ({error.strerror}).") from error
        return written

    @staticmethod
    def _append(path: Path, rows: Sequence[Row]) -> int:
        path.touch()
        with path.open("r+b", buffering=0) as handle:
            content = handle.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                handle.truncate(whole)
            known = {row["row_id"] for row in _parse(content[:whole], path)}
            new = {row["row_id"]: row for row in rows if row["row_id"] not in known}
            lines = [json.dumps(row, allow_nan=False) + "\n" for row in new.values()]
            added = "".join(lines).encode()
            handle.seek(whole)
            try:
                # one write: a reader or a kill sees it from a line's start to a line's end
                with full.telling(path, len(added)):
                    full.write_all(handle, added)
                    full.flush(handle)
            except BaseException:
                with contextlib.suppress(OSError):
                    handle.truncate(whole)
                raise
        return len(lines)

    def rows(self, benchmark: str) -> list[Row]:
        """All rows of a benchmark, oldest first.

        Raises:
            OODBenchError: a line that is no row, was changed by hand, or is of a newer schema.
        """
        path = self.path(benchmark)
        if benchmark in _page_names() and not path.is_file():
            path = path.with_name(f"{benchmark}.jsonl")  # asked for by the page's name
        own = _parse(path.read_bytes(), path) if path.is_file() else []
        former = self._former(benchmark)
        return [*former, *own] if former else own


def _parse(content: bytes, path: Path) -> list[Row]:
    """Rows of lines, each of which must be what an evaluation wrote.

    Raises:
        OODBenchError: names the file, the line, and what is wrong with it.
    """
    rows: list[Row] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        where = f"{path}, line {number}"
        try:
            row = rowcheck.parse(line)
            if not rowcheck.is_whole(row["schema"], 1):
                raise ValueError(f"schema is {row['schema']!r}")  # noqa: TRY301 - as the others are
            str(row["row_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise OODBenchError(
                f"{where} is no result row ({error}). Restore the file, or remove the line."
            ) from error
        if row["schema"] > SCHEMA:
            raise OODBenchError(
                f"{where} was written by a newer oodbench (schema {row['schema']}, this one "
                f"reads up to {SCHEMA}). Update oodbench."
            )
        if problem := rowcheck.fault(row, _ALWAYS):
            raise OODBenchError(
                f"{where} is no result row: {problem}. Restore the file, or remove the line."
            )
        if row_id(row) != row["row_id"]:
            raise OODBenchError(
                f"{where} is not what was measured: the row was changed after its row_id was made. "
                "Restore the line, or remove it and evaluate again."
            )
        if row["row_id"] in lines:
            raise OODBenchError(
                f"{where} is the row of line {lines[row['row_id']]} once more. Remove one of them."
            )
        lines[row["row_id"]] = number
        rows.append(row)
    if wrong := rowcheck.fault_of_means(rows, METRICS):
        raise OODBenchError(
            f"{path}, line {wrong[0] + 1} is not what was measured: {wrong[1]}. "
            "Restore the file, or remove the line."
        )
    return rows


def page_name(benchmark: str) -> str:
    """A benchmark's name as a file name: ``cifar100/palm`` is ``cifar100-palm``.

    That is for registered names, whose makers see to it that they differ. Any other name that is
    no file name as it is, or that another benchmark has, gets a digest: ``folder:x/y`` and
    ``folder:x-y`` are two benchmarks.
    """
    plain = benchmark.replace("/", "-")
    known = _page_names()
    if known.get(plain, benchmark) != benchmark or not files.is_plain_name(plain):
        return files.digested_name(benchmark)
    return plain if "/" not in benchmark or plain in known else files.digested_name(benchmark)


def _page_names() -> dict[str, str]:
    """Registered benchmarks by the names of their pages."""
    return {name.replace("/", "-"): name for name in sorted(BENCHMARKS.names(), reverse=True)}


def _former_name(benchmark: str) -> str:
    """The file name that a benchmark had before names were told apart by digests."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in benchmark)
    return name.strip("-.")
