"""``oodbench submit``: a result for the leaderboards, made ready and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.failures import SOME_FAILED
from oodbench.cli.flags import as_flags
from oodbench.cli.terminal import printable
from oodbench.errors import OptionError

if TYPE_CHECKING:
    from oodbench.results.cards import Card
    from oodbench.results.submission import Checked

_WHAT, _CARD, _CHECK = "What is submitted", "The card", "Checking"


def _of_card(flag: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(flag, help=text, rich_help_panel=_CARD)
    return option


def submit_command(
    results: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RESULT]...",
            help="Results: files (.json), their names, or a detector's name.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", help="The folder that is made.", rich_help_panel=_WHAT),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark", help="Of which results are meant by name.", rich_help_panel=_WHAT
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option("--from", help="Your leaderboards, with the results.", rich_help_panel=_WHAT),
    ] = "leaderboards",
    card: Annotated[str | None, _of_card("--card", "A card (.toml) made before.")] = None,
    who: Annotated[str | None, _of_card("--who", "Names of those who measured it.")] = None,
    contact: Annotated[str | None, _of_card("--contact", "An e-mail or web address.")] = None,
    paper: Annotated[str | None, _of_card("--paper", "https://…, arXiv:…, doi:… or none.")] = None,
    code: Annotated[
        str | None, _of_card("--code", "Where the detector's code is; none if it is oodbench's.")
    ] = None,
    licence: Annotated[str | None, _of_card("--licence", "Of the weights; or none.")] = None,
    weights: Annotated[str | None, _of_card("--weights", "Where the weights are; or none.")] = None,
    outlier_data: Annotated[
        str | None, _of_card("--outlier-data", "OOD images that were learned from; or none.")
    ] = None,
    test_time_adaptation: Annotated[
        str | None, _of_card("--test-time-adaptation", "What adapts to test data; or none.")
    ] = None,
    tuned_on: Annotated[
        str | None,
        _of_card("--tuned-on", "nothing, validation, or a sentence on what else."),
    ] = None,
    challenges: Annotated[
        str | None, _of_card("--challenges", "The result that this one measures again.")
    ] = None,
    remark: Annotated[str | None, _of_card("--remark", "What a reader should know.")] = None,
    folder: Annotated[
        str | None,
        typer.Option(
            "--check",
            help="Check this folder, as CI does; nothing is made.",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    against: Annotated[
        str,
        typer.Option("--against", help="The leaderboards that it is for.", rich_help_panel=_CHECK),
    ] = "leaderboards",
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="With --check: a commit, since which no result may have been changed.",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    first: Annotated[
        bool,
        typer.Option(
            "--first",
            help="With --check: they may be the first of their benchmark.",
            rich_help_panel=_CHECK,
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON.", rich_help_panel=_CHECK)
    ] = False,
) -> None:
    r"""Make the folder that a pull request adds to the leaderboards, or check one.

    A result comes with the score of every sample, from which all figures are derived again. The
    exit status is 3 if something cannot be added, with the reasons.
    """
    from oodbench import files
    from oodbench.results import submission

    boards = files.user_path(against)
    if folder is not None:
        if results or out:
            raise OptionError(
                "--check looks at a folder that is there: leave out RESULT and --out."
            )
        place = files.user_path(folder)
        if not place.is_dir():
            raise OptionError(f"there is no folder {place}.")
        faults = [] if base is None else submission.changed_since(base, place)
        checked = submission.check(place, boards, first=first)
        _tell(checked, faults, as_json)
        return
    if not results or out is None:
        raise OptionError(
            "name the results and the folder to make (`oodbench submit RESULT --out FOLDER`), or a "
            "folder to check (`--check FOLDER`)."
        )
    if base is not None or first:
        raise OptionError("--base and --first go with --check.")
    fields = {
        "who": who,
        "contact": contact,
        "paper": paper,
        "code": code,
        "licence": licence,
        "weights": weights,
        "outlier_data": outlier_data,
        "tuned_on": tuned_on,
        "test_time_adaptation": test_time_adaptation,
        "challenges": challenges,
        "remark": remark,
    }
    made = _make(
        results,
        files.user_path(out),
        files.user_path(source),
        benchmark,
        boards,
        _card(card, fields),
    )
    _tell(made, [], as_json, out)


def _card(path: str | None, fields: dict[str, str | None]) -> Card:
    """The card of a file, in which options take the place of what it says."""
    import dataclasses

    from oodbench import files
    from oodbench.results import cards

    known: dict[str, str] = {}
    if path is not None:
        known = dataclasses.asdict(cards.read(files.user_path(path)))
    given = {name: value for name, value in fields.items() if value is not None}
    missing = [n for n in cards.FIELDS[:-2] if not {**known, **given}.get(n)]
    if missing:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise OptionError(
            f"a submission says who made it and how: give {flags} (`none` where there is nothing "
            "to name), or a --card."
        )
    return cards.of({**known, **given})


def _make(
    names: list[str], out: Path, source: Path, benchmark: str | None, boards: Path, card: Card
) -> list[Checked]:
    from oodbench.results import finding, submission

    is_named = any(not name.endswith(".json") for name in names)
    folders = finding.folders_of(source, benchmark) if is_named else []
    results = [result for name in names for result in finding.find(name, folders)]
    return submission.make(results, card, out, boards)


def _tell(checked: list[Checked], faults: list[str], as_json: bool, out: str | None = None) -> None:
    is_refused = bool(faults) or any(one.faults for one in checked)
    if as_json:
        report = {"faults": faults, "results": [one.to_json() for one in checked]}
        typer.echo(json.dumps(report, indent=1))
    else:
        for fault in faults:
            typer.echo(printable(f"refused: {fault}"))
        for one in checked:
            for line in _lines(one):
                typer.echo(printable(line))
        typer.echo(printable(_next(checked, is_refused, out)))
    if is_refused:
        raise typer.Exit(SOME_FAILED)


def _lines(one: Checked) -> list[str]:
    word = "refused" if one.faults else "passes"
    lines = [f"{one.path}: {word}"]
    lines += [f"  refused: {as_flags(fault)}" for fault in one.faults]
    lines += [f"  note: {note}" for note in one.notes]
    return lines + [f"  {sentence}" for sentence in one.comparison]


def _next(checked: list[Checked], is_refused: bool, out: str | None) -> str:
    if is_refused and out is not None:
        return "Nothing was made: see above for what to change."
    if is_refused:
        return "It cannot be added as it is."
    if out is None:
        return f"{len(checked)} submitted results hold."
    names = ", ".join(sorted({one.path.parent.name for one in checked}))
    return (
        f"{out} can be added. Next: copy {out}/results into leaderboards/results of a fork of the "
        f"repository, write the page anew (`oodbench leaderboard`, {names}), and open a pull "
        "request; leaderboards/SUBMITTING.md has the steps."
    )
