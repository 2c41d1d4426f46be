"""``oodbench leaderboard``."""

from __future__ import annotations

from typing import Annotated

import typer

from oodbench.cli.options import But
from oodbench.settings import Reporting, Selection


def leaderboard(
    selection: Annotated[
        Selection,
        But(without=("ood", "task_options")),  # a page is of the benchmark as it is
    ],
    reporting: Annotated[Reporting, But(without=("pictures", "json", "wide", "each_seed"))],
) -> None:
    """Write a benchmark's page from the stored rows."""
    from oodbench.benchmark import get_benchmark
    from oodbench.results import leaderboard as pages

    benchmark = get_benchmark(selection.id, selection.benchmark, selection.task)
    typer.echo(pages.write(benchmark, reporting.leaderboards or "leaderboards"))
