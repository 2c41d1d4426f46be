"""The table of ``oodbench data status NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oodbench.cli import terminal
from oodbench.disk.full import size_in_words

if TYPE_CHECKING:
    from rich.console import Console

    from oodbench.stock import SplitStock, Stock


def print_stock(stock: Stock, console: Console) -> None:
    """What is here of a benchmark or a dataset: a line a set, and what gets the rest."""
    from rich.table import Table
    from rich.text import Text

    here = sum(one.count is not None for one in stock.splits)
    title = f"{stock.kind} {stock.name}: {here} of {len(stock.splits)} splits are here"
    console.print(Text(terminal.printable(title), style="bold"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    has_roles = any(one.role for one in stock.splits)
    for heading in ([""] if has_roles else []) + ["set", "split"]:
        table.add_column(heading, overflow="fold", no_wrap=False)
    for heading in ("here", "published"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("content", overflow="fold")
    table.add_column("on disk", justify="right", no_wrap=True)
    previous = ""
    for one in stock.splits:
        role = [one.role if one.role != previous else ""] if has_roles else []
        previous = one.role
        cells = [*role, one.name, one.split, _count(one.count), _count(one.expected)]
        cells += [content_of(one), "" if one.size is None else size_in_words(one.size)]
        style = "green" if one.count is not None and not one.problem else "yellow"
        table.add_row(*(Text(terminal.printable(cell)) for cell in cells), style=style)
    console.print(table)
    for line in closing_lines(stock):
        console.print(Text(terminal.printable(line)), soft_wrap=True)


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def content_of(one: SplitStock) -> str:
    """Whether what is here is what was published, in a few words."""
    if one.count is None:
        if not one.command:
            return "damaged"
        size = "" if not one.to_fetch else f", {size_in_words(one.to_fetch)} to fetch"
        return f"not here{size}" if one.to_fetch is not None else "not here, by hand"
    if one.problem:
        if one.fingerprint and one.fingerprint != one.published:
            return f"another: {one.fingerprint[:8]}, not {one.published[:8]}"
        return one.problem
    if one.fingerprint:
        return f"as published ({one.fingerprint[:8]})"
    if one.published:
        return "not compared: --check"
    return "as many as published" if one.expected is not None else "nothing to compare"


def closing_lines(stock: Stock) -> list[str]:
    """What to do about what is missing or damaged."""
    lines = []
    damaged = [one for one in stock.splits if one.count is None and not one.command]
    lines += [f"{one.name}/{one.split}: {one.problem}" for one in damaged[:3]]
    if stock.command:
        size = f" ({size_in_words(stock.to_fetch)})" if stock.to_fetch else ""
        lines.append(f"get what is missing{size}: {stock.command}")
    return lines
