"""ID sets that pre-trained networks are transferred to: DTD, Food-101, Pets, Caltech-101.

Each is read as torchvision unpacks it, as class folders ``<name>/{train,test}/<class>/*``, or as
Hugging Face parquet files. Splits are the official ones: of DTD the first of ten, of Pets
``trainval`` and ``test``. Caltech-101 has none: 30 images of each class, drawn by content, are for
training, as is usual, and all others are tested on; its background is left out.

``textures10-halves`` are ten classes of DTD with 40 images each; a half, drawn by content, is for
training, the other is tested on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.data.content import Content
from oodbench.data.samples import ImageFiles, Samples, image_folder
from oodbench.dataset import DatasetSpec
from oodbench.errors import DataError, OptionError

from . import _sources
from ._find import Reader, find, folders, parquet
from .validation import held_out


def _listed(
    bases: tuple[str, ...],
    lists: Mapping[str, str],
    images: str,
    entry: Callable[[str], tuple[str, str]],
) -> Reader:
    """Images that a split's list names, a line each.

    Args:
        bases: folders below the data folder that may hold it.
        lists: by split, the list below the base.
        images: the folder below the base that the paths are relative to.
        entry: path and class of a line.
    """

    def read(root: Path, name: str, split: str) -> Samples | None:
        if split not in lists:
            return None
        for base in (root / base for base in bases):
            path = base / lists[split]
            if not path.is_file():
                continue
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
                entries = [entry(line) for raw in lines if (line := raw.strip()) and line[0] != "#"]
            except (ValueError, IndexError) as error:
                raise DataError(
                    f"{name}: {path} has a line that names no image ({error}). Get it again."
                ) from error
            if not entries:
                raise DataError(f"{name}: {path} names no images. Get it again.")
            classes = sorted({label for _, label in entries})
            numbers = {label: number for number, label in enumerate(classes)}
            labels = [numbers[label] for _, label in entries]
            paths = [path for path, _ in entries]
            return ImageFiles(f"{name}/{split}", base / images, paths, labels, classes)
        return None

    def looked_for(split: str) -> list[str]:
        return [f"{bases[0]}/{lists[split]}"] if split in lists else []

    return Reader(read, looked_for)


def _in_folder(line: str) -> tuple[str, str]:
    """A line such as ``banded/banded_0002.jpg``."""
    folder, _, file = line.partition("/")
    if not folder or not file:
        raise ValueError(line)
    return line, folder


def _food(line: str) -> tuple[str, str]:
    """A line such as ``apple_pie/1005649``."""
    path, label = _in_folder(line)
    return f"{path}.jpg", label


def _pet(line: str) -> tuple[str, str]:
    """A line such as ``Abyssinian_100 1 1 1``: image, class, species, breed."""
    name = line.split()[0]
    label, _, _ = name.rpartition("_")
    if not label:
        raise ValueError(line)
    return f"{name}.jpg", label


def _validation_as_test(reader: Reader) -> Reader:
    """Of a snapshot without a test split the one called ``validation``, as Food-101's."""

    def read(root: Path, name: str, split: str) -> Samples | None:
        samples = reader(root, name, "validation") if split == "test" else None
        if samples is not None:
            samples.name = f"{name}/{split}"
        return samples

    return Reader(read)


def _spec(
    name: str,
    reader: Reader,
    label: str,
    how: str,
    splits: tuple[str, ...],
    **about: Any,
) -> DatasetSpec:
    snapshot = parquet("image", label)
    readers = (folders(f"{name}/{{split}}"), reader, snapshot, _validation_as_test(snapshot))

    def load(split: str) -> Samples:
        if split not in splits:
            raise OptionError(f"{name} has the splits {', '.join(splits)}, not {split!r}.")
        return find(name, split, readers, f"torchvision.datasets.{how}(root, download=True)")

    return DatasetSpec(name, load, splits, **about)


DTD = _spec(
    "dtd",
    _listed(
        ("dtd/dtd", "dtd"),
        {split: f"labels/{split}1.txt" for split in ("train", "val", "test")},
        "images",
        _in_folder,
    ),
    "label",
    "DTD",
    ("train", "val", "test"),
    description="Describable Textures, 47 classes, the first of its ten official splits",
    source="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    licence="research use",
    citation="Cimpoi et al. 2014, Describing Textures in the Wild, CVPR",
    downloads=_sources.DTD,
    contents={split: Content(1_880) for split in ("train", "val", "test")},
)
FOOD101 = _spec(
    "food101",
    _listed(
        ("food-101", "food101/food-101"),
        {split: f"meta/{split}.txt" for split in ("train", "test")},
        "images",
        _food,
    ),
    "label",
    "Food101",
    ("train", "test"),
    description="101 dishes, 1,000 photographs each",
    source="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    licence="see source",
    citation="Bossard et al. 2014, Food-101: Mining Discriminative Components with Random "
    "Forests, ECCV",
    downloads=_sources.FOOD101,
    contents={"train": Content(75_750), "test": Content(25_250)},
)
PETS = _spec(
    "pets",
    _listed(
        ("oxford-iiit-pet", "pets/oxford-iiit-pet"),
        {"train": "annotations/trainval.txt", "test": "annotations/test.txt"},
        "images",
        _pet,
    ),
    "label",
    "OxfordIIITPet",
    ("train", "test"),
    description="37 breeds of cats and dogs (Oxford-IIIT)",
    source="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    licence="CC BY-SA 4.0",
    citation="Parkhi et al. 2012, Cats and Dogs, CVPR",
    downloads=_sources.PETS,
    contents={"train": Content(3_680), "test": Content(3_669)},
)

CALTECH_TRAIN = 30
"""Training images of each class of Caltech-101."""


def _caltech(root: Path, name: str, split: str) -> Samples | None:
    for base in ("caltech101", "caltech-101", "."):
        folder = root / base / "101_ObjectCategories"
        if folder.is_dir():
            break
    else:
        return None
    whole = image_folder(f"{name}/{split}", folder)
    kept = np.array([c != "BACKGROUND_Google" for c in whole.classes])
    rows = np.flatnonzero(kept[whole.labels])
    # class by class in the order of digests, which is as good as random; equal images stay together
    order = np.lexsort((whole.digests[rows], whole.labels[rows]))
    rows = rows[order]
    labels, digests = whole.labels[rows], whole.digests[rows]
    is_new = np.r_[True, (labels[1:] != labels[:-1]) | (digests[1:] != digests[:-1])]
    first = np.maximum.accumulate(np.where(is_new, np.arange(len(rows)), 0))
    rank = first - np.searchsorted(labels, labels)
    rows = np.sort(rows[(rank < CALTECH_TRAIN) == (split == "train")])
    classes = [c for c in whole.classes if c != "BACKGROUND_Google"]
    number = np.cumsum(kept) - 1
    paths = [whole.paths[row] for row in rows]
    return ImageFiles(f"{name}/{split}", folder, paths, number[whole.labels[rows]], classes)


CALTECH101 = _spec(
    "caltech101",
    Reader(_caltech, ("caltech101/101_ObjectCategories",)),
    "label",
    "Caltech101",
    ("train", "test"),
    description="101 objects, 40 to 800 images each; 30 of each for training",
    source="https://data.caltech.edu/records/mzrjq-6wc02",
    licence="CC BY 4.0",
    citation="Fei-Fei et al. 2004, Learning Generative Visual Models from Few Training Examples",
    downloads=_sources.CALTECH101,
)


TEN = tuple(
    "banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched "
    "crystalline".split()
)
"""The classes of ``textures10-halves``."""


def _called(name: str, reader: Reader) -> Reader:
    """A reader of the test split of a set that is called otherwise on disk."""

    def read(root: Path, _: str, __: str) -> Samples | None:
        return reader(root, name, "test")

    return Reader(read, (f"{name}/**/test-*.parquet",))


def ten_textures(name: str, split: str) -> Samples:
    """All 400 images of the ten classes, under the name of a set that is made of them."""
    readers = (folders("textures10/test"), _called("textures10", parquet()), folders("textures10"))
    whole = find(name, split, readers, "ten classes of DTD, 40 images each")
    if whole.classes != TEN:
        raise DataError(f"{name} has the classes {', '.join(TEN)}, not {', '.join(whole.classes)}.")
    return whole


def _half(split: str) -> Samples:
    name = "textures10-halves"
    if split not in ("train", "test"):
        raise OptionError(f"{name} has the splits train, test, not {split!r}.")
    whole = ten_textures(name, split)
    half = held_out(whole, 0.5)[split == "test"]
    half.name = f"{name}/{split}"
    return half


TEXTURES10 = DatasetSpec(
    "textures10-halves",
    _half,
    ("train", "test"),
    description="ten classes of Describable Textures, 40 images each, short side 160; "
    "a half for training",
    source="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    licence="research use",
    citation="Cimpoi et al. 2014, Describing Textures in the Wild, CVPR",
)
