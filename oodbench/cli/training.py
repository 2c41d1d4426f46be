"""``oodbench train``."""

from __future__ import annotations

from typing import Annotated

from oodbench.cli.bringing import bring
from oodbench.cli.options import But
from oodbench.cli.session import check_names, hardware_of, reporter
from oodbench.settings import OF_TEXT, PREPROCESSING, HardwareSettings, NetworkSettings, Selection


def train(
    networks: Annotated[
        NetworkSettings,
        But(
            # A checkpoint and its normalisation are of a network that was trained elsewhere.
            without=("checkpoint", "network", "layer", *OF_TEXT, *PREPROCESSING),
            required=("method",),
            help={"method": "How to train: ce, palm …"},
        ),
    ],
    selection: Annotated[
        Selection,
        But(without=("ood", "task_options")),  # nothing is scored
    ],
    hardware: HardwareSettings,
) -> None:
    """Train a method on an ID set; the run stays in the cache, where `eval` finds it."""
    check_names(selection, method=networks.method)
    from oodbench.benchmark import get_benchmark
    from oodbench.contenders import Networks
    from oodbench.needed import needed
    from oodbench.training.run import plan
    from oodbench.training.train import train as fit

    benchmark = get_benchmark(selection.id, selection.benchmark, selection.task)
    machine = hardware_of(hardware, quiet=False)
    say = reporter(machine, quiet=False)
    asked = Networks(method=networks.method, recipe_options=networks.recipe_options)
    wanted = needed(benchmark, networks=asked, test=False)
    bring(wanted, benchmark, selection.download, say)
    for seed in networks.seeds:
        run = plan(
            benchmark,
            networks.method or "",
            recipe=networks.recipe,
            backbone=networks.backbone,
            seed=seed,
            overrides=networks.recipe_options,
            precision=machine.numbers,
        )
        fit(run, machine, retrain=networks.retrain)
        # a line each, so that paths of any length are copied whole
        for what in ("csv", "tensorboard"):
            say(f"log: {run.folder / what}")
        say(f"weights: {run.weights}")
