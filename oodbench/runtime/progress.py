"""How far a training run, or a network's pass over samples, has come: a bar, or a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch.utils._pytree import tree_leaves

PATIENCE = 3.0
"""Seconds that work takes before a bar is shown: what is done sooner needs none."""
BETWEEN_LINES = 60.0
"""Seconds between two lines, where there is no terminal to draw a bar on."""


def has_terminal() -> bool:
    """Whether a bar can be drawn: standard error is a terminal, or this is a notebook."""
    return Console(stderr=True).is_terminal or Console().is_jupyter


class WorkProgress(pl.Callback):
    """Says how far Lightning's trainer is: epoch of epochs, loss, speed, time left.

    The time left is that of the whole run, of all its epochs. On a terminal it is a bar, drawn
    once the work has taken ``PATIENCE`` seconds, that goes when the work is done; elsewhere a line
    on standard error every ``BETWEEN_LINES`` seconds.

    Args:
        what: what is done, as people call it: ``"ce, seed 0"``.
        bar: whether to draw a bar.
        clock: seconds that pass.
    """

    def __init__(self, what: str, bar: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self.bar, self.clock = what, bar, clock
        self.begun = self.said = clock()
        self.before = self.done = self.total = self.samples = 0
        self.figures = ""
        self.shown: Progress | None = None

    # training

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count what is to be done; epochs of before an interruption are not."""
        batches = int(trainer.num_training_batches)
        self._begin(trainer, batches * (trainer.max_epochs or 1), batches * trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        """One batch is done."""
        epochs = trainer.max_epochs or 1
        self._advance(trainer, batch, f"epoch {trainer.current_epoch + 1} of {epochs}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The epoch's means are known."""
        # read here and not after each batch, since that waits for the device
        loss = trainer.callback_metrics.get("train/loss")
        self.figures = "" if loss is None else f", loss {float(loss):.3f}"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The bar goes."""
        self._end()

    # a pass over samples

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count what is to be done."""
        self._begin(trainer, int(sum(trainer.num_predict_batches)), 0)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, i: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """One batch is done."""
        self._advance(trainer, batch, "")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The bar goes."""
        self._end()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """The bar goes before the error is said."""
        self._end()

    def _begin(self, trainer: pl.Trainer, total: int, before: int) -> None:
        self.begun = self.said = self.clock()
        self.total, self.before, self.done, self.samples = total, before, before, 0

    def _advance(self, trainer: pl.Trainer, batch: Any, where: str) -> None:
        self.done += 1
        self.samples += _size(batch) * trainer.world_size
        if not trainer.is_global_zero:
            return
        now = self.clock()
        text = f"{self.what}{': ' if where else ''}{where}{self.figures}{self._speed(now)}"
        if self.bar:
            self._draw(text, now)
        elif now - self.said >= BETWEEN_LINES:
            self.said = now
            share = f"{100 * self.done / max(self.total, 1):.0f} %"
            sys.stderr.write(f"{text}, {share}, {self._left(now)} left\n")
            sys.stderr.flush()

    def _speed(self, now: float) -> str:
        passed = now - self.begun
        return f", {self.samples / passed:,.0f} samples/s" if passed >= 1 else ""

    def _left(self, now: float) -> str:
        """The time that the rest takes at the pace of what was done here."""
        pace = (now - self.begun) / max(self.done - self.before, 1)
        seconds = int(pace * max(self.total - self.done, 0))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _draw(self, text: str, now: float) -> None:
        if self.shown is None and now - self.begun < PATIENCE:
            return
        if self.shown is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TimeRemainingColumn(),
            )
            console = Console() if Console().is_jupyter else Console(stderr=True)
            self.shown = Progress(*columns, console=console, transient=True)
            self.shown.add_task(text, total=self.total, completed=self.before)
            self.shown.start()
        task = self.shown.tasks[0].id
        self.shown.update(task, description=text, completed=self.done)

    def _end(self) -> None:
        if self.shown is not None:
            self.shown.stop()
            self.shown = None


def _size(batch: Any) -> int:
    """How many samples a batch holds: the length of its first tensor."""
    return next((len(leaf) for leaf in tree_leaves(batch) if hasattr(leaf, "shape")), 0)
