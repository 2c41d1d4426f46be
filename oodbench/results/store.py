"""The store of results: a folder for each benchmark, in it one file for each result."""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from oodbench import files
from oodbench.disk import full
from oodbench.registry import BENCHMARKS
from oodbench.results import lines, scores, stored
from oodbench.results.rows import Row, row_id, with_columns
from oodbench.results.scores import Scores
from oodbench.results.stored import StoredResult, StoredScores

_HINT = "Choose a folder that you may write with `leaderboards`."


class ResultStore:
    """Results on disk: ``folder/results/BENCHMARK/DETECTOR-DIGEST.json``, the scores beside it.

    What a detector gave in one evaluation is one result: what made it, said once, and a row for
    each OOD set and group (:mod:`oodbench.results.stored`); the scores of every sample are in
    ``DETECTOR-DIGEST.scores.safetensors`` (:mod:`oodbench.results.scores`). A file is written
    beside and renamed into place, and its name is a digest of its rows: nothing is replaced, a
    repetition with the same figures is the file that is there, one with others is another file.

    Where there are many, ``results.jsonl.gz`` in the same folder has them together, a line each
    (:meth:`pack`); a file of the same name goes before.

    A ``BENCHMARK.jsonl``, in which oodbench kept all rows of a benchmark before, is read as well;
    when a result is added it is replaced by the files of its results.

    Args:
        folder: the leaderboards' folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = files.user_path(folder)

    def path(self, benchmark: str) -> Path:
        """The folder of a benchmark's results."""
        return self.folder / "results" / page_name(benchmark)

    def check(self, benchmark: str) -> None:
        """Check, before there are results, that they can be written, and those there read.

        Raises:
            StorageError: the folder cannot be written to.
            OODBenchError: a result that is there is damaged, so that no page could be made.
        """
        files.writable_dir(self.path(benchmark), _HINT, make=False)
        self.rows(benchmark)

    def append(self, rows: Iterable[Row], samples: Scores | None = None) -> int:
        """Write results that are new; returns how many rows they have.

        Args:
            rows: of one or several results.
            samples: the scores behind them, where they are of one result.

        Raises:
            StorageError: the folder cannot be written to.
            OODBenchError: a result of that name is there, but damaged.
        """
        by_benchmark: dict[str, dict[str, Row]] = {}
        for row in rows:
            by_benchmark.setdefault(row["benchmark"], {}).setdefault(row["row_id"], row)
        written = 0
        for benchmark, own in by_benchmark.items():
            folder = files.writable_dir(self.path(benchmark), _HINT)
            former = self._convert(benchmark)
            new = [row for row_id, row in own.items() if row_id not in former]
            for result in lines.by_evaluation(new):
                written += _write(folder, result, samples)
        return written

    def rows(self, benchmark: str, results: Sequence[StoredResult] | None = None) -> list[Row]:
        """All rows of a benchmark, oldest first.

        Args:
            benchmark: its name.
            results: its :meth:`results`, where they were read before.

        Raises:
            OODBenchError: a file that is no result, was changed by hand, or is of a newer version.
        """
        own = [row for one in results or self.results(benchmark) for row in one.rows]
        known = {row["row_id"] for row in own}
        former = [row for row in self._former(benchmark) if row["row_id"] not in known]
        # a row that is in two results, one of which was interrupted before, counts once
        return list({row["row_id"]: row for row in (*former, *own)}.values())

    def results(self, benchmark: str) -> list[StoredResult]:
        """All results of a benchmark, oldest first; not what a ``.jsonl`` of before still holds.

        Raises:
            OODBenchError: a file that is no result, was changed by hand, or is of a newer version.
        """
        folder = self.path(benchmark)
        if benchmark in _page_names() and not folder.is_dir():
            folder = folder.with_name(benchmark)  # asked for by the page's name
        with uncollected():
            found = stored.read_all(stored.paths_in(folder))
        # by name where the time is the same, which a file and a pack have in another order
        return sorted(found, key=lambda r: (r.rows[0]["created"], r.path.stem))

    def pack(self, benchmark: str) -> Path:
        """Put all results of a benchmark into one compressed file; scores stay as they are.

        The pack is there before the files of its results go, so that a reader has each once or
        twice, never not at all.

        Raises:
            StorageError: the folder cannot be written to.
            OODBenchError: a result that is there is damaged.
        """
        folder = files.writable_dir(self.path(benchmark), _HINT)
        self._convert(benchmark)
        results = self.results(benchmark)
        files.write_bytes(folder / stored.PACK, stored.encode_pack(results))
        for result in results:
            result.path.unlink(missing_ok=True)
        return folder / stored.PACK

    def replace(self, old: StoredResult, rows: Sequence[Row], samples: Scores | None) -> Path:
        """Write a result in the place of another; returns its file.

        The new one is there before the old one goes.

        Args:
            old: the result whose place it takes.
            rows: of the new one, with the provenance of the old one where it says the same.
            samples: the scores behind it.

        Raises:
            StorageError: the folder cannot be written to.
        """
        folder = files.writable_dir(old.path.parent, _HINT)
        path = folder / f"{stored.name_of(rows)}.json"
        kept = None if samples is None else _write_scores(path, samples)
        files.write_text(path, stored.encode(rows, kept))
        if path != old.path:
            self._remove(old)
        return path

    def note(self, result: StoredResult, check: stored.Check) -> None:
        """Note in a result's file that it was made again."""
        others = tuple(one for one in result.checks if one.level != check.level)
        text = stored.encode(result.rows, result.scores, (*others, check))
        files.write_text(result.path, text)

    def _remove(self, result: StoredResult) -> None:
        pack = result.path.with_name(stored.PACK)
        if pack.is_file():
            packed = stored.read_pack(pack)
            others = [one for one in packed if one.path.stem != result.path.stem]
            if len(others) < len(packed):
                files.write_bytes(pack, stored.encode_pack(others))
        result.path.unlink(missing_ok=True)
        if result.scores_path is not None:
            result.scores_path.unlink(missing_ok=True)

    # --- what was kept in lines before ----------------------------------------------------------

    def _line_files(self, benchmark: str) -> list[Path]:
        """Files of lines that may hold rows of the benchmark."""
        names = [_former_name(benchmark), page_name(benchmark)]
        if benchmark in _page_names():
            names.append(benchmark)
        paths = []
        for name in dict.fromkeys(names):
            path = self.folder / "results" / f"{name}.jsonl"
            try:
                if path.is_file():
                    paths.append(path)
            except OSError:  # a name that was too long for a file
                continue
        return paths

    def _former(self, benchmark: str) -> list[Row]:
        """Rows of the benchmark in files of lines, which it may share with a similar name's."""
        rows = [row for path in self._line_files(benchmark) for row in lines.read(path)]
        known = {benchmark, _page_names().get(benchmark, benchmark)}
        return [row for row in rows if row["benchmark"] in known]

    def _convert(self, benchmark: str) -> set[str]:
        """Write the results of files of lines; one whose rows are all the benchmark's is removed.

        It may be killed anywhere, and two processes may do it at once: the results are the same
        files, and rows that are still in lines as well are read once.

        Returns:
            Ids of the rows that were there.
        """
        ids: set[str] = set()
        for path in self._line_files(benchmark):
            rows = lines.read(path)
            own = [row for row in rows if row["benchmark"] == benchmark]
            for result in lines.by_evaluation(own):
                _write(self.path(benchmark), result, None)
            ids |= {row["row_id"] for row in own}
            if len(own) == len(rows):
                path.unlink(missing_ok=True)
        return ids


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is looked for in the block: thousands of rows are made in it, and all are kept."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _write(folder: Path, rows: Sequence[Row], samples: Scores | None) -> int:
    """Write a result, or the scores of one that is there without them; returns its new rows."""
    path = folder / f"{stored.name_of(rows)}.json"
    there = _there(path)
    if there is not None and (samples is None or there.scores is not None):
        return 0
    kept = None if samples is None else _write_scores(path, samples)
    whole = rows if there is None else [*map(_completed, there.rows, _same_order(there, rows))]
    text = stored.encode(whole, kept, () if there is None else there.checks)
    with full.telling(path, len(text)):
        files.write_text(path, text)
    return len(rows) if there is None else 0


def _there(path: Path) -> StoredResult | None:
    """The result of that file, which may be in the pack."""
    return stored.read(path) if path.is_file() else stored.packed_beside(path).get(path.stem)


def _same_order(there: StoredResult, rows: Sequence[Row]) -> list[Row]:
    by_id = {row["row_id"]: row for row in rows}
    return [by_id[row["row_id"]] for row in there.rows]


def _completed(row: Row, again: Row) -> Row:
    """A row with what was not noted when it was made, as the same row made again tells it."""
    empty = {name: value for name, value in again.items() if row.get(name) is None}
    whole = with_columns(row, empty)
    return whole if row_id(whole) == row["row_id"] else row


def _write_scores(result: Path, samples: Scores) -> StoredScores:
    """The scores come first, so that no result speaks of a file that is not there."""
    content = scores.encode(samples)
    path = result.with_suffix(".scores.safetensors")
    files.write_bytes(path, content)
    return StoredScores(path.name, hashlib.sha256(content).hexdigest())


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
