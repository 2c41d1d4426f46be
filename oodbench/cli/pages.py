"""``oodbench leaderboard``."""

from __future__ import annotations

import typer

from oodbench.cli import failures
from oodbench.cli.options import (
    BenchmarkName,
    Debug,
    Id,
    Leaderboards,
    TaskName,
)


def leaderboard(
    id_name: Id = None,
    benchmark: BenchmarkName = None,
    task: TaskName = None,
    leaderboards: Leaderboards = "leaderboards",
    debug: Debug = False,
) -> None:
    """Write a benchmark's page from the stored rows."""
    failures.show_traceback(debug)
    from oodbench.benchmark import get_benchmark
    from oodbench.results import leaderboard as pages

    typer.echo(pages.write(get_benchmark(id_name, benchmark, task), leaderboards))
