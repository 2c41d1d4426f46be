"""What lies in the cache: outputs of networks, training runs, and the rest; how large, how old.

Everything there can be made again, so removing it costs time and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oodbench import files
from oodbench.caching.places import RETIRED, retire
from oodbench.errors import StorageError

Kind = Literal["outputs", "run", "other"]
ABOUT = "about.json"
"""A file beside cached outputs that says for people what they are of."""


@dataclass(frozen=True)
class Kept:
    """Something in the cache.

    Args:
        kind: what a network gave (``"outputs"``), a training run, or what is small and made again
            in seconds (``"other"``).
        what: what it is of, for people.
        path: its folder.
        size: of all its files, in bytes.
        changed: when a file of it was last written, in seconds since the epoch.
        is_in_use: whether a process works on it now.
    """

    kind: Kind
    what: str
    path: Path
    size: int
    changed: float
    is_in_use: bool = False

    @property
    def age(self) -> float:
        """Seconds since it was last written."""
        return max(0.0, time.time() - self.changed)


def note(folder: Path, network: str, samples: str) -> None:
    """Note what outputs are of; they are as good without, so what cannot be written is left."""
    text = json.dumps({"network": network, "samples": samples})
    with suppress(OSError, StorageError):
        files.write_text(folder / ABOUT, text)


def kept() -> list[Kept]:
    """All that lies in the cache, the largest first."""
    root = files.cache_dir()
    items = [*_outputs(root), *_runs(root), *_others(root)]
    return sorted(items, key=lambda one: -one.size)


def remove(one: Kept) -> bool:
    """Remove something from the cache, whole; False where a process works on it.

    It is taken out of use first, so that nobody meets a part of it.

    Raises:
        StorageError: it cannot be renamed.
    """
    if one.is_in_use:
        return False
    retire(one.path)
    return True


def _outputs(root: Path) -> Iterator[Kept]:
    locked = _locked(root)
    for folder in _folders(root / "outputs"):
        if (folder / RETIRED).exists():
            continue
        what = _about(folder)
        yield _of("outputs", what, folder, any(folder.name.startswith(key) for key in locked))


def _runs(root: Path) -> Iterator[Kept]:
    locked = _locked(root)
    for folder in _folders(root / "runs"):
        key = folder.name.rpartition("-")[2]
        is_done = (folder / "weights.safetensors").is_file()
        what = folder.name if is_done else f"{folder.name} (unfinished)"
        yield _of("run", what, folder, any(name.startswith(key) for name in locked))


def _others(root: Path) -> Iterator[Kept]:
    for folder in _folders(root):
        if folder.name not in ("outputs", "runs", "locks"):
            yield _of("other", folder.name, folder, False)


def _folders(parent: Path) -> list[Path]:
    try:
        inside = sorted(parent.iterdir())
    except OSError:
        return []
    return [path for path in inside if path.is_dir() and not path.name.startswith(".")]


def _locked(root: Path) -> list[str]:
    """The keys that processes work on."""
    with suppress(OSError):
        return [path.stem for path in (root / "locks").iterdir() if path.suffix == ".lock"]
    return []


def _about(folder: Path) -> str:
    """What outputs are of; those of before that was noted are called by their key."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        what = f"{about['network']} on {about['samples']}"
    except (OSError, ValueError, KeyError, TypeError):
        what = folder.name[:16]
    return what if (folder / "outputs.json").is_file() else f"{what} (unfinished)"


def _of(kind: Kind, what: str, folder: Path, is_in_use: bool) -> Kept:
    size, changed = 0, 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):  # it went away meanwhile
            stats = path.lstat()
            size += stats.st_size if not path.is_dir() else 0
            changed = max(changed, stats.st_mtime)
    return Kept(kind, what, folder, size, changed, is_in_use)
