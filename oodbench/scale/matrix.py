"""The matrix: networks, seeds and benchmarks in a file, and the cells that they make."""

from __future__ import annotations

import itertools
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.errors import OptionError, did_you_mean
from oodbench.registry import BENCHMARKS, DETECTORS, METHODS
from oodbench.settings import OF_NUMBERS, HardwareSettings, flags, settings_of

AXES = ("benchmarks", "detectors", "methods", "backbones", "seeds")
OPTIONS = (
    "ood",
    "recipe",
    "recipe_options",
    "tune",
    "fit_on",
    "preset",
    "task_options",
    "preprocess",
    "input_size",
    "interpolation",
    "crop",
)
"""Arguments of :func:`oodbench.evaluate` that all cells may share."""
HARDWARE = (*settings_of(HardwareSettings), "batch_size")
"""Arguments of :class:`oodbench.Hardware` that all cells share."""
_OFF = "no-"
SWITCHES = frozenset(n for n, asked in settings_of(HardwareSettings).items() if asked.is_switch)
"""Those of which False is another thing than nothing."""


@dataclass(frozen=True)
class Cell:
    """A unit of work: one network on one benchmark, with the detectors that are put on it.

    It is idempotent, and its results are files that are named by what they are of, so a cell that
    is run twice, or killed, harms nothing.

    Args:
        benchmark: its registered name.
        detectors: registered names, or ``"all"``.
        method: how the network is had; None for what the detectors were designed for.
        backbone: the network's name, ``NAME@FILE`` with a checkpoint; None for the recipe's.
        seed: of its training.
        options: further arguments of :func:`oodbench.evaluate`.
        hardware: arguments of :class:`oodbench.Hardware`.
    """

    benchmark: str
    detectors: tuple[str, ...]
    method: str | None
    backbone: str | None
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells the cell, also in another matrix; not where it runs, but for its numbers."""
        about = self.to_json()
        asked = {name: self.hardware[name] for name in OF_NUMBERS if name in self.hardware}
        about["hardware"] = {"precision": None, **asked}
        return files.digest(about)[:16]

    @property
    def name(self) -> str:
        """The cell for people."""
        network = ", ".join(part for part in (self.method, self.backbone) if part)
        return f"{self.benchmark}: {network or 'as detectors say'}, seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        about = asdict(self)
        return {**about, "detectors": list(self.detectors)}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> Cell:
        """The cell that :meth:`to_json` told."""
        return cls(**{**about, "detectors": tuple(about["detectors"])})

    def arguments(self) -> dict[str, Any]:
        """Arguments of :func:`oodbench.evaluate`, but for where it runs and what it is told."""
        name, _, checkpoint = (self.backbone or "").partition("@")
        return {
            "benchmark": self.benchmark,
            "detectors": list(self.detectors),
            "method": self.method,
            "backbone": name or None,
            "checkpoint": checkpoint or None,
            "seed": self.seed,
            **self.options,
        }

    def command(self) -> str:
        """The ``oodbench eval`` that does the same."""
        spelled = flags()
        words = ["oodbench", "eval", spelled["detectors"], ",".join(self.detectors)]
        words += [spelled["benchmark"], self.benchmark]
        asked = {**self.arguments(), **self.hardware}
        for name in ("benchmark", "detectors"):
            del asked[name]
        if asked["seed"] == 0:
            del asked["seed"]
        for name, value in asked.items():
            if value is False and name in SWITCHES:
                words.append(f"--{_OFF}{spelled[name].removeprefix('--')}")
            if value is None or value is False or name not in spelled:
                continue
            if isinstance(value, Mapping):
                for key, item in value.items():
                    words += [spelled[name], f"{key}={item}"]
            elif value is True:
                words.append(spelled[name])
            elif isinstance(value, list | tuple):
                words += [spelled[name], ",".join(map(str, value))]
            else:
                words += [spelled[name], str(value)]
        return shlex.join(words)


@dataclass(frozen=True)
class Matrix:
    """What a matrix file asks for.

    Args:
        path: the file.
        cells: all there are, in the order of the file.
    """

    path: Path
    cells: tuple[Cell, ...]

    @property
    def folder(self) -> Path:
        """Where the cells' records lie: beside the file, so that every node finds them."""
        return self.path.with_suffix(".cells")


def read_matrix(path: str | Path) -> Matrix:
    """The matrix in a TOML file.

    Args:
        path: the file; ``[matrix]`` has the axes ``benchmarks``, ``detectors``, ``methods``,
            ``backbones``, ``seeds``; ``[options]`` arguments of :func:`oodbench.evaluate` for all
            cells; ``[hardware]`` those of :class:`oodbench.Hardware`; ``[[exclude]]`` combinations
            that are left out.

    Raises:
        OptionError: no such file, no TOML, or an entry that it cannot have.
        UnknownNameError: a benchmark, detector or method that is not installed.
    """
    place = files.user_path(path)
    try:
        told = tomllib.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"cannot read the matrix {place}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"the matrix {place} is no TOML: {error}.") from error
    _check(told, ("matrix", "options", "hardware", "exclude"), place.name)
    axes, options, hardware = (
        _table(told, part, allowed, place.name)
        for part, allowed in (("matrix", AXES), ("options", OPTIONS), ("hardware", HARDWARE))
    )
    benchmarks = _names(axes, "benchmarks", place.name, needed=True)
    detectors = _names(axes, "detectors", place.name, needed=True)
    methods = _names(axes, "methods", place.name)
    backbones = _names(axes, "backbones", place.name)
    seeds = _seeds(axes, place.name)
    for name in benchmarks:
        BENCHMARKS.require(name)
    for name in detectors:
        if name != "all":
            DETECTORS.require(name)
    for name in methods:
        METHODS.require(name)
    any_: list[str | None] = [None]
    cells = [
        Cell(benchmark, tuple(detectors), method, backbone, seed, options, hardware)
        for benchmark, method, backbone, seed in itertools.product(
            benchmarks, methods or any_, backbones or any_, seeds
        )
    ]
    kept = tuple(cell for cell in cells if not _is_excluded(cell, told, place.name))
    if not kept:
        raise OptionError(f"{place.name}: all cells are excluded; there is nothing to run.")
    return Matrix(place, kept)


def _table(
    told: Mapping[str, Any], part: str, allowed: Sequence[str], where: str
) -> dict[str, Any]:
    table = told.get(part, {})
    if not isinstance(table, dict):
        raise OptionError(f"{where}: [{part}] must be a table of names and values.")
    _check(table, allowed, f"{where}: [{part}]")
    return table


def _check(names: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for name in names:
        if name not in allowed:
            raise OptionError(
                f"{where} has no entry {name!r}.{did_you_mean(name, allowed)} "
                f"Its entries: {', '.join(allowed)}."
            )


def _names(axes: Mapping[str, Any], name: str, where: str, needed: bool = False) -> list[str]:
    value = axes.get(name, [])
    names = [value] if isinstance(value, str) else value
    is_list = isinstance(names, list) and all(isinstance(one, str) and one for one in names)
    if not is_list or len(set(names)) < len(names):
        raise OptionError(f"{where}: [matrix] {name} must be a list of names, each once.")
    if needed and not names:
        raise OptionError(f'{where}: [matrix] needs {name}, such as {name} = ["..."].')
    return list(names)


def _seeds(axes: Mapping[str, Any], where: str) -> list[int]:
    value = axes.get("seeds", [0])
    seeds = [value] if isinstance(value, int) else value
    is_list = isinstance(seeds, list) and all(
        isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in seeds
    )
    if not is_list or not seeds or len(set(seeds)) < len(seeds):
        raise OptionError(f"{where}: [matrix] seeds must be different whole numbers from 0 on.")
    return list(seeds)


def _is_excluded(cell: Cell, told: Mapping[str, Any], where: str) -> bool:
    excluded = told.get("exclude", [])
    fields = ("benchmark", "method", "backbone", "seed")
    if not isinstance(excluded, list) or not all(isinstance(one, dict) and one for one in excluded):
        raise OptionError(f'{where}: [[exclude]] must be tables such as method = "palm".')
    for one in excluded:
        _check(one, fields, f"{where}: [[exclude]]")
        if all(getattr(cell, name) == value for name, value in one.items()):
            return True
    return False
