"""``oodbench tune``: options chosen on validation data."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli import failures
from oodbench.cli.failures import leave_if_failed
from oodbench.cli.options import (
    LR,
    Accelerator,
    Backbone,
    BatchSize,
    BenchmarkName,
    Checkpoint,
    Debug,
    Devices,
    Epochs,
    Id,
    Json,
    Mean,
    Method,
    Option,
    Precision,
    Preset,
    RecipeName,
    RecipeSet,
    Retrain,
    Seed,
    Std,
    Strategy,
    TaskName,
    Workers,
)
from oodbench.cli.parsing import (
    chosen_detectors,
    floats,
    overrides_of,
    seeds_of,
    split_detectors,
)
from oodbench.cli.session import (
    hardware_of,
    reporter,
)
from oodbench.cli.tables import (
    show_trials,
)

if TYPE_CHECKING:
    from oodbench.tune import Tuning


def tune_command(
    detector: Annotated[
        list[str],
        typer.Option("--detector", help="Detectors, separated by commas: knn,react; or all."),
    ],
    id_name: Id = None,
    benchmark: BenchmarkName = None,
    task: TaskName = None,
    option: Option = None,
    preset: Preset = None,
    method: Method = None,
    recipe: RecipeName = None,
    recipe_set: RecipeSet = None,
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    mean: Mean = None,
    std: Std = None,
    seed: Seed = "0",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LR = None,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    precision: Precision = "32-true",
    workers: Workers = None,
    retrain: Retrain = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Choose detectors' options on validation data alone; test images are never read."""
    failures.show_traceback(debug)
    from oodbench.benchmark import get_benchmark
    from oodbench.contenders import (
        Networks,
    )
    from oodbench.errors import OptionError
    from oodbench.hardware import is_first_process
    from oodbench.tune import tune

    chosen = get_benchmark(id_name, benchmark, task)
    detectors, fixed = chosen_detectors(
        split_detectors(detector), option or [], chosen, method, preset
    )
    networks = Networks(
        method=method,
        recipe=recipe,
        recipe_options=overrides_of(recipe_set, epochs, batch_size, lr),
        backbone=backbone,
        checkpoint=checkpoint,
        seeds=tuple(seeds_of(seed)),
        retrain=retrain,
        mean=floats(mean, "--mean"),
        std=floats(std, "--std"),
    )
    hardware = hardware_of(accelerator, devices, strategy, precision, workers, as_json)
    say = reporter(hardware, as_json)
    tuning = tune(chosen, detectors, networks, fixed=fixed, hardware=hardware, report=say)
    if not is_first_process(hardware):
        return
    if not tuning.choices and not tuning.failures:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in tuning.untuned.items())
        raise OptionError(
            f"nothing to tune: {reasons}. `oodbench info NAME` tells a detector's grid."
        )
    command = eval_command_line(tuning)
    if as_json:
        typer.echo(json.dumps({**tuning.to_dict(), "command": command}, indent=1))
    else:
        show_trials(tuning)
        say(f"evaluate: {command}")
        say(f"or, with rows that say how it was chosen: {eval_command_line(None)}")
    leave_if_failed(tuning.failures)


def eval_command_line(tuning: Tuning | None) -> str:
    """This `tune` command line as one of `eval`: with the chosen values, or with --tune."""
    from oodbench.tune import word

    words = [w for w in sys.argv[1:] if w not in ("--json", "--retrain", "--debug")]
    words[words.index("tune")] = "eval"
    if tuning is None:
        return shlex.join(["oodbench", *words, "--tune"])
    for choice in tuning.choices:
        for name, value in choice.best.values.items():
            words += ["--set", f"{choice.given.label}.{name}={word(value)}"]
    return shlex.join(["oodbench", *words])
