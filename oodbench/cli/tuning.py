"""``oodbench tune``: options chosen on validation data."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.bringing import bring
from oodbench.cli.failures import leave_if_failed
from oodbench.cli.options import But
from oodbench.cli.parsing import chosen_detectors
from oodbench.cli.session import check_names, hardware_of, reporter, typed
from oodbench.cli.tables import show_trials
from oodbench.errors import OptionError
from oodbench.settings import (
    HardwareSettings,
    NetworkSettings,
    Reporting,
    Scoring,
    Selection,
    values,
)

if TYPE_CHECKING:
    from oodbench.tuning import Tuning


def tune_command(
    context: typer.Context,
    scoring: Annotated[Scoring, But(without=("tune",))],
    selection: Annotated[
        Selection,
        But(without=("ood",)),  # it is chosen on the benchmark's validation sets
    ],
    networks: NetworkSettings,
    hardware: HardwareSettings,
    reporting: Annotated[
        Reporting,
        But(
            without=("leaderboards", "pictures", "scores", "wide", "each_seed")
        ),  # there are no rows
    ],
) -> None:
    """Choose detectors' options on validation data alone; test images are never read."""
    check_names(selection, scoring, networks.method)
    from oodbench.benchmark import get_benchmark
    from oodbench.contenders import Networks
    from oodbench.hardware import is_first_process
    from oodbench.needed import needed
    from oodbench.selection import create_detectors
    from oodbench.tasks.task import task_of
    from oodbench.tune import tune

    benchmark = get_benchmark(selection.id, selection.benchmark, selection.task)
    detectors, fixed = chosen_detectors(scoring, benchmark, networks.method)
    machine = hardware_of(hardware, quiet=reporting.json)
    say = reporter(machine, quiet=reporting.json)
    made = create_detectors(detectors, networks.method, benchmark, scoring.preset)
    asked = Networks(**values(networks))
    task_of(benchmark, selection.task_options).check(benchmark, made)  # before data is fetched
    asked.check(benchmark, made)
    bring(
        needed(benchmark, tune=True, test=False),
        benchmark,
        selection.download,
        say,
        may_ask=not reporting.json,
        check=lambda: asked.check_inputs(benchmark, made, say, selection.task_options),
    )
    tuning = tune(
        benchmark,
        detectors,
        asked,
        fixed=fixed,
        hardware=machine,
        report=say,
        task_options=selection.task_options,
        fit_on=scoring.fit_on,
    )
    if not is_first_process(machine):
        return
    if not tuning.choices and not tuning.failures:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in tuning.untuned.items())
        raise OptionError(
            f"nothing to tune: {reasons}. `oodbench info NAME` tells a detector's grid."
        )
    again = ["oodbench", "eval", *typed(context, without=("json", "retrain"))]
    command = shlex.join([*again, *chosen_values(tuning)])
    if reporting.json:
        typer.echo(json.dumps({**tuning.to_dict(), "command": command}, indent=1))
    else:
        show_trials(tuning)
        say(f"evaluate: {command}")
        say(f"or, with rows that say how it was chosen: {shlex.join([*again, '--tune'])}")
    leave_if_failed(tuning.failures)


def chosen_values(tuning: Tuning) -> list[str]:
    """What was chosen, as options of ``eval``."""
    from oodbench.tune import word

    words = []
    for choice in tuning.choices:
        for name, value in choice.best.values.items():
            words += ["--set", f"{choice.original.label}.{name}={word(value)}"]
    return words
