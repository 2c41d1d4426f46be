"""``oodbench verify``: whether results hold, and pages follow from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.failures import SOME_FAILED
from oodbench.cli.terminal import printable

if TYPE_CHECKING:
    from oodbench.results.verify import Verdict


def verify_command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="A result (.json), a page (.md), or a folder of leaderboards.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Name only what does not hold, and the sums.")
    ] = False,
) -> None:
    """Derive every figure again from the stored scores, and every page from its results.

    The exit status is 0 if all of it holds, and 3 if something does not.
    """
    from oodbench.results.verify import verify

    verdicts = [verdict for path in paths or ["leaderboards"] for verdict in verify(path)]
    if as_json:
        typer.echo(json.dumps([verdict.to_json() for verdict in verdicts], indent=1))
    else:
        for verdict in verdicts:
            if not verdict.holds or not quiet:
                for line in _lines(verdict):
                    typer.echo(printable(line))
        typer.echo(_sums(verdicts))
    if not all(verdict.holds for verdict in verdicts):
        raise typer.Exit(SOME_FAILED)


def _lines(verdict: Verdict) -> list[str]:
    figures = f", {verdict.checked} figures" if verdict.checked > 1 else ""
    why = f": {'; '.join(verdict.reasons)}" if verdict.reasons else ""
    lines = [f"{verdict.path}: {verdict.word}{figures}{why}"]
    lines += [f"  {difference}" for difference in verdict.differences[:5]]
    if len(verdict.differences) > 5:
        lines.append(f"  and {len(verdict.differences) - 5} other figures")
    return lines + [f"  note: {remark}" for remark in verdict.remarks]


def _sums(verdicts: list[Verdict]) -> str:
    words = [verdict.word for verdict in verdicts]
    counts = (f"{words.count(word)} {word}" for word in dict.fromkeys(sorted(words)))
    figures = sum(verdict.checked for verdict in verdicts)
    return f"{len(verdicts)} files, {figures} figures derived: {', '.join(counts)}"
