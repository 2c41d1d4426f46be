"""What the commands that run a network share: hardware, what they say, the page they leave."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from oodbench.cli import terminal
from oodbench.errors import OODBenchError

if TYPE_CHECKING:
    from oodbench.hardware import Hardware


def reporter(hardware: Hardware, quiet: bool) -> Callable[[str], None]:
    """A function that prints a line, once for all processes; none if quiet."""
    from oodbench.hardware import is_first_process

    def say(line: str) -> None:
        if not quiet and is_first_process(hardware):
            typer.echo(terminal.printable(line))

    return say


def command_line() -> str:
    """The command that runs, as it would be typed."""
    return shlex.join(["oodbench", *sys.argv[1:]])


def hardware_of(
    accelerator: str, devices: str, strategy: str, precision: str, workers: int | None, quiet: bool
) -> Hardware:
    """Where to run.

    Raises:
        OptionError: Lightning refuses it.
    """
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from oodbench.errors import OptionError
    from oodbench.hardware import Hardware, quiet_lightning

    progress = sys.stderr.isatty() and sys.stdout.isatty() and not quiet
    hardware = Hardware(accelerator, devices, strategy, precision, workers, progress=progress)
    try:
        with quiet_lightning():  # refused now, not when the data is read and folders are made
            hardware.trainer(logger=False)
    except OODBenchError:
        raise
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise OptionError(
            f"--accelerator {accelerator} --devices {devices} --strategy {strategy} "
            f"--precision {precision}: Lightning refuses them: {error}"
        ) from error
    return hardware


@contextlib.contextmanager
def page_of_kept(benchmark: Any, leaderboards: str, hardware: Hardware) -> Iterator[None]:
    """Writes the page of the rows that are kept also where the block ends in an error."""
    from oodbench.hardware import is_first_process
    from oodbench.results import leaderboard
    from oodbench.results.store import ResultStore

    store = ResultStore(leaderboards).path(benchmark.name)

    def changed() -> int | None:
        return store.stat().st_mtime_ns if store.is_file() else None

    before = changed()
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell of
            if changed() != before and is_first_process(hardware):
                leaderboard.write(benchmark, leaderboards)
        raise


def sets_line(benchmark: Any, names: list[str] | None) -> str:
    """The OOD sets and their groups, for people."""
    return ", ".join(f"{choice.spec.name} ({choice.group})" for choice in benchmark.choose(names))
