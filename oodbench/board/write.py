"""Writes the board of a folder of leaderboards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.board.content import content_of
from oodbench.board.page import html
from oodbench.errors import OODBenchError, OptionError
from oodbench.results import lines
from oodbench.results.plain import visible
from oodbench.results.store import ResultStore
from oodbench.results.versions import own_version


@dataclass
class Board:
    """A board that was written.

    Args:
        path: the file.
        benchmarks: what it shows.
        left_out: benchmarks with results that it cannot show, and why.
    """

    path: Path
    benchmarks: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def write(leaderboards: str | Path, out: str | Path, benchmark: Benchmark | None = None) -> Board:
    """Write the board of all benchmarks that have results, or of one, atomically.

    Args:
        leaderboards: the folder of the results.
        out: the html file.
        benchmark: the one to show; None for all. A benchmark that is not known here (a plug-in's,
            a folder that is elsewhere) is left out and said to be.

    Raises:
        OptionError: there are no results to show.
        StorageError: the file cannot be written.
        OODBenchError: a result that is damaged, or whose scores are.
    """
    store = ResultStore(leaderboards)
    board = Board(files.user_path(out))
    shown = []
    for name in _names(store) if benchmark is None else [benchmark.name]:
        try:
            of = benchmark or get_benchmark(benchmark=name)
        except OODBenchError as error:
            board.left_out[name] = str(error)
            continue
        shown.append(_content(of, store))
        board.benchmarks.append(name)
    if not any(part["parts"] for part in shown):
        unknown = "; ".join(f"{name}: {why}" for name, why in board.left_out.items())
        raise OptionError(
            f"there are no results to show in {store.folder / 'results'}. Run `oodbench eval` "
            "first, or name the folder with `leaderboards`." + (f" ({unknown})" if unknown else "")
        )
    files.write_text(board.path, html({**_about(board), "benchmarks": shown}))
    return board


def _names(store: ResultStore) -> list[str]:
    """Names of all benchmarks that the store has results of."""
    names: set[str] = set()
    root = store.folder / "results"
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        names |= {row["benchmark"] for result in store.results(folder.name) for row in result.rows}
    for path in sorted(root.glob("*.jsonl")):
        names |= {row["benchmark"] for row in lines.read(path)}
    return sorted(names)


def _content(benchmark: Benchmark, store: ResultStore) -> dict[str, Any]:
    results = store.results(benchmark.name)
    rows = store.rows(benchmark.name, results)
    own = [row for row in rows if row["benchmark"] == benchmark.name]
    return content_of(benchmark, own, results)


def _about(board: Board) -> dict[str, Any]:
    return {
        "oodbench": own_version(),
        "leftOut": [{"name": visible(n), "why": visible(w)} for n, w in board.left_out.items()],
    }
