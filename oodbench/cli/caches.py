"""``oodbench cache``: what is kept of networks and trainings, and removing what is not wanted."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.options import Debug
from oodbench.cli.tables import Column, print_columns
from oodbench.errors import OptionError

if TYPE_CHECKING:
    from oodbench.caching.kept import Kept

cache_app = typer.Typer(
    help="What is kept of networks' outputs and training runs.", no_args_is_help=True
)

_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0, "": 1.0}
_BYTES = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "": 1.0}

OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", help="Last written before: 30d, 12h, 2w. A number is days."),
]
LargerThan = Annotated[
    str | None, typer.Option("--larger-than", help="Larger than: 500MB, 2GB. A number is bytes.")
]
KindOf = Annotated[
    str | None, typer.Option("--kind", help="outputs, run or other. Default: all of them.")
]


@cache_app.command("list")
def cache_list(
    older_than: OlderThan = None,
    larger_than: LargerThan = None,
    kind: KindOf = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable.")] = False,
    debug: Debug = False,  # noqa: ARG001  (its callback has seen it)
) -> None:
    """What is kept, by size: outputs of networks, training runs, and the rest."""
    from oodbench import files

    entries = _chosen(older_than, larger_than, kind)
    if as_json:
        shown = [
            {"kind": k.kind, "what": k.what, "path": str(k.path), "bytes": k.size, "age": k.age}
            for k in entries
        ]
        typer.echo(json.dumps({"cache": str(files.cache_dir()), "kept": shown}, indent=1))
        return
    typer.echo(f"OODBENCH_CACHE: {files.cache_dir()}")
    _show(entries)


@cache_app.command("prune")
def cache_prune(
    older_than: OlderThan = None,
    larger_than: LargerThan = None,
    kind: KindOf = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove it. Without this it is only shown.")
    ] = False,
    debug: Debug = False,  # noqa: ARG001  (its callback has seen it)
) -> None:
    """Remove what is old or large; without --remove it is only shown. All of it can be made again.

    What a process works on stays.
    """
    if older_than is None and larger_than is None and kind is None:
        raise OptionError(
            "say what goes: `--older-than 30d`, `--larger-than 2GB`, `--kind outputs`, or several."
        )
    from oodbench.caching import kept

    entries = _chosen(older_than, larger_than, kind)
    _show(entries)
    if not remove:
        if entries:
            typer.echo("nothing was removed; the same command with --remove does it")
        return
    removed = [one for one in entries if kept.remove(one)]
    busy = len(entries) - len(removed)
    typer.echo(
        f"removed: {_size(sum(one.size for one in removed))}"
        + (f"; {busy} in use, which stay" if busy else "")
    )


def _chosen(older_than: str | None, larger_than: str | None, kind: str | None) -> list[Kept]:
    kinds = ("outputs", "run", "other")
    if kind is not None and kind not in kinds:
        raise OptionError(f"`--kind` is one of {', '.join(kinds)}, not {kind!r}.")
    age = 0.0 if older_than is None else 86400 * _number(older_than, _DAYS, "--older-than")
    size = -1.0 if larger_than is None else _number(larger_than, _BYTES, "--larger-than")
    from oodbench.caching.kept import kept

    return [
        one for one in kept() if one.age >= age and one.size > size and kind in (None, one.kind)
    ]


def _number(text: str, units: dict[str, float], option: str) -> float:
    """A number with a unit: ``"30d"``, ``"2 GB"``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]?)(?:i?b|ays?|eeks?|ours?)?\s*", text.lower())
    if match is None or match[2] not in units:
        example = "30d, 12h or 2w" if option == "--older-than" else "500MB or 2GB"
        raise OptionError(f"{option} {text}: write {example}.")
    return float(match[1]) * units[match[2]]


def _show(entries: list[Kept]) -> None:
    if not entries:
        typer.echo("nothing such is kept")
        return
    print_columns(
        [
            Column("size", [_size(one.size) for one in entries]),
            Column("age", [_age(one.age) for one in entries]),
            Column("kind", [one.kind for one in entries]),
            Column(
                "what", [one.what + " (in use)" * one.is_in_use for one in entries], is_name=True
            ),
        ],
    )
    typer.echo(f"{len(entries)} in all, {_size(sum(one.size for one in entries))}")


def _size(count: int) -> str:
    from oodbench.disk.full import size_in_words

    return size_in_words(count)


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return "just now"
