"""How far a download is: a bar where somebody looks, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from oodbench.disk.full import size_in_words

Report = Callable[[str], object]

EVERY = 60.0
"""Seconds between two lines."""


class Watch(Protocol):
    """Receives how far a download is."""

    def begin(self, what: str, total: int) -> None:
        """Begin a file or an archive of ``total`` bytes, 0 if that is not known."""

    def at(self, count: int) -> None:
        """Note how many of its bytes are done."""

    def say(self, line: str) -> None:
        """Report an event in words."""

    def close(self) -> None:
        """End the report."""


class Lines:
    """A line a minute: what, how much of how much, how fast, how long it takes.

    Args:
        report: is given the lines.
        clock: seconds.
    """

    def __init__(self, report: Report, clock: Callable[[], float] = time.monotonic) -> None:
        self.report, self.clock = report, clock
        self.what, self.total = "", 0

    def begin(self, what: str, total: int) -> None:
        """Begin a file or an archive."""
        self.what, self.total = what, total
        self.began = self.reported = self.clock()
        self.first: int | None = None

    def at(self, count: int) -> None:
        """Note how many of its bytes are done; those of an earlier run do not count as speed."""
        now = self.clock()
        if self.first is None or count < self.first:
            self.first, self.began = count, now
        if now - self.reported < EVERY:
            return
        self.reported = now
        speed = (count - self.first) / max(now - self.began, 1e-9)
        line = f"{self.what}: {size_in_words(count)}"
        if self.total:
            line += f" of {size_in_words(self.total)}"
        line += f", {size_in_words(int(speed))}/s"
        if self.total and speed > 0:
            line += f", {_duration((self.total - count) / speed)} left"
        self.report(line)

    def say(self, line: str) -> None:
        """Report an event in words."""
        self.report(line)

    def close(self) -> None:
        """Do nothing: every line is printed already."""


class Bar:
    """A bar on a terminal: what, how much of how much, how fast, how long it takes."""

    def __init__(self, stream: TextIO) -> None:
        console = Console(file=stream, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task("", total=None, visible=False)
        self.progress.start()

    def begin(self, what: str, total: int) -> None:
        """Begin a file or an archive."""
        self.progress.reset(
            self.task, description=what, total=total or None, completed=0, visible=True
        )

    def at(self, count: int) -> None:
        """Note how many of its bytes are done."""
        self.progress.update(self.task, completed=count)

    def say(self, line: str) -> None:
        """Report an event in words."""
        self.progress.console.print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self.progress.stop()


def _duration(seconds: float) -> str:
    """``"40 s"``, ``"12 min"``, ``"3.5 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
