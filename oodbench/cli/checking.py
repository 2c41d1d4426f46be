"""``oodbench check-network``: whether a network is fed as it was trained."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from oodbench.cli.options import But
from oodbench.cli.session import hardware_of, reporter
from oodbench.settings import OF_TRAINING, HardwareSettings, NetworkSettings, values


def check_network(
    networks: Annotated[NetworkSettings, But(without=OF_TRAINING)],
    hardware: HardwareSettings,
    id: Annotated[  # noqa: A002
        str | None, typer.Option("--id", help="The ID set that it was trained on.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", help="Another protocol, such as cifar100/palm.")
    ] = None,
    images: Annotated[
        int, typer.Option("--images", help="ID test images that are tried.", min=30)
    ] = 500,
    json_: Annotated[
        bool, typer.Option("--json", help="Print machine-readable results alone.")
    ] = False,
) -> None:
    """Try a given network on ID images as it is fed, and as the usual mistakes would feed it."""
    from oodbench.checking import check_network as check
    from oodbench.cli.flags import as_flags

    machine = hardware_of(hardware, quiet=json_)
    asked = {name: value for name, value in values(networks).items() if name not in OF_TRAINING}
    result = check(
        id=id,
        benchmark=benchmark,
        images=images,
        hardware=machine,
        report=reporter(machine, quiet=json_),
        **asked,
    )
    if json_:
        record = dataclasses.asdict(result)
        for other in record["alternatives"]:
            is_number = other["accuracy"] == other["accuracy"]
            other["accuracy"] = other["accuracy"] if is_number else None
        typer.echo(json.dumps(record, indent=1, default=str))
    else:
        typer.echo(as_flags(str(result)))
    if not result:
        raise typer.Exit(1)
