"""What the commands that run a network share: hardware, what they say, the page they leave."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import typer

from oodbench.cli import terminal
from oodbench.errors import OODBenchError
from oodbench.registry import BENCHMARKS, DETECTORS, METHODS
from oodbench.settings import HardwareSettings, Reporting, Scoring, Selection, settings_of, values

if TYPE_CHECKING:
    from pathlib import Path

    from oodbench.benchmark import Benchmark
    from oodbench.hardware import Hardware


def reporter(hardware: Hardware, quiet: bool) -> Callable[[str], None]:
    """A function that prints a line, once for all processes; none if quiet."""
    from oodbench.hardware import is_first_process

    def say(line: str) -> None:
        if not quiet and is_first_process(hardware):
            typer.echo(terminal.wrapped(line))

    return say


def check_names(
    selection: Selection, scoring: Scoring | None = None, method: str | None = None
) -> None:
    """Refuse a misspelled name at once: torch takes seconds to be imported, this does not.

    Raises:
        UnknownNameError: a name that nothing installed has; the message suggests the nearest.
    """
    for detector in scoring.detectors if scoring else ():
        if detector != "all":
            DETECTORS.require(str(detector))
    if method is not None:
        METHODS.require(method)
    if selection.benchmark is not None:
        BENCHMARKS.require(selection.benchmark)
    elif selection.id is not None and selection.task is None:
        BENCHMARKS.require(selection.id)


def command_line(before: str = "") -> str:
    """The command that runs, as it would be typed.

    On a terminal that it does not fit, it goes on in further lines after a backslash, so that what
    is copied from there can be pasted. Words stay whole, also those that are longer than a line.

    Args:
        before: what stands before it in the first line.
    """
    words = [shlex.quote(word) for word in ("oodbench", *sys.argv[1:])]
    if not sys.stdout.isatty():
        return " ".join(words)
    width = shutil.get_terminal_size().columns
    lines, line = [], before + words[0]
    for word in words[1:]:
        if len(line) + 1 + len(word) + len(" \\") > width:
            lines.append(f"{line} \\")
            line = f"    {word}"
        else:
            line += f" {word}"
    return "\n".join([*lines, line]).removeprefix(before)


def command_of_rows() -> str:
    """The command that runs, but for where it writes, what it prints and where its files are.

    Rows keep it for whoever makes them again elsewhere: a folder of this machine means nothing
    there, and may be nobody's business. Of a file that is given by its whole path the name stays.
    """
    takes_value = {"--plot": True}
    for name, asked in settings_of(Reporting).items():
        option = f"--{asked.flag or name.replace('_', '-')}"
        takes_value[option] = getattr(Reporting, name) is not False
    words, rest = [], iter(sys.argv[1:])
    for word in rest:
        option, _, value = word.partition("=")
        if option not in takes_value:
            words.append(_without_folder(word))
        elif takes_value[option] and not value:
            next(rest, None)
    return shlex.join(["oodbench", *words])


def _without_folder(word: str) -> str:
    """A word of the command with the name alone of a file that it gives by its whole path."""
    option, equals, value = word.rpartition("=")
    if equals and not option.startswith("-"):
        option, equals, value = "", "", word
    paths = (PurePosixPath(value), PureWindowsPath(value))
    for path in paths:
        if path.name and (path.is_absolute() or path.parts[0] == "~"):
            return f"{option}{equals}{path.name}"
    return word


def typed(context: typer.Context, without: Collection[str] = ()) -> list[str]:
    """The options that a command was given, as they would be typed, but for some."""
    words = []
    for option in context.command.params:
        name = option.name or ""
        source = context.get_parameter_source(name)
        if name in without or source is None or source.name == "DEFAULT":
            continue
        value = context.params.get(name)
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, bool):
                words.append(option.opts[0] if each else option.secondary_opts[0])
            else:
                words += [option.opts[0], str(each)]
    return words


def hardware_of(asked: HardwareSettings, quiet: bool) -> Hardware:
    """The ``Hardware`` that the command's options ask for.

    Raises:
        OptionError: Lightning refuses it.
    """
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from oodbench.errors import OptionError
    from oodbench.hardware import Hardware, quiet_lightning

    hardware = Hardware(**values(asked), progress=False if quiet else None)
    try:
        with quiet_lightning():  # refused before data is read and folders are made
            hardware.trainer(logger=False)
            hardware.scoring_device_for(0)
    except OODBenchError:
        raise
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise OptionError(
            f"--accelerator {asked.accelerator} --devices {asked.devices} --nodes {asked.nodes} "
            f"--strategy {asked.strategy} --precision {asked.precision}: Lightning refuses them: "
            f"{error}"
        ) from error
    return hardware


def leaderboards_of(reporting: Reporting) -> Path:
    """The folder of the result rows and pages.

    Raises:
        StorageError: it cannot be written.
    """
    from oodbench import files

    folder = files.user_path(reporting.leaderboards or "leaderboards")
    hint = "Choose a folder that you may write with --leaderboards."
    files.writable_dir(folder / "results", hint, make=False)
    return folder


@contextlib.contextmanager
def page_of_kept(benchmark: Benchmark, leaderboards: Path, hardware: Hardware) -> Iterator[None]:
    """Writes the page of the rows that are kept also where the block ends in an error."""
    from oodbench.hardware import is_first_process
    from oodbench.results import leaderboard
    from oodbench.results.store import ResultStore

    store = ResultStore(leaderboards).path(benchmark.name)

    def changed() -> int | None:
        return store.stat().st_mtime_ns if store.is_dir() else None

    before = changed()
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one that is raised
            if changed() != before and is_first_process(hardware):
                leaderboard.write(benchmark, leaderboards)
        raise


def sets_line(benchmark: Benchmark, names: Sequence[str] | None) -> str:
    """The OOD sets and their groups, for people."""
    return ", ".join(f"{choice.spec.name} ({choice.group})" for choice in benchmark.choose(names))
