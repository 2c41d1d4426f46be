"""Tables on the terminal, which lose columns where it is narrow, but never a digit."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oodbench.cli import terminal

if TYPE_CHECKING:
    from oodbench.tuning import Tuning

NAME_WIDTH = 22
"""A column of names is at most so wide where room is short; longer ones go on in the next line."""
_UNBOUNDED = 10_000


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: its head, which may go over several lines.
        cells: one text per line of the table.
        rank: columns of the highest rank are left out first where room is short; those of rank 0
            always stay.
        is_name: whether its cells may be folded; figures are never.
    """

    title: str
    cells: Sequence[str]
    rank: int = 0
    is_name: bool = False

    @property
    def width(self) -> int:
        """The least number of places that it takes."""
        from rich.cells import cell_len

        longest = max(map(cell_len, [*self.cells, *self.title.split()]), default=0)
        return min(longest, NAME_WIDTH) if self.is_name else longest


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that have room side by side, those of the highest rank left out first."""
    kept = list(columns)
    while _needed(kept) > width and any(column.rank for column in kept):
        last = max(column.rank for column in kept)
        kept = [column for column in kept if column.rank != last]
    return kept


def _needed(columns: Sequence[Column]) -> int:
    # between two columns a rule and a space at either side of it, and a space at either edge
    return sum(column.width for column in columns) + 3 * (len(columns) - 1) + 2


def terminal_width() -> int:
    """How many places a line has; a file has no edge to fold names at."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNBOUNDED


def print_columns(
    columns: Sequence[Column],
    *,
    wide: bool = False,
    bold: Sequence[int] = (),
    sections: Sequence[int] = (),
) -> list[str]:
    """Print a table as wide as the terminal.

    Args:
        columns: of texts, all as long.
        wide: whether all columns are printed, however wide the terminal is.
        bold: the lines that stand out, by number.
        sections: the lines behind which a rule is drawn.

    Returns:
        The titles of the columns that were left out.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = _UNBOUNDED if wide else terminal_width()
    kept = fitting(columns, width)
    is_bounded = width < _UNBOUNDED
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in kept:
        table.add_column(
            Text(column.title),
            justify="left" if column.is_name else "right",
            overflow="fold",
            width=column.width if is_bounded else None,  # else the widest give way first
        )
    for number in range(len(kept[0].cells)):
        cells = [column.cells[number] for column in kept]
        _add_row(table, *cells, style="bold" if number in bold else None)
        if number in sections:
            table.add_section()
    # a line that the terminal breaks is read; a figure that is cut is another figure
    Console(width=max(width, _needed(kept))).print(table)
    return [column.title for column in columns if column not in kept]


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
    Console(width=terminal_width()).print(table)


def print_table(header: list[str], cells: list[list[str]], *, wide: bool = False) -> list[str]:
    """A table of text, of which the first two columns are names.

    Returns:
        The titles of the columns that had no room; those at the end have it last.
    """
    columns = [
        Column(title, [row[number] for row in cells], max(0, number - 2), is_name=number < 2)
        for number, title in enumerate(header)
    ]
    return print_columns(columns, wide=wide)


def _add_row(table: Any, *cells: Any, style: str | None = None) -> None:
    """Cells as they are: a folder may be called ``[red]``, which is no colour."""
    from rich.text import Text

    shown = [Text(terminal.printable(c)) if isinstance(c, str) else c for c in cells]
    table.add_row(*shown, style=style)
