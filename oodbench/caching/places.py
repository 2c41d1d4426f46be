"""Where the outputs of a key lie in the cache, and how they are taken out of use.

Where somebody has arrays of a folder mapped, Windows neither renames nor removes it. Such a folder
is marked instead, and what is made anew lies in another one beside it, so that nothing is ever
written over what is read.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from oodbench import files
from oodbench.disk import leftovers

RETIRED = "retired"
"""A file in a folder that is out of use; its name is not taken again."""


def folder_of(key: str) -> Path:
    """The folder of a key: the first of ``key``, ``key-1``, ``key-2`` … that is not retired."""
    return next(folder for folder in _folders(key) if not (folder / RETIRED).exists())


def _folders(key: str) -> itertools.chain[Path]:
    home = files.cache_dir() / "outputs"
    others = (home / f"{key}-{number}" for number in itertools.count(1))
    return itertools.chain([home / key], others)


def retire(folder: Path) -> None:
    """Take a folder out of use: at once for other processes, and removed as far as possible.

    Raises:
        StorageError: it can be neither renamed nor written to.
    """
    aside = folder.with_name(leftovers.temporary_name(folder.name))
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return
    except OSError:  # mapped on Windows, or on a file system that renames no folders
        files.write_bytes(folder / RETIRED, b"")
        _empty(folder)
    else:
        leftovers.remove(aside)


def sweep(key: str) -> None:
    """Remove what is left of a key's folders that are out of use, as far as it is not mapped."""
    for folder in _folders(key):
        if not (folder / RETIRED).exists():
            return
        _empty(folder)


def _empty(folder: Path) -> None:
    """What says that it is complete goes first."""
    inside = [folder / "outputs.json", *folder.iterdir()]
    for path in inside:
        if path.name != RETIRED:
            leftovers.remove(path)
