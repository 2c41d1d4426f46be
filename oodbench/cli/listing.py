"""What there is: ``oodbench list``, ``info`` and ``data``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from oodbench.cli import catalogue
from oodbench.cli.options import Debug
from oodbench.results.plain import visible

list_app = typer.Typer(help="Names of what is installed.", no_args_is_help=True)
data_app = typer.Typer(help="The datasets on this machine.", no_args_is_help=True)


def _list(kind: str) -> Callable[[], None]:
    def command() -> None:
        from oodbench import registry

        names = getattr(registry, kind.upper())
        if not catalogue.is_terminal():
            for line in catalogue.list_lines(names):
                typer.echo(line)
            return
        catalogue.print_list(names, _console())

    command.__doc__ = f"Names of all {kind}, and what each is."
    return command


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


KINDS = (
    "detectors",
    "methods",
    "benchmarks",
    "datasets",
    "backbones",
    "tasks",
    "measures",
    "needs",
    "preparations",
)
for _kind in KINDS:
    list_app.command(_kind)(_list(_kind))


def info(
    name: Annotated[
        str,
        typer.Argument(
            help="A detector, method, benchmark, dataset, backbone, task … or whatever has a name."
        ),
    ],
) -> None:
    """Paper, formula, needs, options with defaults, published figures, BibTeX."""
    from oodbench.info import describe, sheets

    if catalogue.is_terminal():
        catalogue.print_sheets(sheets(name), _console())
    else:
        typer.echo(visible(describe(name), keep="\n"))


@data_app.command("status")
def data_status() -> None:
    """Which datasets are on this machine, and which are not."""
    from oodbench import files
    from oodbench.info import states
    from oodbench.registry import DATASETS

    typer.echo(f"OODBENCH_DATA: {files.data_dir()}\nOODBENCH_CACHE: {files.cache_dir()}")
    if catalogue.is_terminal():
        catalogue.print_status(states(), DATASETS.summary, _console())
        return
    for line in catalogue.status_lines(states()):
        typer.echo(line)


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="A family of datasets: oodbench list preparations.")],
    flow: Annotated[
        str | None,
        typer.Option("--flow", help="Compute missing optical flow with RAFT: small or large."),
    ] = None,
    debug: Debug = False,  # noqa: ARG001  (its callback has seen it)
) -> None:
    """Fetch what may be fetched, derive what can be derived, and list what is missing."""
    from oodbench import files
    from oodbench.registry import PREPARATIONS

    options = {} if flow is None else {"flow": flow}
    PREPARATIONS.get(name)(files.data_dir(), report=typer.echo, **options)
