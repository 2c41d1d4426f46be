"""What went wrong, as a line for people and an exit status."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import typer

from oodbench.cli import terminal
from oodbench.cli.flags import as_flags
from oodbench.errors import OODBenchError, OODBenchWarning
from oodbench.runtime import signals

SOME_FAILED = 3
"""Exit status when some detectors failed and the others' rows are there."""

_state = {"debug": False}


def show_traceback(asked: bool) -> None:
    """Print a traceback when something fails, from now on, if that is asked for."""
    _state["debug"] |= asked


def start() -> None:
    """A command line begins: no traceback was asked for; warnings and log are lines for people."""
    _state["debug"] = False
    warnings.formatwarning = _warning_line
    logging.getLogger("oodbench").addHandler(_TO_PEOPLE)  # once, however often


class _Lines(logging.Handler):
    """The library's log on standard error, whatever that is when a line comes."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(terminal.wrapped(record.getMessage(), sys.stderr), err=True)


_TO_PEOPLE = _Lines(logging.WARNING)


def leave_if_failed(failures: dict[str, str]) -> None:
    """Print why each detector failed; end with the status ``SOME_FAILED`` if any did."""
    for name, reason in failures.items():
        line = " ".join(as_flags(reason).split())
        line = line if line.startswith(f"{name}: ") else f"{name}: {line}"
        typer.echo(terminal.wrapped(f"failed: {line}", sys.stderr), err=True)
    if failures:
        raise typer.Exit(SOME_FAILED)


def say_error(message: str) -> None:
    """An error as one line, on standard error."""
    line = " ".join(as_flags(message).split())
    typer.echo(terminal.wrapped(f"error: {line}", sys.stderr), err=True)


# Typer brings its own copy of click, or uses the installed one: that is up to its version.
UsageError: Any = typer.BadParameter.__bases__[0]


def usage(error: Any) -> str:
    """What was wrong with the command line, and where to look it up; ``""`` if that was printed."""
    message = error.format_message()
    command = error.ctx.command_path if error.ctx else "oodbench"
    return message and f"{message.rstrip('.')}. See `{command} --help`."


_format_others = warnings.formatwarning


def _warning_line(message: Any, category: type[Warning], *where: Any, **more: Any) -> str:
    """How a warning is printed: oodbench's own as a line for people."""
    if issubclass(category, OODBenchWarning):
        return f"warning: {message}\n"
    return _format_others(message, category, *where, **more)


def interrupted() -> int:
    """The exit status of a command that was interrupted; it is said that it was."""
    status = signals.status()
    typer.echo("interrupted; the same command goes on where it stopped.", err=True)
    return status


def failed(error: BaseException) -> int:
    """The exit status of a command that failed; what went wrong is said, or raised."""
    if _state["debug"]:
        raise error
    if isinstance(error, OODBenchError):
        say_error(str(error))
    else:
        say_error(
            f"{type(error).__name__}: {error}. oodbench did not expect this: "
            "run again with --debug for the traceback, and report it."
        )
    return 2
