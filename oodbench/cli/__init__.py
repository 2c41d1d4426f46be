"""The command line. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

import oodbench
from oodbench.cli import (
    caches,
    checking,
    data,
    evaluating,
    failures,
    fitting,
    listing,
    matrix,
    pages,
    plotting,
    publishing,
    rating,
    scoring,
    submitting,
    terminal,
    training,
    tuning,
    verifying,
)
from oodbench.cli.examples import examples
from oodbench.cli.failures import SOME_FAILED
from oodbench.cli.options import Debug, spelled_out
from oodbench.errors import OODBenchError
from oodbench.runtime import signals
from oodbench.runtime.workers import worker_failure

__all__ = ["SOME_FAILED", "app", "main"]

app = typer.Typer(
    name="oodbench",
    help="A benchmark suite for out-of-distribution (OOD) detection.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(listing.list_app, name="list")
app.add_typer(data.data_app, name="data")
app.add_typer(caches.cache_app, name="cache")
app.add_typer(matrix.matrix_app, name="matrix")
app.add_typer(plotting.plot_app, name="plot")
app.command("eval", epilog=examples("eval"))(spelled_out(evaluating.eval_command))
app.command("compare", epilog=examples("compare"))(spelled_out(evaluating.compare_command))
app.command("tune", epilog=examples("tune"))(spelled_out(tuning.tune_command))
app.command("check-network", epilog=examples("check-network"))(spelled_out(checking.check_network))
app.command("train", epilog=examples("train"))(spelled_out(training.train))
app.command("fit", epilog=examples("fit"))(spelled_out(fitting.fit_command))
app.command("score", epilog=examples("score"))(spelled_out(scoring.score_command))
app.command("export", epilog=examples("export"))(spelled_out(scoring.export_command))
app.command("leaderboard", epilog=examples("leaderboard"))(spelled_out(pages.leaderboard))
app.command("table", epilog=examples("table"))(spelled_out(pages.table))
app.command("verify", epilog=examples("verify"))(verifying.verify_command)
app.command("submit", epilog=examples("submit"))(submitting.submit_command)
app.command("rate", epilog=examples("rate"))(rating.rate_command)
app.command("published", epilog=examples("published"))(publishing.published_command)
app.command("info", epilog=examples("info"))(listing.info)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"oodbench {oodbench.__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version",
        help="Print the version.",
        callback=_print_version,
        is_eager=True,
        expose_value=False,
    ),
]


@app.callback()
def root(version: Version = False, debug: Debug = False) -> None:
    """A benchmark suite for out-of-distribution (OOD) detection."""


def main() -> None:
    """Entry point: errors are one or two lines and exit status 2; a traceback only with --debug."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    failures.start()
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if not os.environ.get(name, "0").isdigit():  # Lightning refuses to be imported with it
            del os.environ[name]
    # A test or a notebook goes on after this; a program that was started for it does not.
    ends = sys._getframe(1).f_globals.get("__name__") == "__main__" and not hasattr(sys, "ps1")
    with signals.handled(ends=ends), terminal.guarded() as printing:
        try:
            status = _run()
        except KeyboardInterrupt:  # a second one, while the first is reported
            status = failures.interrupted()
        status = printing.status(status)
    sys.exit(status)


def _run() -> int:
    """The exit status of the command line; what went wrong is said."""
    try:
        status = app(standalone_mode=False)
    except failures.UsageError as error:
        message = failures.usage(error)
        if message:  # there is none where a command shows its help instead
            failures.say_error(message)
        return 2
    except KeyboardInterrupt:
        return failures.interrupted()
    except SystemExit as error:  # a plug-in, or what it calls, ended the program
        if error.code == 128 + signal.SIGTERM:
            return failures.interrupted()
        return failures.failed(
            OODBenchError(f"something that was called ended the program ({error!r}).")
        )
    except typer.Abort as error:
        if not isinstance(error.__cause__, EOFError):
            return failures.interrupted()
        return failures.failed(error.__cause__)
    except Exception as error:
        reason = worker_failure(error) or error
        if isinstance(reason, KeyboardInterrupt):
            return failures.interrupted()
        return failures.failed(reason)
    return failures.interrupted() if status == 128 + signal.SIGINT else status or 0
