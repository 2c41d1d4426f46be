"""Every training method on two processes: two epochs each, on a few drawn samples."""

from __future__ import annotations

import dataclasses
import functools
import json
import traceback
from pathlib import Path
from typing import Any

import oodbench
from oodbench import Hardware
from oodbench.caching.fingerprint import code_digest
from oodbench.registry import METHODS
from oodbench.testing.drawn import drawn_benchmark
from oodbench.training.frozen import FrozenMethod
from oodbench.training.run import Run, plan
from oodbench.training.train import train
from tests.helpers.distributed import be_one_of_two

SMALL = {
    "epochs": 2,
    "batch_size": 6,
    "warmup_epochs": 0,
    "start_epoch": 1,
    "queue_size": 3,
    "neighbours": 1,
    "k": 2,
    "select": 2,
    "pick_nums": 1,
    "sample_from": 8,
    "per_point": 2,
    "lr": 0.01,
}
"""Of each recipe those that it has: what comes late comes in the second epoch."""

FIRST_EPOCHS = 2
"""Of the training with cross-entropy that another one starts from."""

SMALL_BACKBONES = {"locoop": "digits-towers"}
"""Of methods whose own backbone has published weights, which are not here."""


def names() -> list[str]:
    """The methods that are trained image by image."""
    every = oodbench.list_methods()
    return [name for name in every if not issubclass(METHODS.get(name), FrozenMethod)]


def planned(name: str, outliers: Path) -> Run:
    """A method's run on a few drawn samples."""
    cls = METHODS.get(name)
    benchmark = dataclasses.replace(drawn_benchmark(cls.task), standard_method=name)
    recipe = cls.default_recipe("drawn")
    known = {field.name for field in dataclasses.fields(cls.get_recipe(recipe))}
    own: dict[str, Any] = {key: value for key, value in SMALL.items() if key in known}
    if cls.auxiliary:
        own[cls.auxiliary] = f"folder:{outliers}"
    backbone = SMALL_BACKBONES.get(name)
    return plan(benchmark, name, recipe=recipe, backbone=backbone, overrides=own)


def _trained(run: Run, hardware: Hardware) -> str:
    """What went wrong in training a method; ``""`` for nothing."""
    try:
        method = train(run, hardware)
    except Exception:
        return traceback.format_exc()[-2000:]
    state = {name: value.double() for name, value in method.state_dict().items()}
    wrong = [name for name, value in state.items() if not value.isfinite().all()]
    return f"not finite: {', '.join(wrong)}" if wrong else ""


def every_method(rank: int, port: int, folder: str) -> None:
    """Be one of two processes that train each method; note what became of it."""
    be_one_of_two(rank, port)
    root = Path(folder)
    ce = METHODS.get("ce")
    quick = dataclasses.replace(ce.recipes["quick"], epochs=FIRST_EPOCHS, warmup_epochs=0)
    ce.recipes = {**ce.recipes, "quick": quick}
    hardware = Hardware("cpu", "2", "ddp", workers=0)
    told = {name: _trained(planned(name, root / "outliers"), hardware) for name in names()}
    (root / f"told{rank}.json").write_text(json.dumps(told))


@functools.cache
def _described() -> None:
    """What methods are made of is read once, not by each process."""
    for name in names():
        code_digest(METHODS.get(name))


every_method.before = _described  # type: ignore[attr-defined]
