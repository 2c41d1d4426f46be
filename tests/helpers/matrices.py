"""Matrices of small cells, an engine in this process, and what came of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodbench.results.store import ResultStore
from oodbench.scale.engines import Ended
from oodbench.scale.matrix import Matrix, read_matrix
from oodbench.scale.work import Work
from oodbench.scale.worker import run_cell

TEXT = """
[matrix]
benchmarks = ["digits"]
detectors = ["msp", "energy"]
methods = {methods}
seeds = {seeds}

[options]
recipe = "quick"
recipe_options = {{ epochs = 1 }}
ood = ["{ood}"]

[hardware]
accelerator = "cpu"
devices = "1"
"""


def matrix(
    folder: Path,
    seeds: Sequence[int] = (0, 1),
    ood: str = "digits-6-9",
    methods: Sequence[str] = ("ce",),
) -> Matrix:
    """A matrix on digits, a cell for each method and seed."""
    folder.mkdir(exist_ok=True)
    path = folder / "matrix.toml"
    path.write_text(
        TEXT.format(seeds=list(seeds), ood=ood, methods=list(methods)).replace("'", '"')
    )
    return read_matrix(path)


@dataclass
class Here:
    """Runs cells in this process; those of some seeds die as often as is said."""

    dies: dict[int, int] = field(default_factory=dict)
    ran: list[int] = field(default_factory=list)

    def run(self, work: Sequence[Work]) -> Iterator[Ended]:
        for one in work:
            seed = one.cell.seed
            self.ran.append(seed)
            if self.dies.get(seed, 0) > 0:
                self.dies[seed] -= 1
                yield one, "its process ended with signal 9"
                continue
            run_cell(Path(one.folder), one.cell, Path(one.leaderboards))
            yield one, None


def rows(boards: Path) -> list[dict[str, Any]]:
    return sorted(ResultStore(boards).rows("digits"), key=lambda row: row["row_id"])


VARYING = ("seconds", "created", "command")


def figures(boards: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in VARYING} for row in rows(boards)]


TIMES = re.compile(rb'"(seconds|created|seal)": ?("[^"]*"|[0-9.e+-]+)')


def contents(boards: Path) -> dict[str, bytes]:
    """All files of the results by name, to the byte, but for times and the seal over them."""
    found = sorted(ResultStore(boards).path("digits").iterdir())
    return {path.name: TIMES.sub(rb'"\1"', path.read_bytes()) for path in found}


def until(is_so: Callable[[], Any], what: str, seconds: float = 240) -> None:
    """Wait for something that other processes do."""
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit, f"{what} has not come"
        time.sleep(0.05)
