"""What is written on a command line, as values: names, seeds, numbers, ``NAME=VALUE``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from oodbench.cli.names import split_names
from oodbench.errors import OptionError

if TYPE_CHECKING:
    from oodbench.benchmark import Benchmark


def split_detectors(values: list[str], option: str = "--detector") -> list[str]:
    """The names of detectors."""
    return split_names(values, option)


def split_sets(values: list[str] | None) -> list[str] | None:
    """The names of OOD sets, of which some are folders."""
    from oodbench.benchmark import name_is_there

    return split_names(values, "--ood", name_is_there) if values else None


def split_networks(values: list[str]) -> list[str]:
    """Networks by name, of which some are ``NAME@CHECKPOINT``."""

    def is_there(name: str) -> bool:
        _, at, path = name.partition("@")
        return bool(at and path) and os.path.exists(path)  # noqa: PTH110

    return split_names(values, "--backbone", is_there)


def seeds_of(text: str) -> list[int]:
    """Seeds that are separated by commas."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise OptionError(
            f"--seed {text}: give different non-negative whole numbers, such as 0,1,2."
        )
    return seeds


def floats(text: str | None, option: str) -> list[float] | None:
    """Numbers in [0, 1] that are separated by commas."""
    try:
        values = None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        values = [-1]
    if values is not None and not all(0 <= value <= 1 for value in values):
        raise OptionError(f"{option} {text}: give numbers in [0, 1], one a channel.")
    return values


def pairs(values: list[str], option: str) -> list[tuple[str, str]]:
    """Values of the form ``NAME=VALUE``."""
    pairs = []
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise OptionError(f"{option} {value}: write {option} NAME=VALUE.")
        pairs.append((name.strip(), text.strip()))
    return pairs


def chosen_detectors(
    names: list[str],
    options: list[str],
    benchmark: Benchmark,
    method: str | None,
    preset: str | None,
) -> tuple[list[Any], dict[str, set[str]]]:
    """The detectors, and by name the options that were set."""
    from oodbench.detector import create_detector
    from oodbench.options import option_types
    from oodbench.registry import DETECTORS
    from oodbench.selection import (
        named,
        options_on,
    )

    chosen: dict[str, dict[str, Any]] = {
        str(name): options_on(benchmark, str(name), preset)
        for name in named(names, method, benchmark)
    }
    given = benchmark.preset(preset)
    fixed: dict[str, set[str]] = {name: set(given.get(name, ())) for name in chosen}
    for key, text in pairs(options, "--set"):
        owner, dot, option = key.partition(".")
        if dot:
            if owner not in chosen:
                raise OptionError(
                    f"--set {key}: {owner!r} is not among --detector {','.join(names)}."
                )
            chosen[owner][option] = text
            fixed[owner].add(option)
            continue
        owners = [name for name in chosen if key in option_types(DETECTORS.get(name))]
        for name in owners or list(chosen)[:1]:
            chosen[name][key] = text
            fixed[name].add(key)
    return [create_detector(name, **given) for name, given in chosen.items()], fixed


def overrides_of(
    recipe_set: list[str] | None, epochs: int | None, batch_size: int | None, lr: float | None
) -> dict[str, Any]:
    """Fields of a recipe to change, with those that have an option of their own."""
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    return {
        **dict(pairs(recipe_set or [], "--recipe-set")),
        **{name: value for name, value in given.items() if value is not None},
    }
