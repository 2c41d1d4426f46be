"""How far work is, as bars and lines say it: of the whole run, at the pace of what was done."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from oodbench.hardware import Hardware
from oodbench.runtime import progress
from oodbench.runtime.progress import BETWEEN_LINES, PATIENCE, WorkProgress


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def trainer(epoch: int = 0, **more: Any) -> Any:
    loss = {"train/loss": torch.tensor(0.25)}
    return SimpleNamespace(
        num_training_batches=10, max_epochs=4, current_epoch=epoch, callback_metrics=loss,
        world_size=1, is_global_zero=True, num_predict_batches=[10], **more,
    )  # fmt: skip


def batch() -> Any:
    return {"images": torch.zeros(8, 3), "labels": torch.zeros(8)}


def train(work: WorkProgress, clock: Clock, first: int, seconds: float, batches: int) -> None:
    """Some batches of a run that goes on with an epoch, each of so many seconds."""
    module: Any = None
    work.on_train_start(trainer(first), module)
    for number in range(batches):
        clock.now += seconds
        at = trainer(first + number // 10)
        work.on_train_batch_end(at, module, None, batch(), number)
        if number % 10 == 9:
            work.on_train_epoch_end(at, module)


def test_a_line_a_minute_tells_epoch_loss_speed_and_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    train(WorkProgress("ce, seed 0", bar=False, clock=clock), clock, 0, 4.0, 31)
    lines = capsys.readouterr().err.splitlines()
    # after 60 s: 15 of 40 batches, 25 of 4 s are left, 8 samples in 4 s; after 120 s 30 of 40
    assert lines == [
        "ce, seed 0: epoch 2 of 4, loss 0.250, 2 samples/s, 38 %, 0:01:40 left",
        "ce, seed 0: epoch 3 of 4, loss 0.250, 2 samples/s, 75 %, 0:00:40 left",
    ]


def test_a_run_that_goes_on_counts_what_it_did_itself(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    train(WorkProgress("ce", bar=False, clock=clock), clock, 2, 10.0, 6)
    (line,) = capsys.readouterr().err.splitlines()
    # 26 of 40 are done, of which 6 here in 60 s: 14 times 10 s
    assert "epoch 3 of 4" in line
    assert "65 %, 0:02:20 left" in line


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    assert BETWEEN_LINES >= 60
    for bar in (True, False):
        train(WorkProgress("ce", bar, clock), clock, 0, PATIENCE / 50, 40)
    assert capsys.readouterr().err == ""


def test_a_bar_is_drawn_after_a_while_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    clock = Clock()
    work = WorkProgress("outputs of cifar10/test", bar=True, clock=clock)
    work.on_predict_start(trainer(), None)  # type: ignore[arg-type]
    for number in range(10):
        clock.now += 1
        work.on_predict_batch_end(trainer(), None, None, batch(), number)  # type: ignore[arg-type]
    assert work.shown is not None
    task = work.shown.tasks[0]
    assert (task.completed, task.total) == (10, 10)
    assert task.description == "outputs of cifar10/test, 8 samples/s"
    work.on_exception(trainer(), None, KeyboardInterrupt())  # type: ignore[arg-type]
    assert work.shown is None
    assert "outputs of cifar10/test" in drawn.getvalue()


def test_one_process_of_several_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    work = WorkProgress("ce", bar=False, clock=clock)
    other = trainer()
    other.is_global_zero = False
    work.on_train_start(other, None)  # type: ignore[arg-type]
    clock.now += 2 * BETWEEN_LINES
    work.on_train_batch_end(other, None, None, batch(), 0)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("asked", "terminal", "bars"),
    [(True, False, [True]), (False, True, []), (None, True, [True]), (None, False, [False])],
)
def test_who_asks_for_what(
    asked: bool | None, terminal: bool, bars: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oodbench.hardware.has_terminal", lambda: terminal)
    made = Hardware("cpu", progress=asked).trainer(what="ce", logger=False)
    callbacks: list[Any] = made.callbacks  # type: ignore[attr-defined]
    assert [one.bar for one in callbacks if isinstance(one, WorkProgress)] == bars
    assert not any("ProgressBar" in type(one).__name__ for one in callbacks)
    silent = Hardware("cpu", progress=asked).trainer(logger=False)
    assert not any(isinstance(one, WorkProgress) for one in silent.callbacks)  # type: ignore[attr-defined]


def test_a_terminal_is_where_standard_error_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert not progress.has_terminal()
