"""The tables of ``oodbench data status``: of one name, and of all benchmarks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
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


def print_stocks(stocks: Sequence[Stock], console: Console) -> None:
    """What is here of every benchmark: a line with its sets' states below, in the whole width."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    widest = max((len(stock.name) for stock in stocks), default=0)
    for stock in stocks:
        sets = sets_of(stock)
        here = [name for name, state in sets.items() if state == "here"]
        words = [
            f"{state}: {', '.join(name for name, its in sets.items() if its == state)}"
            for state in ("here", "part", "another", "damaged", "not here")
            if state in sets.values()
        ]
        head = Table.grid(padding=(0, 2, 0, 0))
        head.add_column(width=widest, no_wrap=True, overflow="fold")
        head.add_column(width=len("10 of 10"), justify="right", no_wrap=True)
        head.add_column(no_wrap=True)
        cells = [stock.name, f"{len(here)} of {len(sets)}", _to_fetch(stock)]
        style = "green" if len(here) == len(sets) else "yellow" if here else ""
        head.add_row(*(Text(terminal.printable(cell)) for cell in cells), style=style)
        console.print(head)
        console.print(
            Padding(Text(terminal.printable("; ".join(words)), "dim"), (0, 0, 0, 2), expand=False)
        )


def _to_fetch(stock: Stock) -> str:
    """How much is fetched to have all, as far as publishers say how large their files are."""
    is_more = any(one.to_fetch == 0 for one in stock.splits)
    if not stock.to_fetch:
        return "to fetch, of unknown size" if is_more else ""
    return f"{'more than ' * is_more}{size_in_words(stock.to_fetch)} to fetch"


def sets_of(stock: Stock) -> dict[str, str]:
    """The state of each set, all its splits together: ``"here"``, ``"part"``, ``"not here"`` …."""
    states: dict[str, str] = {}
    order = ("damaged", "another", "part", "not here", "here")
    for one in stock.splits:
        state = _state(one)
        known = states.get(one.name, state)
        if {known, state} == {"here", "not here"}:  # one of its splits is there
            state = "part"
        states[one.name] = min(known, state, key=order.index)
    return states


def _state(one: SplitStock) -> str:
    if one.count is None:
        return "not here" if one.command else "damaged"
    if one.expected is not None and one.count < one.expected:
        return "part"
    return "another" if one.problem else "here"


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
        is_whole = one.count == one.expected
        if is_whole and one.fingerprint and one.fingerprint != one.published:
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
    parts = list(dict.fromkeys(one.name for one in stock.splits if _state(one) == "part"))
    if parts:
        command = f"oodbench data prepare {shlex.join(parts)}"
        lines.append(f"to have all of {', '.join(parts)}: move away what is here, then {command}")
    if stock.command:
        size = f" ({size_in_words(stock.to_fetch)})" if stock.to_fetch else ""
        lines.append(f"get what is missing{size}: {stock.command}")
    return lines
