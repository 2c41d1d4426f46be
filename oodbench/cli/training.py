"""``oodbench train``."""

from __future__ import annotations

from typing import Annotated

import typer

from oodbench.cli import failures
from oodbench.cli.options import (
    LR,
    Accelerator,
    Backbone,
    BatchSize,
    BenchmarkName,
    Debug,
    Devices,
    Epochs,
    Id,
    Precision,
    RecipeName,
    RecipeSet,
    Retrain,
    Seed,
    Strategy,
    TaskName,
    Workers,
)
from oodbench.cli.parsing import (
    overrides_of,
    seeds_of,
)
from oodbench.cli.session import (
    hardware_of,
    reporter,
)


def train(
    method: Annotated[str, typer.Option("--method", help="How to train: ce, palm …")],
    id_name: Id = None,
    benchmark: BenchmarkName = None,
    task: TaskName = None,
    recipe: RecipeName = None,
    recipe_set: RecipeSet = None,
    backbone: Backbone = None,
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
    debug: Debug = False,
) -> None:
    """Train a method on an ID set; the run stays in the cache, where `eval` finds it."""
    failures.show_traceback(debug)
    from oodbench.benchmark import get_benchmark
    from oodbench.training.train import plan
    from oodbench.training.train import train as fit

    chosen = get_benchmark(id_name, benchmark, task)
    hardware = hardware_of(accelerator, devices, strategy, precision, workers, False)
    say = reporter(hardware, False)
    for one in seeds_of(seed):
        run = plan(
            chosen,
            method,
            recipe=recipe,
            backbone=backbone,
            seed=one,
            overrides=overrides_of(recipe_set, epochs, batch_size, lr),
            precision=precision,
        )
        fit(run, hardware, retrain=retrain)
        say(f"weights: {run.weights}; logs: {run.folder / 'csv'} and {run.folder / 'tensorboard'}")
