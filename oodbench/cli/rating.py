"""``oodbench rate``: figures of scores that other code gave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.flags import as_flags
from oodbench.cli.session import command_of_rows
from oodbench.cli.terminal import printable
from oodbench.errors import OptionError

if TYPE_CHECKING:
    from oodbench.results.foreign import Direction, ForeignSets
    from oodbench.results.outcome import Results

_SCORES, _ABOUT, _OUT = "Scores", "What they are of", "Output"


def rate_command(
    id_scores: Annotated[
        str | None,
        typer.Option(
            "--id-scores",
            help="Of the ID test set: .npy, .npz, or .csv with a column score.",
            rich_help_panel=_SCORES,
        ),
    ] = None,
    ood_scores: Annotated[
        list[str] | None,
        typer.Option(
            "--ood-scores",
            help="Of an OOD set: mnist=b.npy, or near:cifar100=c.npy with its group. Repeat it.",
            rich_help_panel=_SCORES,
        ),
    ] = None,
    all_scores: Annotated[
        str | None,
        typer.Option(
            "--scores",
            help="Of all sets in one file: .csv with columns set and score, or OpenOOD's .pkl.",
            rich_help_panel=_SCORES,
        ),
    ] = None,
    higher: Annotated[
        str | None,
        typer.Option(
            "--higher",
            help="The class whose scores are high: ood, id. Default: ood; id for confidences "
            "(conf).",
            rich_help_panel=_SCORES,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help=".npy of the ID samples' classes; with --predictions the accuracy.",
            rich_help_panel=_SCORES,
        ),
    ] = None,
    predictions: Annotated[
        str | None,
        typer.Option(
            "--predictions", help=".npy of the network's decisions.", rich_help_panel=_SCORES
        ),
    ] = None,
    detector: Annotated[
        str,
        typer.Option("--name", help="What to call the detector.", rich_help_panel=_ABOUT),
    ] = "mine",
    board: Annotated[
        str,
        typer.Option("--board", help="What to call the page.", rich_help_panel=_ABOUT),
    ] = "own-scores",
    id_name: Annotated[
        str, typer.Option("--id", help="The ID set's name.", rich_help_panel=_ABOUT)
    ] = "id",
    backbone: Annotated[
        str, typer.Option("--backbone", help="The network's name.", rich_help_panel=_ABOUT)
    ] = "unknown",
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of its training.", rich_help_panel=_ABOUT)
    ] = 0,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            help="A stored result (.json) of the same images in the same order, with which it is "
            "compared. Repeat it.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    leaderboards: Annotated[
        str | None,
        typer.Option(
            "--leaderboards",
            help="Keep the result here, and write the page of all that are here.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the rows as JSON.", rich_help_panel=_OUT)
    ] = False,
) -> None:
    """Give scores of your own figures, intervals, a comparison and a page.

    One score a sample, of the ID test set and of OOD sets. Nothing is run, and no pickle may run
    code.
    """
    from oodbench import files
    from oodbench.results import rated

    if higher not in (None, "ood", "id"):
        raise OptionError(f"--higher {higher}: give ood or id.")
    sets = _sets(id_scores, ood_scores, all_scores, higher)  # type: ignore[arg-type]
    if (labels is None) != (predictions is None):
        raise OptionError("an accuracy takes --labels and --predictions both.")
    if labels is not None and predictions is not None:
        from dataclasses import replace

        from oodbench.results.foreign import with_labels

        own = with_labels(sets.id, files.user_path(labels), files.user_path(predictions))
        sets = replace(sets, id=own)
    options = {"name": board, "id_name": id_name, "backbone": backbone, "seed": seed}
    results = rated.rows_of(sets, detector, **options, command=command_of_rows())  # type: ignore[arg-type]
    sentences = [
        text for name in against or () for text in _against(results, sets, files.user_path(name))
    ]
    page = None if leaderboards is None else rated.keep(results, sets, leaderboards)
    _show(results, sentences, page, as_json)


def _sets(
    id_scores: str | None,
    ood_scores: list[str] | None,
    all_scores: str | None,
    higher: Direction | None,
) -> ForeignSets:
    from oodbench import files
    from oodbench.results import foreign

    if all_scores is not None:
        if id_scores or ood_scores:
            raise OptionError("--scores has all sets: leave out --id-scores and --ood-scores.")
        return foreign.read_all(files.user_path(all_scores), higher)
    if not id_scores or not ood_scores:
        raise OptionError(
            "give the scores of the ID test set and of an OOD set (--id-scores a.npy --ood-scores "
            "mnist=b.npy), or of all in one file (--scores FILE)."
        )
    sets = {}
    for text in ood_scores:
        name, equals, path = text.partition("=")
        group, colon, ood = name.rpartition(":")
        if not equals or not ood or not path or (colon and not group):
            raise OptionError(f"--ood-scores {text}: write NAME=FILE, or GROUP:NAME=FILE.")
        if (group, ood) in sets:
            raise OptionError(f"--ood-scores has {ood} twice.")
        sets[group, ood] = foreign.read(files.user_path(path), higher)
    return foreign.ForeignSets(foreign.read(files.user_path(id_scores), higher), sets)


def _against(results: Results, sets: ForeignSets, path: Path) -> list[str]:
    """Whether the scores differ from a stored result's by more than noise: sentences."""
    from oodbench.results import rated, significance, stored

    other = stored.read(path)
    side = significance.sides_of([other])[0]
    own = rated.side_of(results, sets, other)
    compared = significance.compare_sides(own, side, ("auroc",))
    chief = significance.ranking_of(compared, None)
    return [
        significance.sentence(own, side, one) for one in compared if one is chief or not one.is_mean
    ]


def _show(results: Results, sentences: list[str], page: Path | None, as_json: bool) -> None:
    from oodbench.cli.tables import print_table
    from oodbench.results.rows import METRICS, NAMES, cell

    if as_json:
        typer.echo(results.to_json())
    else:
        cells = [
            [
                row["detector"],
                row["ood"],
                *(
                    _shown(cell(row, m), cell(row, f"{m}_low"), cell(row, f"{m}_high"))
                    for m in METRICS
                ),
            ]
            for row in results.rows
        ]
        left_out = print_table(["detector", "OOD", *NAMES.values()], cells)
        if left_out:
            typer.echo(f"a wider terminal, or --json, shows also: {', '.join(left_out)}")
        accuracy = results.rows[0].get("id_accuracy")
        if accuracy is not None:
            typer.echo(f"ID accuracy: {100 * accuracy:.2f} %")
        for text in sentences:
            typer.echo(printable(text))
        if page is not None:
            typer.echo(printable(f"page: {page}"))
    for warning in results.warnings:
        typer.echo(printable(f"warning: {as_flags(warning)}"), err=True)


def _shown(value: float, low: float, high: float) -> str:
    return f"{100 * value:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
