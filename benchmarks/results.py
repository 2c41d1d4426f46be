"""Seconds that reading many results and writing their page take.

Usage: ``python benchmarks/results.py [--results 10000] [--seeds 5]``

The results are those of a committed benchmark, many times over: under other names of options, so
that all ids, digests and seals are their own. Nothing is kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from oodbench import ResultStore, files, get_benchmark
from oodbench.results import leaderboard, stored
from oodbench.results.rows import row_id

BOARDS = Path(__file__).resolve().parents[1] / "leaderboards"


def copies(results: list[stored.StoredResult], n: int, seeds: int, folder: Path) -> None:
    """Write that many results."""
    for number in range(n):
        result = results[number % len(results)]
        options = {**result.rows[0]["detector_options"], "copy": number // seeds}
        rows = [
            {**row, "detector_options": options, "seed": number % seeds, "weights": str(number)}
            for row in result.rows
        ]
        rows = [{**row, "row_id": row_id(row)} for row in rows]  # type: ignore[typeddict-item]
        files.write_text(folder / f"{stored.name_of(rows)}.json", stored.encode(rows))  # type: ignore[arg-type]


def main() -> None:
    """Print what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    benchmark = get_benchmark("digits")
    with tempfile.TemporaryDirectory() as name:
        store = ResultStore(name)
        copies(
            ResultStore(BOARDS).results("digits"), asked.results, asked.seeds, store.path("digits")
        )
        began, used = time.perf_counter(), time.process_time()
        results = store.results("digits")
        rows = store.rows("digits", results)
        print(f"{len(results):,} results, {len(rows):,} rows read", _since(began, used))
        began, used = time.perf_counter(), time.process_time()
        page = leaderboard.write(benchmark, name)
        sizes = [path.stat().st_size / 2**20 for path in (page, page.with_suffix(".csv"))]
        print("read again, page of {:.2f} and csv of {:.1f} MiB written".format(*sizes), end=" ")
        print(_since(began, used))


def _since(began: float, used: float) -> str:
    return f"in {time.perf_counter() - began:.1f} s ({time.process_time() - used:.1f} s of CPU)"


if __name__ == "__main__":
    main()
