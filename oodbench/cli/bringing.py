"""What a command needs and is not here: it is said, asked for, fetched, or the command stops."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from oodbench.cli import terminal
from oodbench.errors import MissingDataError

if TYPE_CHECKING:
    from oodbench.benchmark import Benchmark
    from oodbench.download.wanted import Lacking, Wanted


def bring(
    wanted: Sequence[Wanted],
    benchmark: Benchmark,
    asked: bool | None,
    say: Callable[[str], None],
    *,
    may_ask: bool = True,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Get the data that a command reads, if somebody wants that.

    Args:
        wanted: what it reads.
        benchmark: of which.
        asked: True to get it, False to go on with what is here, None to ask.
        say: prints a line.
        may_ask: whether a question may be printed.
        check: called before anything is asked or fetched; raises if the data would be of no use.

    Raises:
        MissingDataError: nobody can be asked; the message has the command that gets it.
        OODBenchError: what the check raises; or an ID set that a person has to get.
    """
    from oodbench.needed import check_id, download, obtainable

    if asked is False:
        return
    missing = obtainable(wanted)
    if not missing:
        return
    check_id(benchmark, wanted)
    check()
    if asked is None:
        if not (may_ask and sys.stdin.isatty() and sys.stdout.isatty()):
            raise MissingDataError(_stopped(missing, benchmark))
        for line in plan_lines(missing):
            typer.echo(terminal.printable(line))
        if not typer.confirm(f"Download {_size(missing)}?"):
            return
    download(missing, say)


def plan_lines(missing: Sequence[Lacking]) -> list[str]:
    """A line for each source: what comes from where, how large it is, under which licence."""
    from oodbench.download.placing import addresses
    from oodbench.download.wanted import size_of

    return [
        f"not here: {one.name} ({', '.join(one.splits)}), {size_of([source])} from "
        f"{', '.join(addresses(source)[:1])}; licence: "
        f"{source.licence or one.wanted.spec.licence or 'see source'}"
        for one in missing
        for source in one.fetched
    ]


def _size(missing: Sequence[Lacking]) -> str:
    from oodbench.download.wanted import size_of

    return size_of(source for one in missing for source in one.fetched)


def _stopped(missing: Sequence[Lacking], benchmark: Benchmark) -> str:
    from oodbench import files

    names = list(dict.fromkeys(one.name for one in missing))
    is_one = len(names) == 1
    return (
        f"{', '.join(names)} {'is' if is_one else 'are'} not in {files.data_dir()}, and nothing is "
        f"downloaded unasked ({_size(missing)}). Get {'it' if is_one else 'them'}: "
        f"`{command(names, benchmark)}`, or add --download to this command; --no-download leaves "
        "out what is not here. OODBENCH_DATA names another folder that has it."
    )


def command(names: Sequence[str], benchmark: Benchmark) -> str:
    """The command that gets some of a benchmark's sets."""
    import shlex

    from oodbench.registry import DATASETS

    specs = (benchmark.id, *(one.spec for one in benchmark.ood), *benchmark.validation)
    loads = {spec.name: spec.load for spec in specs}
    # a benchmark may have fewer images of a set, or other files, than all know by its name
    if all(
        name.partition(":")[0] in DATASETS
        and loads.get(name) in (None, getattr(DATASETS.get(name.partition(":")[0]), "load", None))
        for name in names
    ):
        return shlex.join(["oodbench", "data", "prepare", *names])
    return shlex.join(["oodbench", "data", "prepare", "--benchmark", benchmark.name])
