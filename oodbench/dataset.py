"""DatasetSpec: where a dataset comes from and how a split is read; datasets by their names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oodbench import files
from oodbench.data.content import Content
from oodbench.data.recordings import modality_of, recording_folder
from oodbench.data.samples import Samples, image_folder
from oodbench.data.transforms import Preprocess
from oodbench.download.described import Download
from oodbench.errors import MissingDataError, UnknownNameError, did_you_mean
from oodbench.registry import DATASETS


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset: where it comes from, and how a split of it is read.

    Args:
        name: its name in rows and on the command line.
        load: ``load(split)`` returns the split's :class:`Samples`; raises ``MissingDataError``
            naming the folders that were looked for and how to get the data.
        splits: the splits there are; an OOD set is read from the last, an ID set must have
            ``train`` and ``test``, and ``val`` if hyper-parameters can be chosen on it.
        description: one line for people.
        source: where the data comes from.
        licence: what its publisher allows.
        citation: paper or person to cite.
        downloads: the sources that it can be fetched from, best first.
        contents: what splits hold where they are as published; others are told in rows.
        preprocess: how networks that were trained on it usually see images, where that goes by its
            name (``preprocess="cifar10"``) and no benchmark of the name says it.
    """

    name: str
    load: Callable[[str], Samples]
    splits: tuple[str, ...] = ("test",)
    description: str = ""
    source: str = ""
    licence: str = ""
    citation: str = ""
    downloads: tuple[Download, ...] = ()
    preprocess: Preprocess | None = None
    contents: Mapping[str, Content] = field(default_factory=dict, hash=False)

    def difference(self, split: str, samples: Samples) -> str | None:
        """What is other about a split's samples than was published; None for nothing known."""
        content = self.contents.get(split)
        return None if content is None else content.difference(samples)


def resolve_dataset(name: str, known: Sequence[str] = ()) -> DatasetSpec:
    """The dataset of a name: registered, ``folder:PATH``, or image folders in the data folder.

    Raises:
        UnknownNameError: none of these; the message suggests the nearest of all known names.
    """
    if name.partition(":")[0] in DATASETS:
        dataset = DATASETS.resolve(name)
        if isinstance(dataset, DatasetSpec):
            return dataset
        raise UnknownNameError(f"the dataset {name!r} wants an argument: {_with_argument(name)}.")
    root = files.data_dir() / name
    if "/" not in name and ":" not in name and name not in ("", ".", "..") and root.is_dir():
        return folder_spec(name, root)
    guess = did_you_mean(name, [*known, *DATASETS.names()])
    if not guess and known:
        guess = f" The benchmark's own are {', '.join(map(repr, known[:8]))}."
    raise UnknownNameError(
        f"no dataset named {name!r}, and no folder {root}.{guess} "
        "See `oodbench list datasets`; your own images: folder:PATH."
    )


def _with_argument(name: str) -> str:
    """How a dataset that wants an argument is written, ``folder:PATH``."""
    parameters = inspect.signature(DATASETS.get(name)).parameters  # type: ignore[arg-type]
    argument = next(iter(parameters), "argument")
    return f"{name}:{argument.removesuffix('_name').upper()}"


def name_is_there(name: str) -> bool:
    """Whether ``NAME`` or ``GROUP=NAME`` is that of a folder which exists, wherever it is."""
    group, equals, bare = name.partition("=")
    is_grouped = bool(equals) and "," not in group  # a comma there ends another name
    return names_a_folder(name) or (is_grouped and names_a_folder(bare))


def names_a_folder(name: str) -> bool:
    """Whether a name stands for a folder that exists: below the data folder, or after a colon."""
    if ":" not in name:
        return bool(name) and "/" not in name and (files.data_dir() / name).is_dir()
    head, _, path = name.partition(":")
    while path and re.fullmatch(r"[\w-]+", head):
        if Path(path).expanduser().is_dir():
            return True
        head, _, path = path.partition(":")  # a name may have another as its argument
    return False


def folder_spec(name: str, root: Path, *, flat: bool = True) -> DatasetSpec:
    """Anybody's folders as a dataset: ``root/<split>/<class>/*`` or ``root/<class>/*``.

    They hold images, or else videos, or sounds.

    Args:
        name: of the dataset.
        root: the folder.
        flat: whether all below ``root`` is the test split where there is no ``root/test``. An ID
            set must not be: its training images, or a forgotten split, would be tested on. It may
            have a ``val`` split as well.
    """

    def load(split: str) -> Samples:
        inner = root / split
        if flat and split == "test" and not inner.is_dir():
            inner = root
        if split == "val" and not inner.is_dir():
            raise MissingDataError(
                f"{name}: there is no folder {inner}, and hyper-parameters are chosen on its "
                f"images. Make it: move a tenth of each class from {root / 'train'} to "
                f"{inner}/<class>/*.png."
            )
        if not inner.is_dir():
            raise MissingDataError(
                f"{name}: there is no folder {inner}. "
                f"Put the {split} images there, one folder per class: {inner}/<class>/*.png."
            )
        modality = modality_of(inner)
        if modality is not None:
            return recording_folder(f"{name}/{split}", inner, modality)
        return image_folder(f"{name}/{split}", inner)

    return DatasetSpec(
        name=name,
        load=load,
        splits=("train", "test") if flat else ("train", "val", "test"),
        description=f"files below {root}",
        source=str(root),
    )
