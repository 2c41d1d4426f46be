"""What there is: ``oodbench list``, ``info`` and ``data``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from oodbench.cli import terminal
from oodbench.cli.options import Debug
from oodbench.errors import OODBenchError
from oodbench.results.plain import visible

list_app = typer.Typer(help="Names of what is installed.", no_args_is_help=True)
data_app = typer.Typer(help="The datasets on this machine.", no_args_is_help=True)


def _list(kind: str) -> Callable[[], None]:
    def command() -> None:
        from oodbench import registry

        names = getattr(registry, kind.upper())
        width = max((len(name) for name in names.names()), default=0)
        for name in names.names():
            typer.echo(visible(f"{name:{width}}  {names.summary(name)}".rstrip()))

    command.__doc__ = f"Names of all {kind}, one a line."
    return command


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
    name: Annotated[str, typer.Argument(help="A detector, method, benchmark or dataset.")],
) -> None:
    """Paper, formula, needs, options with defaults, published figures, BibTeX."""
    from oodbench.info import describe

    typer.echo(visible(describe(name), keep="\n"))


@data_app.command("status")
def data_status() -> None:
    """Which datasets are on this machine, and how to get the others."""
    from oodbench import files
    from oodbench.benchmark import DatasetSpec
    from oodbench.data.samples import MultimodalSamples
    from oodbench.registry import DATASETS

    typer.echo(f"OODBENCH_DATA: {files.data_dir()}\nOODBENCH_CACHE: {files.cache_dir()}")
    for name in DATASETS.names():
        try:
            spec = DATASETS.get(name)
        except OODBenchError as error:  # one damaged package must not hide the others' data
            typer.echo(terminal.printable(f"{name}: {error}"))
            continue
        if not isinstance(spec, DatasetSpec):
            continue
        for split in spec.splits:
            try:
                samples = spec.load(split)
                word = "samples" if isinstance(samples, MultimodalSamples) else "images"
                state = f"{len(samples):,} {word}"
            except OODBenchError as error:
                state = str(error)
            except (Exception, SystemExit) as error:  # of a stranger's code
                state = f"cannot be read ({error!r})"
            typer.echo(terminal.printable(f"{name}/{split}: {state}"))


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="A family of datasets: multiood.")],
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
