"""How lists, sheets and the state of the data look: groups on a terminal, plain lines elsewhere.

In a file or a pipe each thing has a line of its own that begins with its whole name, so that lists
can be searched and cut. Nothing that a plug-in says of itself is taken for markup.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from oodbench.cli import terminal
from oodbench.registry import STANDARD_METHOD
from oodbench.results.plain import visible

if TYPE_CHECKING:
    from rich.console import Console

    from oodbench.download.wanted import Lacking, Wanted
    from oodbench.info import Sheet, State
    from oodbench.registry import Registry

INFO = "`oodbench info NAME` says more."
NOTES = {
    "detector": "Every score is higher for OOD.",
    "backbone": "Any network of timm's works by its own name, too: timm.list_models().",
    "preparation": "`oodbench data prepare NAME` runs one.",
}
"""What a list does not show, by kind."""


def is_terminal() -> bool:
    """Whether somebody looks at what is printed."""
    return sys.stdout.isatty()


# Lists


def list_lines(names: Registry[Any]) -> Iterator[str]:
    """A line for each name: the name, and what it is."""
    width = max((len(name) for name in names.names()), default=0)
    for name in names.names():
        yield visible(f"{name:{width}}  {names.summary(name)}".rstrip())


def list_groups(names: Registry[Any]) -> dict[str, list[str]]:
    """The names by what they have in common; a single group has no heading."""
    is_read = names.kind == "detector"
    groups: dict[str, list[str]] = {}
    for name in names.names():
        heading = _what_is_read(names, name) if is_read else _family(names, name)
        groups.setdefault(heading, []).append(name)
    several = {heading: members for heading, members in groups.items() if len(members) > 1}
    others = sorted(set(names.names()).difference(*several.values()))
    if not several:
        return {"": others}
    if is_read:
        several = dict(sorted(several.items(), key=lambda group: _order(group[0])))
    return {**several, "Others": others} if others else several


def _family(names: Registry[Any], name: str) -> str:
    """The title of the module that a thing is in."""
    module, title = names.family(name)
    return title.rstrip(".") or module


_OWN_METHOD = "For networks that a method of their own trains"


def _what_is_read(names: Registry[Any], name: str) -> str:
    """What a detector reads of a network, or that the network is trained for it."""
    if names.attribute(name, "method") not in (None, STANDARD_METHOD):
        return _OWN_METHOD
    needs = sorted(names.attribute(name, "needs") or ())
    if needs == ["model"]:
        return "From the network itself"
    return f"From {', '.join(needs[:-1])}{' and ' * (len(needs) > 1)}{needs[-1]}" if needs else ""


def _order(heading: str) -> tuple[bool, int]:
    """Outputs in the order of what they cost: those that read least come first."""
    return heading == _OWN_METHOD, len(heading)


def print_list(names: Registry[Any], console: Console) -> None:
    """The names in groups, each with what it is beside it."""
    from rich.text import Text

    width = max((len(name) for name in names.names()), default=0)
    for heading, members in list_groups(names).items():
        if heading:
            console.print(Text(_shown(heading), style="bold"))
        # the direction is the same for all detectors, and said once
        rows = [(name, names.summary(name).partition(" Higher = more OOD")[0]) for name in members]
        if rows:
            console.print(_columns(rows, width, "cyan"), "")
    count = len(names.names())
    words = [f"{count} {names.kind if count == 1 else names.plural}.", NOTES.get(names.kind, "")]
    console.print(Text(" ".join(filter(None, [*words, INFO])), style="dim"))


def _columns(rows: Iterable[tuple[str, str]], width: int, style: str = "") -> Any:
    """Names that are never cut, and beside them what they are, in as many lines as it takes."""
    from rich.table import Table
    from rich.text import Text

    indent = "  " if style else ""
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(no_wrap=True, min_width=width + len(indent), overflow="fold")
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(indent + terminal.printable(name), style=style), Text(_shown(text)))
    return table


def _shown(text: str) -> str:
    """A docstring's line without its marks of code, and without what moves a cursor."""
    return terminal.printable(text).replace("``", "`")


# Sheets


def print_sheets(sheets: Sequence[Sheet], console: Console) -> None:
    """Print everything known under a name."""
    from rich.columns import Columns
    from rich.padding import Padding
    from rich.text import Text

    for number, sheet in enumerate(sheets):
        if number:
            console.print()
        if sheet.title:
            console.print(Text(terminal.printable(sheet.title), style="bold"))
        for indent, paragraph in paragraphs(sheet.text):
            console.print(Padding(Text(_shown(paragraph)), (0, 0, 0, indent)))
        width = max((len(e.label) for e in sheet.entries if e.lines and not e.is_block), default=0)
        for entry in sheet.entries:
            if not entry.lines:
                continue
            if not entry.is_block:
                rows = [(entry.label * (not i), line) for i, line in enumerate(entry.lines)]
                console.print(_columns(rows, width))
                continue
            console.print(Text(terminal.printable(entry.label), style="bold"))
            lines = [Text("  " + terminal.printable(line)) for line in entry.lines]
            if entry.is_code:  # it is to be copied, so no line of it is folded
                console.print(*lines, sep="\n", soft_wrap=True)
            else:
                console.print(Columns(lines, padding=(0, 1)))


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """The paragraphs of a docstring, joined so that they can be folded at any width.

    A line further in goes on with an item (an argument, a point of a list); one that is as far in
    as the item begins another.

    Args:
        text: without the indentation that all lines share.

    Yields:
        How far in a paragraph is, and its text; ``""`` for an empty line.
    """
    start, joined = 0, ""
    for line in text.splitlines():
        indent, words = len(line) - len(line.lstrip()), line.strip()
        is_point = words.startswith(("- ", ">>> ")) or words.partition(". ")[0].isdigit()
        goes_on = joined and words and not is_point and not joined.endswith(":")
        goes_on = goes_on and (indent > start or (indent == start == 0))
        if goes_on:
            joined = f"{joined} {words}"
            continue
        if joined:
            yield start, joined
        if not words:
            yield 0, ""
        start, joined = indent, words
    if joined:
        yield start, joined


# Data


def status_lines(states: Iterable[State]) -> Iterator[str]:
    """One line per split: those that are here first, then what is damaged, then the missing."""
    kept = sorted(states, key=lambda state: (not state.is_here, state.is_missing))
    for state in kept:
        where = f"{state.name}/{state.split}" if state.split else state.name
        yield terminal.printable(" ".join(f"{where}: {_state_text(state)}".split()))


def _state_text(state: State) -> str:
    if state.is_here:
        return state.count
    if state.is_missing:
        return f"not here. Get it: `oodbench info {state.name}` says from where"
    return state.reason


def print_status(states: Iterable[State], descriptions: Callable[[str], str], console: Any) -> None:
    """The datasets in groups: here, here in part, damaged, not here.

    Args:
        states: of their splits.
        descriptions: one line on a dataset.
        console: where to print.
    """
    from rich.text import Text

    splits: dict[str, list[State]] = {}
    for state in states:
        splits.setdefault(state.name, []).append(state)
    groups: dict[str, list[tuple[str, str]]] = {
        "Here": [],
        "Here in part": [],
        "Cannot be used": [],
        "Not here": [],
    }
    for name, members in splits.items():
        here = _counts([state for state in members if state.is_here])
        damaged = [state.reason for state in members if not (state.is_here or state.is_missing)]
        absent = ", ".join(state.split for state in members if state.is_missing)
        if damaged:
            groups["Cannot be used"].append((name, "; ".join(filter(None, [*damaged, here]))))
        elif not absent:
            groups["Here"].append((name, here))
        elif here:
            groups["Here in part"].append((name, f"{here}; no {absent}"))
        else:
            groups["Not here"].append((name, descriptions(name)))
    width = max(map(len, splits), default=0)
    for heading, rows in groups.items():
        if rows:
            console.print(Text(f"{heading} ({len(rows)})", style="bold"))
            console.print(_columns(rows, width, "green" if heading == "Here" else "cyan"), "")
    console.print(Text("`oodbench info NAME` says where one comes from and goes.", style="dim"))


def _counts(states: Sequence[State]) -> str:
    """How much there is of some splits: ``train 50,000, test 10,000 images``."""
    words = {state.count.rpartition(" ")[2] for state in states}
    counts = [f"{state.split} {state.count}" for state in states]
    if len(words) == 1:
        word = words.pop()
        return f"{', '.join(count.removesuffix(word).strip() for count in counts)} {word}"
    return ", ".join(counts)


def plan_lines(sets: Sequence[Wanted], missing: Sequence[Lacking]) -> list[str]:
    """What would be fetched: for each set a few lines, and a last one on all of them."""
    from oodbench import files
    from oodbench.disk.full import free_space, size_in_words
    from oodbench.download.placing import addresses, by_hand
    from oodbench.download.wanted import size_of

    lines = []
    for one in missing:
        splits = ", ".join(one.splits)
        lines.append(f"{one.name} ({splits}):")
        for number, source in enumerate(one.sources):
            is_used = source in one.fetched
            use = "from" if is_used else "else from" if number else "wants a person: from"
            lines += [f"  {use} {address}" for address in addresses(source)]
            licence = source.licence or one.wanted.spec.licence or "see source"
            size = size_in_words(source.bytes) if source.bytes else "of unknown size"
            lines.append(f"    {size}; licence: {licence}")
            lines.append(f"    to {files.data_dir() / source.target}")
            if source.steps and not is_used:
                wanted = [file for file in source.files if not file.url]
                lines.append(f"    {by_hand(source, one.name, wanted)}")
        if not one.sources:
            lines.append("  no address is known; `oodbench info NAME` says what is")
    here = len({one.name for one in sets} - {one.name for one in missing})
    free = free_space(files.data_dir())
    used = [source for one in missing for source in one.fetched]
    room = "" if free is None else f"; {size_in_words(free)} are free at {files.data_dir()}"
    fetched = f"{size_of(used)} to fetch" if used else "nothing to fetch"
    lines.append(
        f"here: {here} of {here + len({one.name for one in missing})} sets; {fetched}{room}"
    )
    return lines
