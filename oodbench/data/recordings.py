"""Folders of videos and of sounds, read as folders of images are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.data.audio import AudioFile
from oodbench.data.listing import class_folders, files_below, identity, is_image
from oodbench.data.samples import MultimodalSamples
from oodbench.data.video import VideoFile
from oodbench.errors import DataError, OODBenchWarning

VIDEO, AUDIO = "video", "audio"

SUFFIXES: Mapping[str, frozenset[str]] = {
    VIDEO: frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv .ts".split()),
    AUDIO: frozenset(".wav .flac .ogg .oga .opus .aif .aiff .au .mp3 .m4a .aac".split()),
}
"""Suffixes of the files of each modality, in lower case."""


def modality_of(root: Path) -> str | None:
    """``"video"`` or ``"audio"`` where such files are below a folder; None where images are.

    Raises:
        DataError: there are videos and sounds, and no image.
    """
    if not root.is_dir():
        return None
    first: dict[str, Path] = {}
    for path in files_below(str(root), root):
        suffix = path.suffix.lower()
        for modality, suffixes in SUFFIXES.items():
            if suffix in suffixes:
                first.setdefault(modality, path)
        if path.is_file() and is_image(path):
            return None
    if len(first) > 1:
        raise DataError(
            f"the folder {root} holds videos and sounds ({first[VIDEO].name}, "
            f"{first[AUDIO].name}): one kind is read. Put them apart; samples that are both are "
            "told by a class of your own, see docs/own-data.md."
        )
    return next(iter(first), None)


class Recordings(MultimodalSamples):
    """Videos, or sounds, that are files below one folder.

    Args:
        name: what messages call it.
        root: the folder.
        paths: files relative to it, in order.
        labels: ``[N]``.
        classes: class names.
        modality: ``"video"`` or ``"audio"``: a sample is a mapping from that to a handle, which
            reads its file when it is asked.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        paths: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        modality: str,
    ) -> None:
        super().__init__(name, labels, classes, (modality,))
        self.root, self.paths, self.modality = root, list(paths), modality

    def __getitem__(self, index: int) -> Any:
        """The recording at a position, by its modality."""
        path = self.root / self.paths[index]
        handle = VideoFile(path) if self.modality == VIDEO else AudioFile(path)
        return {self.modality: handle}

    def content(self, index: int) -> bytes:
        """What is in the file.

        Raises:
            DataError: it cannot be read.
        """
        path = self.root / self.paths[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.name}: cannot read {path} ({error.strerror or error}). Was it moved since "
                "the folder was listed?"
            ) from error


def recording_folder(name: str, root: Path, modality: str) -> Recordings:
    """Videos or sounds below a folder: one subfolder per class, or all of them in the folder.

    Raises:
        DataError: a class folder has none, or some are beside the class folders.
    """
    classes = class_folders(name, root)
    passed = {identity(folder) for folder in (root, *map(root.joinpath, classes.values()))}
    wanted, paths, labels, others = SUFFIXES[modality], [], [], 0
    for label, folder in enumerate(classes.values() or ["."]):
        below = list(files_below(name, root / folder, passed))
        kept = [path for path in below if path.suffix.lower() in wanted and path.is_file()]
        others += len(below) - len(kept)
        if not kept:
            raise DataError(
                f"{name}: the folder {root / folder} holds no {modality} files "
                f"({', '.join(sorted(wanted))}). Fill it, or remove it."
            )
        paths += sorted(path.relative_to(root).as_posix() for path in kept)
        labels += [label] * len(kept)
    loose = [p.name for p in root.iterdir() if p.suffix.lower() in wanted] if classes else []
    if loose:
        raise DataError(
            f"{name}: {len(loose)} {modality} files lie beside the class folders of {root} "
            f"({sorted(loose)[0]}). Move each into the folder of its class."
        )
    if others:
        text = f"{name}: {others} files below {root} are passed over, as they are no {modality}."
        warnings.warn(text, OODBenchWarning, stacklevel=2)
    return Recordings(name, root, paths, labels, list(classes) or ["all"], modality)
