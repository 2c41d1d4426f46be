"""``oodbench published``: figures that others published, with their sources."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.tables import Column, print_columns
from oodbench.errors import OptionError

if TYPE_CHECKING:
    from oodbench.results.published import Published

_WHICH, _SHOWN = "Which figures", "How they are shown"


def published_command(
    id_name: Annotated[
        str | None,
        typer.Option("--id", help="The ID set: cifar10.", rich_help_panel=_WHICH),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            "--detector",
            help="The detector, by its name here or in its source: knn.",
            rich_help_panel=_WHICH,
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            help="Those whose protocol and images agree with this benchmark's.",
            rich_help_panel=_WHICH,
        ),
    ] = None,
    wide: Annotated[
        bool,
        typer.Option("--wide", help="All columns, however wide that is.", rich_help_panel=_SHOWN),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print them as JSON.", rich_help_panel=_SHOWN)
    ] = False,
) -> None:
    """Show figures that papers and leaderboards print, with convention and source.

    Those that may stand beside rows measured here, as backbone, protocol and images agree, name
    the benchmark.
    """
    from oodbench.errors import did_you_mean
    from oodbench.results.published import chosen, figures

    published = chosen(id_name, detector, benchmark)
    if not published:
        known = {
            id_name: sorted({figure.id for figure in figures()}),
            detector: sorted({figure.detector or figure.name for figure in figures()}),
            benchmark: sorted({figure.benchmark for figure in figures() if figure.benchmark}),
        }
        near = "".join(
            did_you_mean(name, names)
            for name, names in known.items()
            if name is not None and name not in names
        )
        raise OptionError(
            f"no published figure is known of that.{near} `oodbench published` without options "
            "lists all."
        )
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(figure) for figure in published], indent=1))
        return
    shown = [
        ("detector", 0, [one.name for one in published]),
        ("network", 2, [one.network for one in published]),
        ("ID", 0, [one.id for one in published]),
        ("OOD", 0, [one.set for one in published]),
        ("figure", 0, [one.figure for one in published]),
        ("percent", 0, [_percent(one) for one in published]),
        ("convention; source", 0, [f"{one.convention}; {one.source}" for one in published]),
        ("here", 1, [one.benchmark or "–" for one in published]),
    ]
    names = {"detector", "network", "OOD", "convention; source"}
    columns = [Column(title, cells, rank, title in names) for title, rank, cells in shown]
    if left_out := print_columns(columns, wide=wide):
        typer.echo(f"--wide shows also: {', '.join(left_out)}")


def _percent(figure: Published) -> str:
    spread = "" if figure.spread is None else f" ± {100 * figure.spread:.2f}"
    return f"{figure.printed}{spread}"
