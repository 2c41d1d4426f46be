"""Stored results that are named: by their file, by the name of it, or by a detector's name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from oodbench import files
from oodbench.errors import OptionError
from oodbench.results import stored
from oodbench.results.store import ResultStore
from oodbench.results.stored import StoredResult


def find(name: str, folders: list[Path]) -> list[StoredResult]:
    """The results that a name stands for.

    Args:
        name: a result's file; the name of one without its ending, or the beginning of that name
            that only it has; or a detector, all of whose results are meant.
        folders: of benchmarks' results, in which names are looked for.

    Raises:
        OptionError: there is none.
        OODBenchError: a file that is no result.
    """
    path = files.user_path(name)
    if path.suffix == ".json":
        if not path.is_file() and path.stem not in stored.packed_beside(path):
            raise OptionError(f"there is no result {path}. Give a file that is there.")
        return [stored.read(path)]
    own = [stored.read(path) for path in _candidates(name, folders)]
    by_detector = [result for result in own if name in _names(result)]
    if by_detector:
        return sorted(by_detector, key=lambda result: result.rows[0]["created"])
    if len(own) == 1:
        return own
    if own:
        listing = ", ".join(result.path.stem for result in own[:5])
        raise OptionError(f"{name} stands for {len(own)} results ({listing} …). Name one of them.")
    known = sorted({path.stem.rpartition("-")[0] for path in _all(folders)})
    near = difflib.get_close_matches(name, known, n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    where = ", ".join(str(folder) for folder in folders[:3]) or "the leaderboards"
    raise OptionError(f"there is no result, and no detector's, called {name!r} in {where}.{meant}")


def _names(result: StoredResult) -> set[str]:
    """A detector's name, and that of it on the modality whose predictions it scored."""
    row = result.rows[0]
    modality = row.get("modality")
    return {row["detector"], f"{row['detector']} ({modality})" if modality else row["detector"]}


def _candidates(name: str, folders: list[Path]) -> list[Path]:
    detector = name.partition(" (")[0]  # behind which its modality may stand
    beginnings = {name, files.file_name(detector)}
    return [
        path
        for path in _all(folders)
        if any(path.stem == one or path.stem.startswith(one) for one in beginnings)
    ]


def _all(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from stored.paths_in(folder)


def folders_of(leaderboards: Path, benchmark: str | None) -> list[Path]:
    """Folders of results: that of a benchmark, or all.

    Raises:
        OptionError: there is none.
    """
    if benchmark is not None:
        folders = [ResultStore(leaderboards).path(benchmark)]
    else:
        folders = sorted(path for path in (leaderboards / "results").glob("*") if path.is_dir())
    if not folders or not any(folder.is_dir() for folder in folders):
        about = f" of {benchmark}" if benchmark else ""
        raise OptionError(
            f"there are no results{about} in {leaderboards / 'results'}. Name another folder with "
            "`leaderboards`, or give results as files."
        )
    return folders
