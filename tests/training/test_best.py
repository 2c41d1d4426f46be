"""The epoch that a run keeps: the best on ID validation data, which nothing else looks at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from oodbench import Benchmark, metrics
from oodbench.detectors.a2d import A2D
from oodbench.errors import OptionError
from oodbench.extract import extract
from oodbench.training.best import BestEpoch
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.vectors import CPU, PREPROCESS, Vectors, interrupt


def with_val(toy: Benchmark) -> Benchmark:
    """The same with a validation split."""
    load = toy.id.load

    def loaded(split: str) -> Vectors:
        if split != "val":
            return load(split)  # type: ignore[return-value]
        return Vectors("pair/val", 90, 5)

    return replace(toy, id=replace(toy.id, load=loaded, splits=("train", "val", "test")))


def accuracies(monkeypatch: pytest.MonkeyPatch, found: list[float]) -> None:
    """What looking at validation data finds, epoch by epoch, instead of what it would find."""

    def look(self: BestEpoch, trainer: Any, method: Any) -> float:
        return found[trainer.current_epoch]

    monkeypatch.setattr(BestEpoch, "_look", look)


@pytest.mark.parametrize(
    ("found", "best"), [([0.5, 0.9, 0.7, 0.8], 2), ([0.5, 0.9, 0.9, 0.1], 3), ([0.0] * 4, 4)]
)
def test_the_best_epoch_is_kept_and_the_latest_of_equal_ones(
    toy: Benchmark, monkeypatch: pytest.MonkeyPatch, found: list[float], best: int
) -> None:
    options = {"epochs": 4, "batch_size": 32, "lr": 0.01, "schedule": "step", "keep": "best"}
    bench = with_val(toy)
    accuracies(monkeypatch, found)
    run = plan(bench, "a2d", recipe="quick", overrides=options)
    kept = train(run, CPU)
    assert f"best epoch {best} of 4" in kept.summary
    assert f"validation accuracy {100 * max(found):.2f} %" in kept.summary
    as_long = {**options, "epochs": best, "keep": "last"}
    last = train(plan(bench, "a2d", recipe="quick", overrides=as_long), CPU).state_dict()
    for name, value in kept.state_dict().items():
        assert torch.equal(value, last[name]), name
    log = (run.folder / "csv" / "metrics.csv").read_text().splitlines()
    where = log[0].split(",").index("val/accuracy")
    assert [float(line.split(",")[where]) for line in log[1:]] == found


def test_what_is_looked_at_is_the_validation_set_as_it_is_tested(toy: Benchmark) -> None:
    options = {"epochs": 2, "batch_size": 32, "lr": 0.003, "keep": "best", "dropout": 0.5}
    bench = with_val(toy)
    run = plan(bench, "multimodal-ce", recipe="quick", overrides=options)
    method = train(run, CPU)
    outputs = extract(method, bench.id.load("val"), PREPROCESS, hardware=CPU)
    right = metrics.accuracy(outputs.logits, outputs.labels)
    assert f"validation accuracy {100 * right:.2f} %" in method.summary
    again = train(run, CPU)  # from its folder
    assert again.summary == method.summary


def test_looking_changes_nothing_of_the_training(toy: Benchmark) -> None:
    options = {"epochs": 3, "batch_size": 32, "lr": 0.003, "dropout": 0.5}
    bench = with_val(toy)
    runs = [
        plan(bench, "a2d-npmix", recipe="quick", overrides={**options, "keep": keep})
        for keep in ("best", "last")
    ]
    losses = []
    for run in runs:
        train(run, CPU)
        rows = (run.folder / "csv" / "metrics.csv").read_text().splitlines()
        where = rows[0].split(",").index("train/loss")
        losses.append([row.split(",")[where] for row in rows])
    assert losses[0] == losses[1]


def test_a_run_that_keeps_its_best_ends_the_same_after_a_kill(
    toy: Benchmark, new_cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best is before the kill, so it has to be remembered."""
    options = {"epochs": 4, "batch_size": 32, "lr": 0.01, "keep": "best", "dropout": 0.5}
    bench = with_val(toy)
    accuracies(monkeypatch, [0.5, 0.9, 0.7, 0.8])
    run = plan(bench, "a2d", recipe="quick", overrides=options)
    whole = train(run, CPU)
    new_cache()
    interrupt(run, A2D, epoch=4)
    again = train(run, CPU)
    assert again.summary == whole.summary
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_without_validation_data_the_best_is_refused(toy: Benchmark) -> None:
    for name in ("multimodal-ce", "a2d", "npmix", "a2d-npmix"):
        with pytest.raises(OptionError, match=r"validation split, which pair has not.*keep=last"):
            plan(toy, name, recipe="quick", overrides={"keep": "best"})
        assert plan(toy, name, recipe="quick").validation is None


def test_validation_data_are_part_of_the_key(toy: Benchmark) -> None:
    bench = with_val(toy)
    other = replace(
        bench,
        id=replace(
            bench.id,
            load=lambda s: Vectors("pair/val", 60, 9) if s == "val" else toy.id.load(s),
        ),
    )
    keys = {
        keep: [plan(b, "a2d", recipe="quick", overrides={"keep": keep}).key for b in (bench, other)]
        for keep in ("best", "last")
    }
    assert keys["best"][0] != keys["best"][1]
    assert keys["last"][0] == keys["last"][1]
