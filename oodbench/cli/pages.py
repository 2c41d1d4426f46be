"""``oodbench leaderboard`` and ``oodbench table``: pages and tables of stored rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oodbench.cli import terminal
from oodbench.cli.options import But
from oodbench.cli.session import check_names
from oodbench.settings import OUTPUT, Reporting, Selection


def leaderboard(
    selection: Annotated[
        Selection,
        But(without=("ood", "task_options")),  # a page is of the benchmark as it is
    ],
    reporting: Annotated[
        Reporting, But(without=("pictures", "scores", "json", "wide", "each_seed"))
    ],
    pack: Annotated[
        bool,
        typer.Option(
            "--pack",
            help="Put its results into one compressed file, scores left out.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    release: Annotated[
        str | None,
        typer.Option(
            "--release",
            metavar="LICENCE",
            help="Put the networks of its rows that are in the cache beside the results, by name.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    html: Annotated[
        bool,
        typer.Option(
            "--html",
            help="Write one html file of all benchmarks with results, or of the one that is named: "
            "tables to sort and filter, plots, and each row's details.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Write NAME.whole.md instead, with every line and a table for each set.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="The html file. Default: board.html in the leaderboards' folder.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Write a benchmark's page and the csv of its lines, or one html page of all benchmarks."""
    check_names(selection)
    from oodbench import files
    from oodbench.benchmark import get_benchmark
    from oodbench.errors import OptionError
    from oodbench.results import leaderboard as pages
    from oodbench.results import networks
    from oodbench.results.store import ResultStore

    folder = files.user_path(reporting.leaderboards or "leaderboards")
    asked = (selection.id, selection.benchmark, selection.task)
    if html:
        if pack or whole or release is not None:
            raise OptionError(
                "--html writes a page and nothing else: leave --pack, --release, --whole out."
            )
        _write_board(folder, out, asked)
        return
    if out is not None:
        raise OptionError("--out is the file of --html; other pages stand beside the results.")
    benchmark = get_benchmark(*asked)
    store = ResultStore(folder)
    if release is not None:
        for name in networks.release(folder, store.rows(benchmark.name), benchmark, release):
            typer.echo(name)
    if pack:
        typer.echo(store.pack(benchmark.name))
    typer.echo(pages.write(benchmark, folder, whole=whole))


def _write_board(
    folder: Path, out: str | None, asked: tuple[str | None, str | None, str | None]
) -> None:
    from oodbench.benchmark import get_benchmark
    from oodbench.board.write import write

    chosen = get_benchmark(*asked) if any(asked) else None
    board = write(folder, out or folder / "board.html", chosen)
    for name, reason in board.left_out.items():
        typer.echo(terminal.printable(f"left out: {name}: {reason}"), err=True)
    typer.echo(board.path)


def table(
    selection: Annotated[Selection, But(without=("task_options", "download"))],
    reporting: Annotated[
        Reporting, But(without=("pictures", "scores", "json", "wide", "each_seed"))
    ],
    form: Annotated[
        str,
        typer.Option("--format", help="latex, csv or markdown.", rich_help_panel=OUTPUT),
    ] = "latex",
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="auroc, fpr95_id, fpr95_ood, aupr_in, aupr_out, by commas. Default: the "
            "benchmark's FPR@95 and AUROC.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", help="A file. Default: standard output.", rich_help_panel=OUTPUT),
    ] = None,
    bibtex: Annotated[
        str | None,
        typer.Option(
            "--bibtex", help="A file for the papers of its lines.", rich_help_panel=OUTPUT
        ),
    ] = None,
) -> None:
    """Write stored rows as the table of a paper: the best bold, the second underlined, ± seeds."""
    check_names(selection)
    from oodbench import files
    from oodbench.benchmark import get_benchmark
    from oodbench.results.arranged import sections
    from oodbench.results.papertable import paper_table
    from oodbench.results.store import ResultStore

    benchmark = get_benchmark(selection.id, selection.benchmark, selection.task)
    stored = ResultStore(reporting.leaderboards or "leaderboards").rows(benchmark.name)
    first = next(iter(sections(benchmark, stored)), [])
    made = paper_table(
        benchmark,
        first,
        sets=selection.ood,
        metrics=None if metrics is None else metrics.split(","),
    )
    text = made.to(form)  # type: ignore[arg-type]  # refused there
    if bibtex is not None:
        files.write_text(files.user_path(bibtex), "\n\n".join(made.bibtex) + "\n")
    if out is None:
        typer.echo(text, nl=False)
    else:
        files.write_text(files.user_path(out), text)
