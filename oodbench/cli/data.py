"""``oodbench data``: which data is on this machine, and getting what is not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oodbench.cli import catalogue, terminal
from oodbench.cli.options import Debug
from oodbench.errors import OptionError

if TYPE_CHECKING:
    from oodbench.download.wanted import Wanted
    from oodbench.stock import Stock
    from oodbench.stocktaking import Counted

data_app = typer.Typer(help="The datasets on this machine.", no_args_is_help=True)


@data_app.command("status")
def data_status(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A benchmark, or a dataset.", show_default=False),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare contents also where all images are read for that."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable states.")] = False,
    debug: Debug = False,  # noqa: ARG001  (its callback has seen it)
) -> None:
    """Which datasets are on this machine, whole and as published, and what gets the others."""
    from oodbench import files

    if as_json:
        _print_json(name, check)
        return
    if name is not None:
        from oodbench.cli.stocks import print_stock

        print_stock(stock_of(name, check), _console())
        return
    typer.echo(f"OODBENCH_DATA: {files.data_dir()}\nOODBENCH_CACHE: {files.cache_dir()}")
    _print_all(check)


def _print_all(check: bool) -> None:
    """Every benchmark, and then the datasets that are in none."""
    from oodbench.cli.stocks import print_stocks
    from oodbench.info import states
    from oodbench.registry import BENCHMARKS, DATASETS

    stocks, problems = stocks_of(BENCHMARKS.names(), check)
    print_stocks(stocks, _console())
    for name, problem in problems.items():
        typer.echo(terminal.printable(f"{name}: {problem}"))
    listed = {split.name for stock in stocks for split in stock.splits}
    others = states([name for name in DATASETS.names() if name not in listed])
    typer.echo("\nin no benchmark:")
    if catalogue.is_terminal():
        catalogue.print_status(others, DATASETS.summary, _console())
    else:
        for line in catalogue.status_lines(others):
            typer.echo(line)
    typer.echo("`oodbench data status NAME` says more of a benchmark or a dataset.")


def stock_of(name: str, check: bool) -> Stock:
    """What is here of a benchmark or a dataset: as it was counted, if nothing has changed since."""
    from oodbench import stock

    known = _remembered(name, check)
    if known is not None:
        return known
    from oodbench import stocktaking

    state = stock.look()  # before it is counted: what changes meanwhile is counted again next time
    with _counting() as say:
        say(name)
        counted = stocktaking.take(name, is_checked=check)
    stock.remember(counted, state, is_checked=check)
    return counted


def _remembered(name: str, check: bool) -> Stock | None:
    """What was counted; also where that was with more care than is asked for now."""
    from oodbench import stock

    checked = stock.remembered(name, is_checked=True)
    return checked if checked is not None or check else stock.remembered(name, is_checked=False)


@contextlib.contextmanager
def _counting() -> Iterator[Callable[[str], None]]:
    """Says on a terminal what is counted, which takes a while where it was not seen before."""
    from rich.console import Console

    with Console(stderr=True, highlight=False).status("") as status:
        yield lambda name: status.update(
            # a name may hold what rich takes for a style
            terminal.printable(f"counting {name} (new, or changed)").replace("[", "\\[")
        )


def stocks_of(names: Sequence[str], check: bool) -> tuple[list[Stock], dict[str, str]]:
    """What is here of benchmarks, each set counted once; and why that cannot be told of some."""
    from oodbench import stock
    from oodbench.errors import OODBenchError

    stocks: list[Stock] = []
    problems: dict[str, str] = {}
    state: dict[str, Any] | None = None
    counted: Counted = {}
    with contextlib.ExitStack() as stack:
        say: Callable[[str], None] | None = None
        for name in names:
            known = _remembered(name, check)
            if known is None:
                from oodbench import stocktaking

                state = stock.look() if state is None else state
                say = stack.enter_context(_counting()) if say is None else say
                say(name)
                try:
                    known = stocktaking.take(name, is_checked=check, counted=counted)
                except OODBenchError as error:  # a factory wants an argument, a damaged package
                    problems[name] = str(error)
                    continue
                stock.remember(known, state, is_checked=check)
            stocks.append(known)
    return stocks, problems


def _print_json(name: str | None, check: bool) -> None:
    import json

    from oodbench import files
    from oodbench.registry import BENCHMARKS

    if name is not None:
        listed: list[object] = [stock_of(name, check).to_dict()]
    else:
        stocks, problems = stocks_of(BENCHMARKS.names(), check)
        listed = [stock.to_dict() for stock in stocks]
        listed += [
            {"name": one, "kind": "benchmark", "problem": text} for one, text in problems.items()
        ]
    typer.echo(json.dumps({"data": str(files.data_dir()), "stocks": listed}, indent=1))


def _console() -> Any:
    from rich.console import Console

    # a table is for 100 columns, also in a file
    return Console(highlight=False, width=None if catalogue.is_terminal() else 100)


@data_app.command("prepare")
def data_prepare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME…",
            help="Datasets, benchmarks, or families: oodbench list preparations.",
            show_default=False,
        ),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option("--benchmark", help="All sets of a benchmark, where a dataset has its name."),
    ] = None,
    brought: Annotated[
        str | None,
        typer.Option("--from", help="A file that you got by hand, or a folder of such files."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be fetched, from where and to where."),
    ] = False,
    flow: Annotated[
        str | None,
        typer.Option("--flow", help="Compute missing optical flow with RAFT: small or large."),
    ] = None,
    debug: Debug = False,  # noqa: ARG001  (its callback has seen it)
) -> None:
    """Get what is not here: fetched, unpacked, checked; a run that was killed goes on."""
    from oodbench.benchmark import get_benchmark
    from oodbench.download import wanted
    from oodbench.registry import BENCHMARKS, DATASETS, PREPARATIONS

    families = [name for name in names or () if name in PREPARATIONS]
    sets: list[Wanted] = []
    for name in names or ():
        if name not in families:
            sets += wanted.of_name(name)
        if name in DATASETS and name in BENCHMARKS:
            typer.echo(f"all sets of the benchmark: --benchmark {name}")
    for name in benchmark or ():
        sets += wanted.of_benchmark(get_benchmark(benchmark=name))
    if not (families or sets):
        raise OptionError("name a dataset, a benchmark or a family; see `oodbench data status`.")
    if flow is not None and not families:
        raise OptionError("`--flow` is for families that have optical flow.")
    if sets:
        _prepare(sets, brought, dry_run)
    for name in families:
        _prepare_family(name, flow, dry_run)


def _prepare(sets: list[Wanted], brought: str | None, dry_run: bool) -> None:
    from pathlib import Path

    from oodbench import files
    from oodbench.download.placing import Means
    from oodbench.download.prepare import fetch_all, tidy_up, watching
    from oodbench.download.wanted import lacking
    from oodbench.errors import MissingDataError

    path: Path | None = None if brought is None else files.user_path(brought)
    if path is not None and not path.exists():
        raise MissingDataError(f"`--from {brought}`: there is no such file or folder.")
    missing = lacking(sets)
    lines = catalogue.plan_lines(sets, missing)
    if dry_run:
        for line in lines:
            typer.echo(terminal.printable(line))
        return
    for one in sets:
        tidy_up(one)
    for line in lines[-1:]:
        typer.echo(terminal.printable(line))
    with watching(lambda line: typer.echo(terminal.printable(line)), None) as watch:
        done = fetch_all(missing, Means(watch, path))
    if done:
        typer.echo(terminal.printable(f"fetched: {', '.join(done)}; see `oodbench data status`"))


def _prepare_family(name: str, flow: str | None, dry_run: bool) -> None:
    from oodbench import files
    from oodbench.registry import PREPARATIONS

    if dry_run:
        typer.echo(terminal.printable(f"{name}: {PREPARATIONS.summary(name)}"))
        return
    options = {} if flow is None else {"flow": flow}
    PREPARATIONS.get(name)(files.data_dir(), report=typer.echo, **options)
