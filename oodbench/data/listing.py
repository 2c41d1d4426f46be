"""Which files below a folder are images, and what was passed over."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oodbench.data.images import FORMATS, SUFFIXES, frames, signature
from oodbench.errors import DataError

_SYSTEM = frozenset(
    {
        *"__macosx @eadir #recycle $recycle.bin __pycache__ lost+found".split(),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "system volume information"),
    }
)
_BESIDE = frozenset(
    """
    .txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .html .htm .pdf .log .py
    .ipynb .sh .url .lnk .md5 .sha1 .sha256 .bib .doc .docx .xls .xlsx .db
    """.split()
)
_BESIDE_NAMES = frozenset(
    "readme license licence copying notice authors changelog contributing makefile md5sums "
    "sha1sums sha256sums checksums".split()
)
"""What lies beside images and is none: metadata, notes. Nothing is said of them."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is an operating system's or a tool's, by its name."""
    return name.startswith(".") or name.lower() in _SYSTEM


@dataclass
class Listing:
    """What there is below one folder.

    Args:
        images: paths relative to the root, sorted.
        others: files that are no images by their names, and are not known as metadata either.
        broken: links that lead nowhere.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def list_images(
    name: str, root: Path, folder: str = ".", passed: Collection[tuple[int, int]] = ()
) -> Listing:
    """The images below ``root / folder``, links followed, each folder once.

    Args:
        name: what messages call it.
        root: paths are relative to it.
        folder: where to look; ``"."`` for the root itself.
        passed: folders that are not gone into, wherever links lead; see :func:`identity`.

    Raises:
        DataError: a folder that cannot be read.
    """
    listing = Listing()
    for path in files_below(name, root / folder, passed):
        relative = path.relative_to(root).as_posix()
        if not path.is_file():
            if path.is_symlink() and not path.exists():
                listing.broken.append(relative)
        elif is_image(path):
            listing.images.append(relative)
        elif path.suffix.lower() not in _BESIDE and path.stem.lower() not in _BESIDE_NAMES:
            listing.others.append(relative)
    listing.images.sort()
    return listing


def files_below(
    name: str, folder: Path, passed: Collection[tuple[int, int]] = ()
) -> Iterator[Path]:
    """All files below a folder that are not hidden; arguments and errors of :func:`list_images`."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{name}: cannot read the folder {error.filename} ({error.strerror}).")

    seen = {identity(folder), *passed}
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        kept = []
        for inner in sorted(folders):
            if is_hidden(inner) or (identifier := identity(Path(place, inner))) in seen:
                continue
            seen.add(identifier)
            kept.append(inner)
        folders[:] = kept
        yield from (Path(place, file) for file in sorted(names) if not is_hidden(file))


def identity(path: Path) -> tuple[int, int]:
    """What a file or folder is, by whatever links it is reached."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def class_folders(name: str, root: Path) -> dict[str, str]:
    """By class name, in order, the folder below the root.

    Raises:
        DataError: the root cannot be read, or two folders have one name in composed form.
    """
    folders: dict[str, str] = {}
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise DataError(f"{name}: cannot read the folder {root} ({error.strerror}).") from error
    for entry in entries:
        if is_hidden(entry.name) or not entry.is_dir():
            continue
        # a disk that was written on another system has the same letters as other code points
        title = unicodedata.normalize("NFC", entry.name)
        if title in folders:
            raise DataError(f"{name}: two folders in {root} are called {title!r}. Rename one.")
        try:
            title.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{name}: the name of the folder {entry!r} is no text.") from error
        folders[title] = entry.name
    return dict(sorted(folders.items()))


def loose_images(name: str, root: Path, folders: list[str], count: int) -> list[str]:
    """What is said of images that lie beside class folders, ``count`` of which are read.

    Raises:
        DataError: there are as many as in the folders: which of them are the data?
    """
    entries = [entry for entry in root.iterdir() if not is_hidden(entry.name)]
    loose = sorted(entry.name for entry in entries if entry.is_file() and is_image(entry))
    broken = sorted(entry.name for entry in entries if entry.is_symlink() and not entry.exists())
    if loose and len(loose) >= count:
        raise DataError(
            f"{name}: {root} holds {len(loose)} images of its own (such as {loose[0]}) and "
            f"{count} in folders ({', '.join(folders[:3])}), and either could be the data. Move "
            "the images into class folders, or take the folders away."
        )
    passed = passed_over(root, [], broken)
    if loose:
        passed.append(
            f"{len(loose)} images in {root} itself (such as {loose[0]}) are in no class folder "
            "and were passed over."
        )
    return passed


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix; without a suffix, by its first bytes."""
    if path.suffix:
        return path.suffix.lower() in SUFFIXES
    try:
        with path.open("rb") as handle:
            return signature(handle.read(64)) in FORMATS
    except OSError:
        return False


def passed_over(root: Path, others: Sequence[str], broken: Sequence[str]) -> list[str]:
    """A sentence each for files that are not read and for links that lead nowhere."""
    parts = []
    if others:
        kinds = Counter(Path(path).suffix.lower() or "no suffix" for path in others)
        counts = ", ".join(f"{count} with {kind}" for kind, count in kinds.most_common(5))
        parts.append(
            f"{len(others)} files below {root} are no images that are read ({counts}; such as "
            f"{others[0]}) and were passed over."
        )
    if broken:
        parts.append(
            f"{len(broken)} links below {root} lead nowhere (such as {broken[0]}) and were passed "
            "over."
        )
    return parts


_MOVING = frozenset({".gif", ".webp", ".tif", ".tiff", ".avif", ".apng"})


def several_frames(root: Path, paths: Sequence[str], most: int = 1000) -> str | None:
    """A sentence on files with several frames or pages, if some of those looked into have them.

    Looked into are files of formats that often have, at most ``most``, and a few of PNG.
    """
    moving = [path for path in paths if Path(path).suffix.lower() in _MOVING]
    still = [path for path in paths if Path(path).suffix.lower() == ".png"]
    looked = moving[:: max(1, len(moving) // most)] + still[:: max(1, len(still) // 8)]
    animated = [path for path in looked if frames(root / path) > 1]
    if not animated:
        return None
    return (
        f"{len(animated)} files below {root} have several frames or pages (such as {animated[0]}); "
        "of each the first is read."
    )
