"""``oodbench plot``: pictures of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.options import Debug
from oodbench.errors import OptionError

if TYPE_CHECKING:
    from oodbench.results.stored import StoredResult

plot_app = typer.Typer(
    help="Pictures of results: PNG, SVG or PDF, as the file's ending says.", no_args_is_help=True
)

Result = Annotated[
    list[str],
    typer.Argument(metavar="RESULT…", help="Files of a leaderboards folder: results/…/NAME.json."),
]
Out = Annotated[str, typer.Option("--out", help="The picture: FILE.png, .svg or .pdf.")]


@plot_app.command("histogram")
def plot_histogram(
    result: Annotated[str, typer.Argument(metavar="RESULT", help="A file: results/…/NAME.json.")],
    out: Out,
    tpr: Annotated[
        float, typer.Option("--tpr", help="Share of ID images that the drawn threshold keeps.")
    ] = 0.95,
    debug: Debug = False,  # noqa: ARG001  (its callback has seen it)
) -> None:
    """A detector's scores on the ID test set and on each OOD set, with the threshold."""
    from oodbench.results import plots

    if not 0 < tpr < 1:
        raise OptionError(f"`tpr` is a share between 0 and 1, not {tpr}.")
    plots.check_path(out)
    typer.echo(plots.save(plots.histogram(_read([result])[0], tpr), out))


@plot_app.command("roc")
def plot_roc(
    results: Result,
    out: Out,
    ood: Annotated[
        str | None, typer.Option("--ood", help="The OOD set, where several results are drawn.")
    ] = None,
    debug: Debug = False,  # noqa: ARG001  (its callback has seen it)
) -> None:
    """ROC curves: one result on all of its OOD sets, or several results on one of them."""
    from oodbench.results import plots

    plots.check_path(out)
    typer.echo(plots.save(plots.roc(_read(results), ood), out))


@plot_app.command("near-far")
def plot_near_far(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="Such as cifar10.")],
    out: Out,
    leaderboards: Annotated[
        str,
        typer.Option(
            "--leaderboards", help="Folder of the results.", envvar="OODBENCH_LEADERBOARDS"
        ),
    ] = "leaderboards",
    debug: Debug = False,  # noqa: ARG001  (its callback has seen it)
) -> None:
    """Every detector's AUROC on near OOD against that on far OOD."""
    from oodbench.registry import BENCHMARKS

    BENCHMARKS.require(benchmark)
    from oodbench.benchmark import get_benchmark
    from oodbench.results import plots
    from oodbench.results.arranged import sections
    from oodbench.results.store import ResultStore

    plots.check_path(out)
    which = get_benchmark(benchmark=benchmark)
    parts = sections(which, ResultStore(leaderboards).rows(which.name))
    if not parts:
        raise OptionError(
            f"there are no results of {which.name} in {leaderboards}. Run `oodbench eval` first."
        )
    typer.echo(plots.save(plots.near_far(which, parts[0]), out))


def _read(paths: list[str]) -> list[StoredResult]:
    from oodbench import files
    from oodbench.results import stored

    chosen: list[Path] = [files.user_path(path) for path in paths]
    for path in chosen:
        if not path.is_file():
            raise OptionError(f"there is no result {path}. Results are files results/…/NAME.json.")
    return [stored.read(path) for path in chosen]
