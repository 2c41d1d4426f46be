"""Finding a dataset below the data folder: image folders, torchvision downloads, parquet files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oodbench import files
from oodbench.data.images import SUFFIXES
from oodbench.data.listing import files_below
from oodbench.data.samples import ImageArrays, Samples, image_folder
from oodbench.errors import DataError, MissingDataError

from ._parquet import ParquetImages as ParquetImages
from ._parquet import read_shards, shards_of

Read = Callable[[Path, str, str], Samples | None]
"""``read(root, name, split)``: the samples, or None where its layout is not there."""


@dataclass(frozen=True)
class Reader:
    """Reads one layout of a dataset, and says for messages what that looks like.

    Args:
        read: reads the samples of a split, if they are there.
        looked_for: paths below the data folder, in which ``{name}`` and ``{split}`` stand for the
            dataset's and the split's names; or a function from the split to such paths.
    """

    read: Read
    looked_for: Sequence[str] | Callable[[str], Sequence[str]] = ()

    def __call__(self, root: Path, name: str, split: str) -> Samples | None:
        """The samples of a split, or None where the layout is not there."""
        return self.read(root, name, split)


def folders(*layouts: str) -> Reader:
    """Image folders below the data folder; ``{split}`` stands for the split's name."""

    def read(root: Path, name: str, split: str) -> Samples | None:
        for layout in layouts:
            folder = root / layout.format(split=split)

            if folder.is_dir() and not _is_of_parquet_files(folder):
                return image_folder(f"{name}/{split}", folder)
        return None

    return Reader(read, layouts)


def _is_of_parquet_files(folder: Path) -> bool:
    """Whether a folder holds parquet files and no image; then another reader is for it."""
    has_parquet = False
    for path in files_below(folder.name, folder):
        if path.suffix.lower() in SUFFIXES:
            return False
        has_parquet |= path.suffix == ".parquet"
    return has_parquet


def torchvision_arrays(
    marker: str, build: Callable[[Path, str], Any], splits: Sequence[str] = ("train", "test")
) -> Reader:
    """A torchvision download, whose checksums are verified before it is read.

    Args:
        marker: the file or folder that shows that the download is there.
        build: ``build(root, split)`` makes the torchvision dataset with ``download=False``; it has
            ``data`` and ``targets`` or ``labels``. It verifies the checksums (torchvision does for
            CIFAR and SVHN, not for MNIST).
        splits: the splits that it has.
    """

    def read(root: Path, name: str, split: str) -> Samples | None:
        for base in (root, root / name):
            if split not in splits or not (base / marker).exists():
                continue
            try:
                dataset = build(base, split)
            except (RuntimeError, OSError, ValueError, AssertionError) as error:
                raise DataError(
                    f"{name}: the torchvision download {base / marker} is incomplete or changed "
                    f"({error}). Download it again."
                ) from error
            images = np.asarray(dataset.data)
            if images.ndim == 4 and images.shape[1] == 3:  # SVHN has channels first
                images = images.transpose(0, 2, 3, 1)
            labels = np.asarray(getattr(dataset, "targets", getattr(dataset, "labels", None)))
            classes = getattr(dataset, "classes", None) or [str(c) for c in range(labels.max() + 1)]
            return ImageArrays(f"{name}/{split}", np.ascontiguousarray(images), labels, classes)
        return None

    return Reader(read, (marker,))


def parquet(
    image: str = "image",
    label: str | None = "label",
    *,
    config: str | None = None,
    refused: Sequence[str] = (),
    published: Sequence[str] = (),
    together: bool = False,
) -> Reader:
    """A snapshot of parquet files as the Hugging Face hub has them; see :func:`shards_of`.

    Args:
        image: the images' column.
        label: the labels'.
        config: the configuration, where the hub has several.
        refused: other configurations, which hold other images.
        published: what the hub calls the test split, in order of preference.
        together: whether all of these are the test split together.
    """

    def read(root: Path, name: str, split: str) -> Samples | None:
        shards: list[Path] = []
        for one in published if published and split == "test" else (split,):
            if together or not shards:
                shards += shards_of(root, name, one, config, refused)
        return read_shards(shards, f"{name}/{split}", image, label) if shards else None

    return Reader(read, ("{name}/**/{split}-*.parquet",))


def find(name: str, split: str, readers: Sequence[Read], how_to_get: str) -> Samples:
    """The first layout of a dataset that is there.

    Raises:
        MissingDataError: none is; the message names what was looked for and how to get it.
    """
    root = files.data_dir()
    for reader in readers:
        samples = reader(root, name, split)
        if samples is not None:
            return samples
    looked = []
    for reader in readers:
        layouts = reader.looked_for if isinstance(reader, Reader) else ()
        layouts = layouts(split) if callable(layouts) else layouts
        looked += [layout.format(name=name, split=split) for layout in layouts]
    raise MissingDataError(
        f"{name}: no {split} images in {root} (looked for {', '.join(looked)}). "
        f"Get it: {how_to_get}, or set OODBENCH_DATA to the folder that has it."
    )
