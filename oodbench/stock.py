"""What of which datasets is in the data folder, as it was counted last; no torch, no data is read.

What was counted holds as long as no folder below the data folder has changed: a file that comes,
goes or is renamed changes the time of its folder, and archives and parquet files are looked at
themselves. So what was seen before is told at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.errors import StorageError
from oodbench.registry import BENCHMARKS, DATASETS

_LARGEST = 64
"""Files of a folder that are looked at one by one; more are images, of which nobody edits one."""

VERSION = 2


@dataclass(frozen=True)
class SplitStock:
    """A split of a dataset, as a benchmark reads it.

    Args:
        name: of the dataset.
        split: of it.
        role: ``"ID"``, the name of a group of OOD sets, or ``"chosen on"``.
        count: how many samples are here; None where it is not here.
        expected: how many were published; None where that is not known.
        fingerprint: of the contents here; ``""`` where it was not computed.
        published: of the contents that were published, ``""`` where that is not known.
        problem: why it cannot be used, or how it differs; ``""`` for nothing.
        size: bytes on disk; None where that is not known.
        to_fetch: bytes that are fetched to have it; None if it is here, or cannot be fetched.
        command: what gets it; ``""`` if it is here.
    """

    name: str
    split: str
    role: str = ""
    count: int | None = None
    expected: int | None = None
    fingerprint: str = ""
    published: str = ""
    problem: str = ""
    size: int | None = None
    to_fetch: int | None = None
    command: str = ""


@dataclass(frozen=True)
class Stock:
    """The sets of a benchmark, or the splits of a dataset.

    Args:
        name: its name.
        kind: ``"benchmark"`` or ``"dataset"``.
        splits: what it reads.
        command: what gets all that is missing; ``""`` if nothing is.
        to_fetch: bytes that that fetches, about.
    """

    name: str
    kind: str
    splits: tuple[SplitStock, ...] = ()
    command: str = ""
    to_fetch: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class _Seen:
    folders: dict[str, int] = field(default_factory=dict)
    looked_at: dict[str, list[int]] = field(default_factory=dict)


def remembered(name: str, *, is_checked: bool) -> Stock | None:
    """What was counted under a name, if nothing has changed since; None otherwise."""
    kept = files.read_json(_memo(name, is_checked))
    if not isinstance(kept, dict) or kept.get("key") != _key(name):
        return None
    state = kept.get("seen")
    if not isinstance(state, dict) or not _holds(state):
        return None
    try:
        splits = tuple(SplitStock(**one) for one in kept["stock"].pop("splits"))
        return Stock(**kept["stock"], splits=splits)
    except (KeyError, TypeError):
        return None


def remember(stock: Stock, state: dict[str, Any], *, is_checked: bool) -> None:
    """Keep what was counted.

    Args:
        stock: what.
        state: that of the data folder (:func:`look`) from before it was counted.
        is_checked: whether contents were compared even where that takes long.
    """
    kept = {"key": _key(stock.name), "seen": state, "stock": stock.to_dict()}
    with contextlib.suppress(StorageError):  # it is counted anew next time
        files.write_json(_memo(stock.name, is_checked), kept)


def look() -> dict[str, Any]:
    """The state of the data folder: when each folder changed, and each file of small folders."""
    state = _Seen()
    root = files.data_dir()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            state.folders[str(folder)] = folder.stat().st_mtime_ns
            with os.scandir(folder) as entries:
                inside = list(entries)
        except OSError:
            continue
        waiting += [Path(entry.path) for entry in inside if entry.is_dir()]
        plain = [entry for entry in inside if entry.is_file()]
        if len(plain) <= _LARGEST:
            for entry in plain:
                status = entry.stat()
                state.looked_at[entry.path] = [status.st_size, status.st_mtime_ns]
    return asdict(state)


def _holds(state: dict[str, Any]) -> bool:
    try:
        is_same = all(
            os.stat(folder).st_mtime_ns == time  # noqa: PTH116  (thousands of them)
            for folder, time in state["folders"].items()
        )
        return is_same and all(_state(path) == state for path, state in state["looked_at"].items())
    except (OSError, KeyError, AttributeError):
        return False


def _state(path: str) -> list[int]:
    status = os.stat(path)  # noqa: PTH116
    return [status.st_size, status.st_mtime_ns]


def _key(name: str) -> str:
    known: Sequence[str] = [*DATASETS.names(), "", *BENCHMARKS.names()]
    form = [f.name for cls in (SplitStock, Stock) for f in fields(cls)]
    return files.digest([VERSION, name, str(files.data_dir()), known, form])


def _memo(name: str, is_checked: bool) -> Path:
    word = "checked" if is_checked else "counted"
    return files.cache_dir() / "stock" / f"{files.file_name(name)}.{word}.json"
