"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from oodbench.cli import terminal

if TYPE_CHECKING:
    from oodbench.results.rows import Results
    from oodbench.tuning import Tuning


def show_trials(tuning: Tuning) -> None:
    """What was tried for each detector, and what was chosen."""
    from rich.console import Console
    from rich.table import Table

    from oodbench.tune import words

    table = Table(title=None)
    table.add_column("detector", overflow="fold")
    table.add_column("values", overflow="fold")
    table.add_column("validation AUROC %", justify="right")
    table.add_column("chosen", justify="center")
    for choice in tuning.choices:
        for trial in choice.trials:
            is_best = trial is choice.best
            auroc = "refused" if trial.auroc is None else f"{100 * trial.auroc:.2f}"
            bold = "bold" if is_best else None
            mark = "*" if is_best else ""
            _add_row(table, choice.original.label, words(trial.values), auroc, mark, style=bold)
        table.add_section()
    Console(width=_width()).print(table)


def print_table(header: list[str], cells: list[list[str]]) -> None:
    """A table of text, of which the first two columns are names."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=None)
    for number, title in enumerate(header):
        shown.add_column(title, overflow="fold", justify="left" if number < 2 else "right")
    for row in cells:
        _add_row(shown, *row)
    Console(width=_width()).print(shown)


def _add_row(table: Any, *cells: Any, style: str | None = None) -> None:
    """Cells as they are: a folder may be called ``[red]``, which is no colour."""
    from rich.text import Text

    shown = [Text(terminal.printable(c)) if isinstance(c, str) else c for c in cells]
    table.add_row(*shown, style=style)


def _width() -> int | None:
    return None if sys.stdout.isatty() else 1000  # a file has no edge to fold names at


def show_rows(results: Results, task: str) -> None:
    """Print a table of an evaluation's figures."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from oodbench.registry import MEASURES, TASKS
    from oodbench.results.rows import cell

    quality, quality_name = TASKS.get(task).quality
    counted = TASKS.get(task).unit
    table = Table(title=None)
    for column in ("detector", "method", "seed", "OOD", "AUROC %", "95 % interval"):
        table.add_column(column, overflow="fold")
    # benchmarks with measures, two groups to compare, or shifted sets have further columns
    columns = (*MEASURES.names(), "gap", "shifted_accuracy")
    extras = [c for c in columns if any(r.get(c) is not None for r in results.rows)]
    titles = [c.replace("_", " ") for c in extras]
    figures = ("FPR@95 ID+", "FPR@95 OOD+", "AUPR in", "AUPR out", *titles, quality_name, counted)
    for column in figures:
        table.add_column(column, justify="right")
    previous = None
    for row in results.rows:
        key = (row["detector"], row["method"], row["seed"])
        if previous not in (None, key):
            table.add_section()
        previous = key
        name = Text(terminal.printable(row["ood"]), style="bold" if row["is_mean"] else "")
        accuracy = cell(row, quality)
        low, high = row["auroc_low"], row["auroc_high"]
        scored = f" ({row['modality']})" if row.get("modality") else ""
        _add_row(
            table,
            row["detector"] + scored,
            row["method"],
            str(row["seed"]),
            name,
            f"{100 * row['auroc']:.2f}",
            "–" if low is None or high is None else f"{100 * low:.2f}–{100 * high:.2f}",
            *(
                f"{100 * cell(row, m):.2f}"
                for m in ("fpr95_id", "fpr95_ood", "aupr_in", "aupr_out")
            ),
            *(_with_interval(row, c) for c in extras),
            "–" if accuracy is None else f"{100 * accuracy:.2f}",
            f"{row['n_ood']:,}",
        )
    Console(width=_width()).print(table)


def _with_interval(row: Mapping[str, Any], column: str) -> str:
    """A figure in percent, and its interval if it has one."""
    if row.get(column) is None:
        return "–"
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    interval = "" if low is None or high is None else f" [{100 * low:.2f}, {100 * high:.2f}]"
    return f"{100 * row[column]:.2f}{interval}"
