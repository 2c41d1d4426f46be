"""MultiOOD's clips as samples: which are there, what they are called, and their content keys."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oodbench import files
from oodbench.data.samples import MultimodalSamples, content_digest
from oodbench.errors import DataError, MissingDataError, OODBenchWarning, OptionError

from .layouts import FOLDER, LAYOUTS, VIDEO, Layout
from .splits import Clip, read_split


class Tree:
    """Sizes of the files below a folder; each folder is listed once, when it is first asked for.

    Args:
        base: the folder.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self._known: dict[str, dict[str, int]] = {}

    def size(self, path: str) -> int:
        """Bytes of a file, relative to the folder; 0 if it is missing."""
        folder, _, name = path.rpartition("/")
        if folder not in self._known:
            self._known[folder] = dict(self._list(self.base / folder))
        return self._known[folder].get(name, 0)

    @staticmethod
    def _list(folder: Path) -> Iterator[tuple[str, int]]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        if entry.is_file():
                            yield entry.name, entry.stat().st_size
                    except OSError:  # a link to nothing
                        continue
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise DataError(f"cannot list {folder} ({error.strerror}).") from error


class Clips(MultimodalSamples):
    """Clips whose files are read when they are needed.

    A sample's digest is of the relative path and the size of each of its files, and, in
    EPIC-Kitchens, of which seconds of sound are its own: not of their content, as of other
    datasets, because reading 100 GB of video takes hours, and it would be read again each time. A
    file that was cut off or encoded anew has another size; one that was changed and kept its size
    goes unnoticed.

    Args:
        name: what messages call it.
        base: the folder that paths are relative to.
        layout: where the files are.
        clips: N samples.
        labels: ``[N]``.
        classes: class names.
        modalities: of each sample.
    """

    def __init__(
        self,
        name: str,
        base: Path,
        layout: Layout,
        clips: Sequence[Clip],
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        modalities: Sequence[str],
    ) -> None:
        super().__init__(name, labels, classes, modalities)
        self.base, self.layout, self.clips = base, layout, list(clips)

    def __getitem__(self, index: int) -> Any:
        """By modality ``video`` (RGB), ``flow`` (x, y) and ``audio``, as handles."""
        clip = self.clips[index]
        return {name: self.layout.open(self.base, clip, name) for name in self.modalities}

    def _digests(self) -> np.ndarray:
        tree = Tree(self.base)
        digests = np.zeros(len(self), np.uint64)
        for row, clip in enumerate(self.clips):
            lines = [f"{clip.start} {clip.stop}"] if "audio" in self.modalities else []
            for modality in self.modalities:
                for path in self.layout.paths(self.base, clip, modality):
                    size = tree.size(path)
                    if not size:
                        raise DataError(
                            f"{self.name}: {self.base / path} is gone since the samples were "
                            "listed. Get it again."
                        )
                    lines.append(f"{path}\0{size}")
            digests[row] = content_digest("\n".join(lines).encode())
        return digests


def _classes(layout: Layout, clips: Sequence[Clip]) -> dict[int, str]:
    """Class names by published label, in the order of labels.

    Raises:
        DataError: a label has two names.
    """
    names: dict[int, str] = {}
    for clip in clips:
        name = layout.class_name(clip)
        if names.setdefault(clip.label, name) != name:
            raise DataError(f"label {clip.label} is both {names[clip.label]!r} and {name!r}.")
    return dict(sorted(names.items()))


def _whole(
    name: str, base: Path, layout: Layout, clips: list[Clip], modalities: Sequence[str]
) -> list[Clip]:
    """The clips of which all files are there: all of them, unless others may be left out.

    Raises:
        MissingDataError: no file of any clip is there.
        DataError: files of some are missing.
    """
    tree = Tree(base)
    whole, missing, any_file = [], [], False
    for clip in clips:
        paths = [path for part in modalities for path in layout.paths(base, clip, part)]
        lacking = [path for path in paths if not tree.size(path)]
        any_file |= len(lacking) < len(paths)
        missing += lacking[:1]
        if not lacking:
            whole.append(clip)
    if not missing:
        return whole
    if not any_file:
        raise MissingDataError(
            f"{name}: none of its {len(clips):,} samples is below {base / layout.folder}; the "
            f"first file that is looked for is {base / missing[0]}. Get it: `oodbench data "
            "prepare multiood` says where each file comes from and where it goes; or set "
            "OODBENCH_DATA to the folder that has it."
        )
    shortage = f"{len(missing):,} of {len(clips):,} samples lack files"
    first = ", ".join(str(base / path) for path in missing[:3])
    if os.environ.get("OODBENCH_SKIP_MISSING", "") in ("", "0") or not whole:
        skip = (
            ", or set OODBENCH_SKIP_MISSING=1 to leave such samples out: then results do not "
            "compare with others"
        )
        raise DataError(
            f"{name}: {shortage}; the first are {first}. `oodbench data prepare multiood` lists "
            f"all. Get them{skip if whole else ': no sample has all of its files'}."
        )
    warnings.warn(
        f"{name}: {shortage} (the first: {first}) and are left out, as OODBENCH_SKIP_MISSING asks; "
        "results do not compare with others.",
        OODBenchWarning,
        stacklevel=2,
    )
    return whole


@dataclass(frozen=True)
class ListedClips:
    """Reads the clips that split files list, as the ``load`` of a dataset.

    Args:
        name: of the dataset, for messages.
        layout: a key of ``LAYOUTS``.
        lists: names of split files, by split.
        modalities: that are read of each clip.
    """

    name: str
    layout: str
    lists: Mapping[str, tuple[str, ...]]
    modalities: tuple[str, ...] = VIDEO

    def __call__(self, split: str) -> Clips:
        """The clips of a split.

        Raises:
            OptionError: there is no such split.
            MissingDataError: split files or clips are not there; the message says how to get them.
            DataError: split files are damaged, or only some of the clips are there.
        """
        lists = self.lists
        if split not in lists:
            raise OptionError(f"{self.name} has the splits {', '.join(lists)}, not {split!r}.")
        base, place = files.data_dir() / FOLDER, LAYOUTS[self.layout]
        title = f"{self.name}/{split}"
        try:
            clips = [clip for file in lists[split] for clip in read_split(base, file)]
            # An ID set's splits have the classes of its training split, whatever is in them.
            known = lists.get("train", lists[split])
            first = (
                clips if known == lists[split] else [c for f in known for c in read_split(base, f)]
            )
            classes = _classes(place, first)
            _classes(place, [*first, *clips])
        except MissingDataError as error:
            raise MissingDataError(
                f"{title}: {error} Get it: `oodbench data prepare multiood` fetches the split "
                "files and says where all others come from and where they go; or set OODBENCH_DATA "
                "to the folder that has it."
            ) from error
        except DataError as error:
            raise DataError(f"{title}: {error}") from error
        rank = {label: i for i, label in enumerate(classes)}
        unknown = {clip.label for clip in clips} - set(rank)
        if unknown:
            raise DataError(f"{title}: no training sample has the label {min(unknown)}.")
        clips = _whole(title, base, place, clips, self.modalities)
        labels = [rank[clip.label] for clip in clips]
        return Clips(title, base, place, clips, labels, tuple(classes.values()), self.modalities)
