"""What there is: ``oodbench list`` and ``info``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from oodbench.cli import catalogue
from oodbench.results.plain import visible

list_app = typer.Typer(help="Names of what is installed.", no_args_is_help=True)


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


@list_app.command("networks")
def networks() -> None:
    """Names of the zoo's networks, and what each is."""
    from oodbench import zoo

    for name, one in sorted(zoo.index().items()):
        accuracy = "" if one.accuracy is None else f", accuracy {100 * one.accuracy:.2f} %"
        recipe = f" ({one.recipe})" if one.recipe else ""
        where = "here" if one.is_here else one.url or f"leaderboards/networks/{one.file}"
        typer.echo(visible(f"{name}: {one.method}{recipe}{accuracy}; {one.licence}; {where}"))


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
