"""``oodbench verify``: whether results hold, and pages follow from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.failures import SOME_FAILED
from oodbench.cli.terminal import printable
from oodbench.errors import OptionError
from oodbench.settings import HARDWARE, NETWORK, OUTPUT

if TYPE_CHECKING:
    from oodbench.results.again import Means
    from oodbench.results.stored import StoredResult
    from oodbench.results.verdict import Verdict


def verify_command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="A result (.json), a page (.md), or a folder of leaderboards.",
        ),
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            "--level",
            help="What is made again: scores (figures from the stored scores), outputs (scores "
            "from the network's outputs), network (trained again from its recipe).",
        ),
    ] = "scores",
    rescore: Annotated[
        bool,
        typer.Option(
            "--rescore",
            help="Make results of older versions of their detectors again, on the same networks.",
        ),
    ] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Note in the results what was made again; pages show it.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            help="Weights of a network that is not in the zoo.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    accelerator: Annotated[
        str,
        typer.Option(
            "--accelerator", help="Lightning's: auto, cpu, gpu …", rich_help_panel=HARDWARE
        ),
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            help="Processes that read images. Default: by dataset.",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail as well where something could not be checked.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print what was found as JSON.", rich_help_panel=OUTPUT),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            help="Name only what does not hold, and the sums.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> None:
    """Make results again and compare: figures, scores or the network; and pages from results.

    The exit status is 0 if all of it holds, and 3 if something does not.
    """
    from oodbench import files
    from oodbench.hardware import Hardware
    from oodbench.results import verify
    from oodbench.results.again import Means
    from oodbench.results.verdict import LEVELS

    if level not in LEVELS:
        raise OptionError(f"--level is one of {', '.join(LEVELS)}, not {level!r}.")
    means = Means(
        Hardware(accelerator=accelerator, workers=workers),
        checkpoint=None if checkpoint is None else files.user_path(checkpoint),
        report=lambda line: None if as_json or quiet else typer.echo(printable(line), err=True),
    )
    chosen = paths or ["leaderboards"]
    if rescore:
        _rescore([files.user_path(path) for path in chosen], means)
        return
    verdicts: list[Verdict] = []
    for path in chosen:
        for verdict in verify.verdicts(path, level, means):
            verdicts.append(verdict)
            if not as_json and (not verdict.holds or not quiet):
                for line in _lines(verdict):
                    typer.echo(printable(line))
    if record:
        _record(chosen, verdicts)
    if as_json:
        typer.echo(json.dumps([verdict.to_json() for verdict in verdicts], indent=1))
    else:
        typer.echo(_sums(verdicts))
    failed = any(not v.holds or (strict and v.word == "not checked") for v in verdicts)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _record(paths: list[str], verdicts: list[Verdict]) -> None:
    """Note in the results' files what was made again, and write their pages anew."""
    from oodbench import files
    from oodbench.results import verify

    by_path = {verdict.path: verdict for verdict in verdicts}
    results = [r for path in paths for r in verify.results_at(files.user_path(path))[0]]
    for result in results:
        verdict = by_path.get(result.path)
        if verdict is not None and verdict.word in ("identical", "within tolerance"):
            verify.record(result, verdict)
    _pages(results)


def _rescore(paths: list[Path], means: Means) -> None:
    """Make the results again that older versions of their detectors made."""
    from oodbench.results import verify
    from oodbench.results.standing import changed_code

    results, faults = [], []
    for path in paths:
        some, wrong = verify.results_at(path)
        results += some
        faults += wrong
    older = [result for result in results if changed_code(result.rows[0]) is not None]
    left = 0
    for result, made in verify.rescore(older, means):
        left += isinstance(made, str)
        what = f"stays as it is: {made}" if isinstance(made, str) else f"is now {made.name}"
        typer.echo(printable(f"{result.path}: {what}"))
    for fault in faults:
        typer.echo(printable(f"{fault.path}: {'; '.join(fault.reasons)}"))
    typer.echo(f"{len(older)} results of older detectors, {len(older) - left} made again")
    _pages(older)  # last: a result that cannot be read has no page, and ends the command
    if left or faults:
        raise typer.Exit(SOME_FAILED)


def _pages(results: Sequence[StoredResult]) -> None:
    """Write the pages of results anew, where they are in a folder of leaderboards."""
    from oodbench.benchmark import get_benchmark
    from oodbench.registry import BENCHMARKS
    from oodbench.results import leaderboard

    pages = {(r.path.parents[2], r.rows[0]["benchmark"]) for r in results if r.path.parents[2:]}
    for folder, name in sorted(pages):
        if name in BENCHMARKS and (folder / "results").is_dir():
            leaderboard.write(get_benchmark(benchmark=name), folder)


def _lines(verdict: Verdict) -> list[str]:
    figures = f", {verdict.checked} figures" if verdict.checked > 1 else ""
    why = f": {'; '.join(verdict.reasons)}" if verdict.reasons else ""
    lines = [f"{verdict.path}: {verdict.word}{figures}{why}"]
    lines += [f"  {difference}" for difference in verdict.differences[:5]]
    if len(verdict.differences) > 5:
        lines.append(f"  and {len(verdict.differences) - 5} other figures")
    if verdict.largest is not None:
        lines.append(f"  largest within the tolerance: {verdict.largest}")
    return lines + [f"  note: {remark}" for remark in verdict.remarks]


def _sums(verdicts: list[Verdict]) -> str:
    words = Counter(verdict.word for verdict in verdicts)
    counts = (f"{words[word]} {word}" for word in sorted(words))
    figures = sum(verdict.checked for verdict in verdicts)
    older = sum("another version of the detector" in " ".join(v.remarks) for v in verdicts)
    what = "figures derived" if all(v.level == "scores" for v in verdicts) else "figures compared"
    return f"{len(verdicts)} files, {figures} {what}: {', '.join(counts)}" + (
        f"; {older} by another version of their detector" if older else ""
    )
