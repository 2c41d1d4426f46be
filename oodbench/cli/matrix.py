"""``oodbench matrix``: many networks, seeds and benchmarks, here or on a cluster."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oodbench.cli.examples import examples
from oodbench.cli.failures import leave_if_failed
from oodbench.cli.tables import print_table
from oodbench.errors import OptionError

if TYPE_CHECKING:
    from oodbench.scale.records import Record

matrix_app = typer.Typer(
    name="matrix",
    help="Evaluate detectors on many networks, seeds and benchmarks: the cells of a TOML file.",
    no_args_is_help=True,
)

File = Annotated[str, typer.Argument(metavar="MATRIX", help="The matrix: a TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable results alone.")]
Leaderboards = Annotated[
    str,
    typer.Option(
        "--leaderboards",
        envvar="OODBENCH_LEADERBOARDS",
        help="Folder of the result rows and pages.",
    ),
]


def plan(matrix: File, as_json: Json = False) -> None:
    """Say which cells there are, what each costs, and what is done. Nothing is run."""
    from oodbench.scale.driver import cost_of
    from oodbench.scale.matrix import read_matrix
    from oodbench.scale.records import read_all

    asked = read_matrix(matrix)
    costs = [cost_of(cell) for cell in asked.cells]
    found = read_all(asked)
    if as_json:
        made = [
            {**dataclasses.asdict(cost), "cell": cost.cell.to_json(), "state": record.state}
            for cost, record in zip(costs, found, strict=True)
        ]
        typer.echo(json.dumps({"cells": made}, indent=1))
        return
    header = ["benchmark", "network", "seed", "detectors", "images", "training", "state"]
    cells = [
        [
            cost.cell.benchmark,
            ", ".join(part for part in (cost.cell.method, cost.cell.backbone) if part) or "-",
            str(cost.cell.seed),
            str(cost.detectors),
            str(cost.images),
            cost.problem or cost.training or "none",
            record.state,
        ]
        for cost, record in zip(costs, found, strict=True)
    ]
    print_table(header, cells, wide=True)
    typer.echo(_summary(found))


def run(
    matrix: File,
    engine: Annotated[
        str, typer.Option("--engine", help="What cells run on: local, ray or slurm.")
    ] = "local",
    jobs: Annotated[
        int, typer.Option("--jobs", min=0, help="Cells at a time. Default: the engine's choice.")
    ] = 0,
    device: Annotated[
        str, typer.Option("--device", help="CUDA devices of this machine, one a cell: 0,1.")
    ] = "",
    engine_set: Annotated[
        list[str] | None,
        typer.Option("--engine-set", help="The engine's own: num_gpus=1, slurm_partition=NAME …"),
    ] = None,
    retries: Annotated[
        int, typer.Option("--retries", min=0, help="How often a cell that fails is tried again.")
    ] = 1,
    leaderboards: Leaderboards = "leaderboards",
    as_json: Json = False,
) -> None:
    """Run the cells that are not done. The same command goes on where it was stopped."""
    from oodbench import files
    from oodbench.scale.driver import run_matrix
    from oodbench.scale.engines import create_engine
    from oodbench.scale.matrix import read_matrix

    asked = read_matrix(matrix)
    devices = [part for part in device.split(",") if part]
    made = create_engine(engine, asked.folder, jobs, _pairs(engine_set or []), devices)
    folder = files.user_path(leaderboards).resolve()
    say = (lambda _: None) if as_json else typer.echo
    found = run_matrix(asked, made, folder, retries=retries, report=say)
    _tell(found, as_json)
    leave_if_failed(_failures(found))


def status(matrix: File, as_json: Json = False) -> None:
    """Say what is done, what failed and why, and about how long the rest will take."""
    from oodbench.scale.matrix import read_matrix
    from oodbench.scale.records import read_all

    _tell(read_all(read_matrix(matrix)), as_json)


def merge(
    matrix: File,
    folders: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER...", help="Leaderboards or records of other machines."),
    ],
    leaderboards: Leaderboards = "leaderboards",
) -> None:
    """Take over results and records of machines that share no file system with this one."""
    from oodbench import files
    from oodbench.scale.driver import merge as take_over
    from oodbench.scale.matrix import read_matrix

    asked = read_matrix(matrix)
    sources: list[Path] = [files.user_path(folder) for folder in folders]
    results, cells = take_over(asked, sources, files.user_path(leaderboards))
    typer.echo(f"{results} results and {cells} cells came in that were not here")


def _pairs(texts: list[str]) -> dict[str, Any]:
    """Options as ``NAME=VALUE``, whole numbers and decimals as such."""
    pairs: dict[str, Any] = {}
    for text in texts:
        name, is_pair, value = text.partition("=")
        if not name or not is_pair:
            raise OptionError(f"--engine-set {text}: give NAME=VALUE.")
        for kind in (int, float, str):
            try:
                pairs[name] = kind(value)
                break
            except ValueError:
                continue
    return pairs


def _failures(found: list[Record]) -> dict[str, str]:
    return {one.cell.name: one.reason for one in found if one.reason}


def _summary(found: list[Record]) -> str:
    from oodbench.scale.records import seconds_left

    counts = Counter(one.state for one in found)
    text = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    left = seconds_left(found)
    if left:
        text += f"; about {left / 60:.0f} minutes are left, one cell after the other"
    return f"{len(found)} cells: {text}"


def _tell(found: list[Record], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"cells": [one.to_json() for one in found]}, indent=1))
        return
    for one in found:
        if one.reason:
            typer.echo(f"{one.state}: {one.cell.name} ({one.attempts} times): {one.reason}")
    typer.echo(_summary(found))


for _command in (plan, run, status, merge):
    matrix_app.command(epilog=examples(f"matrix {_command.__name__}"))(_command)
