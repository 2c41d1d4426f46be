"""What is written on a command line, as values: names, seeds, numbers, ``NAME=VALUE``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from oodbench.cli.names import split_names
from oodbench.errors import OptionError
from oodbench.settings import Form, Scoring

if TYPE_CHECKING:
    from oodbench.benchmark import Benchmark
    from oodbench.detector import Detector


def read(value: Any, form: Form, option: str) -> Any:
    """What typer read of an option, as the value that it stands for.

    Args:
        value: a text, or several; None where there is none.
        form: how it is written.
        option: with its dashes, for messages.

    Raises:
        OptionError: it cannot be read.
    """
    readers: dict[Form, Callable[[Any, str], Any]] = {
        "names": split_names,
        "sets": split_sets,
        "pairs": pairs,
        "seeds": seeds,
        "channels": channels,
    }
    if form == "value":
        return value
    return None if value is None or value == [] else readers[form](value, option)


def split_sets(values: list[str], option: str) -> list[str]:
    """The names of OOD sets, of which some are folders."""
    from oodbench.dataset import name_is_there

    return split_names(values, option, name_is_there)


def split_networks(values: list[str]) -> list[str]:
    """Networks by name, of which some are ``NAME@CHECKPOINT``."""

    def is_there(name: str) -> bool:
        _, at, path = name.partition("@")
        return bool(at and path) and os.path.exists(path)  # noqa: PTH110

    return split_names(values, "--backbone", is_there)


def seeds(text: str, option: str) -> tuple[int, ...]:
    """The seeds in a list that is separated by commas."""
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = (-1,)
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise OptionError(
            f"{option} {text}: give different non-negative whole numbers, such as 0,1,2."
        )
    return seeds


def channels(text: str, option: str) -> list[float]:
    """Numbers in [0, 1], one for each channel, that are separated by commas."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [-1]
    if not all(0 <= number <= 1 for number in numbers):
        raise OptionError(f"{option} {text}: give numbers in [0, 1], one for each channel.")
    return numbers


def shares(text: str, option: str) -> list[float]:
    """Shares in (0, 1) that are separated by commas."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [-1]
    if not all(0 < number < 1 for number in numbers):
        raise OptionError(f"{option} {text}: give shares in (0, 1), such as 0.95,0.99.")
    return numbers


def pairs(values: list[str], option: str) -> dict[str, str]:
    """Values of the form ``NAME=VALUE``; a name that comes twice has the last value."""
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise OptionError(f"{option} {value}: write {option} NAME=VALUE.")
        pairs[name.strip()] = text.strip()
    return pairs


def chosen_detectors(
    scoring: Scoring, benchmark: Benchmark, method: str | None
) -> tuple[list[Detector], dict[str, set[str]]]:
    """The detectors, and by name the options that were set."""
    from oodbench.detector import create_detector
    from oodbench.options import option_types
    from oodbench.registry import DETECTORS
    from oodbench.selection import expanded, options_on

    chosen: dict[str, dict[str, Any]] = {
        str(name): options_on(benchmark, str(name), scoring.preset)
        for name in expanded(scoring.detectors, method, benchmark)
    }
    preset = benchmark.preset(scoring.preset)
    fixed: dict[str, set[str]] = {name: set(preset.get(name, ())) for name in chosen}
    for key, text in (scoring.detector_options or {}).items():
        owner, dot, option = key.partition(".")
        if dot:
            if owner not in chosen:
                raise OptionError(
                    f"--set {key}: {owner!r} is not among --detector {','.join(scoring.detectors)}."
                )
            chosen[owner][option] = text
            fixed[owner].add(option)
            continue
        owners = [name for name in chosen if key in option_types(DETECTORS.get(name))]
        for name in owners or list(chosen)[:1]:
            chosen[name][key] = text
            fixed[name].add(key)
    return [create_detector(name, **options) for name, options in chosen.items()], fixed
