"""ImageNet as OOD for networks that were pre-trained on it: its classes that are not in an ID set.

``imagenet`` are the validation images of ILSVRC 2012 in class folders, ``imagenet500`` one
photograph of each of 500 classes. ``imagenet-without:ID`` and ``imagenet500-without:ID`` leave out
the classes that show what a class of the ID set shows. Which these are stands line by line in
``ptood_overlap.tsv``: ID set, its class, WordNet id, ImageNet's name. An image of an ID class among
the OOD images is the worse error, so the table is generous: kinds, parts, look-alikes, and things
that photographs of the ID class regularly hold. For ``folder:PATH``, whose classes no table knows,
classes are matched by name: a folder called by a WordNet id or by any of a class's names.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from oodbench.data.content import Content
from oodbench.data.samples import Samples, Subset
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import DataError, UnknownNameError

from . import _sources
from ._find import find, folders, parquet
from .folder import IMAGENET_MEAN, IMAGENET_STD, folder_benchmark
from .transfer import TEN

CITATION = "Deng et al. 2009, ImageNet: A Large-Scale Hierarchical Image Database, CVPR"
OVERLAP = Path(__file__).with_name("ptood_overlap.tsv")

_LAYOUTS = {
    "imagenet": (
        "imagenet/val",
        "imagenet/test",
        "ILSVRC2012/val",
        "imagenet/ILSVRC/Data/CLS-LOC/val",
    ),
    "imagenet500": ("imagenet500/{split}",),
}


def _load(name: str, split: str) -> Samples:
    samples = find(
        name,
        split,
        (folders(*_LAYOUTS[name]), parquet(published=("validation", "val", "test"))),
        "ILSVRC2012_img_val.tar of https://image-net.org, unpacked into one folder per class "
        "(<wordnet id>/*.JPEG)",
    )
    samples.classes = _wordnet_ids(samples.classes)
    strange = [c for c in samples.classes if _wordnet_id(c) is None]
    if strange:
        raise DataError(
            f"{name}: images of ImageNet must lie in folders that begin with a WordNet id "
            f"(n01440764), not {', '.join(map(repr, strange[:3]))}. Sort them into class folders."
        )
    return samples


def _wordnet_ids(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Class names with ids where they are ImageNet-1k's own, in order, as the hub has them."""
    if len(classes) < 1000 or _wordnet_id(classes[0]) is not None:
        return classes
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    names = [_plain(text) for text in info.label_descriptions()]
    ids = tuple(f"{one} {text}" for one, text in zip(info.label_names(), classes, strict=False))
    return ids if [_plain(text) for text in classes] == names else classes


def _wordnet_id(folder: str) -> str | None:
    match = re.match(r"n\d{8}(?!\d)", folder)
    return match and match.group()


IMAGENET = DatasetSpec(
    "imagenet",
    partial(_load, "imagenet"),
    description="ImageNet-1k validation images",
    source="https://image-net.org",
    licence="non-commercial research",
    citation=CITATION,
    downloads=_sources.IMAGENET,
    contents={"test": Content(50_000)},
    preprocess=Preprocess(224, IMAGENET_MEAN, IMAGENET_STD, resize="crop", pre_size=256),
)
IMAGENET500 = DatasetSpec(
    "imagenet500",
    partial(_load, "imagenet500"),
    description="one photograph of each of 500 ImageNet-1k classes, short side 180",
    source="https://image-net.org",
    licence="non-commercial research",
    citation=CITATION,
)


@cache
def _table() -> dict[str, dict[str, dict[str, str]]]:
    """By ID set and class: WordNet ids, and ImageNet's names of them."""
    by_id_set: dict[str, dict[str, dict[str, str]]] = {}
    with OVERLAP.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            by_class = by_id_set.setdefault(row["dataset"], {})
            by_class.setdefault(row["class"], {})[row["wnid"]] = row["imagenet_class"]
    return by_id_set


_PARTS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "cifar10-small": ("cifar10", None),
    "textures10": ("dtd", TEN),
}
"""ID sets that are a part of one that the table has: its name, and their classes (None: all)."""


def overlap(id_name: str) -> dict[str, dict[str, str]]:
    """The ImageNet-1k classes that an ID set has as well.

    Args:
        id_name: an ID set of the table, or ``folder:PATH``.

    Returns:
        By ID class, WordNet ids and ImageNet's names of them; no entry for a class without any.

    Raises:
        UnknownNameError: an ID set that the table does not have.
        MissingDataError: the folder has no training images.
    """
    if id_name.startswith("folder:"):
        return by_name(_folder(id_name).load("train").classes)
    table = _table()
    name, classes = _PARTS.get(id_name, (id_name, None))
    if name not in table:
        known = sorted({*table, *_PARTS})
        raise UnknownNameError(
            f"no table says which ImageNet classes are in {id_name!r}. Those with a table: "
            f"{', '.join(known)}; your own images: folder:PATH."
        )
    return {c: dict(same) for c, same in table[name].items() if classes is None or c in classes}


def _folder(id_name: str) -> DatasetSpec:
    return folder_benchmark(id_name.removeprefix("folder:")).id


def by_name(classes: Iterable[str]) -> dict[str, dict[str, str]]:
    """The ImageNet-1k classes that bear the name of one of these, or its WordNet id.

    Names are compared without case, ``_`` and ``-``, in the singular and with an s at the end.
    """
    names = _names()
    shared = {}
    for name in classes:
        same = dict(names.get(_plain(name), {}))
        own = _wordnet_id(name)
        if own is not None and own in names:
            same.update(names[own])
        if same:
            shared[name] = same
    return shared


@cache
def _names() -> dict[str, dict[str, str]]:
    """By plain name, and by WordNet id: the classes that are called so, with their first names."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    by_key: dict[str, dict[str, str]] = {}
    for wordnet_id, text in zip(info.label_names(), info.label_descriptions(), strict=True):
        lemmas = [lemma.strip() for lemma in text.split(",")]
        for key in (wordnet_id, *map(_plain, lemmas)):
            by_key.setdefault(key, {})[wordnet_id] = lemmas[0]
    return by_key


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip().lower().removesuffix("s")


def _without(name: str, id_name: str) -> DatasetSpec:
    """ImageNet without the classes of an ID set."""
    whole = {"imagenet": IMAGENET, "imagenet500": IMAGENET500}[name]
    removed = {wordnet_id for same in overlap(id_name).values() for wordnet_id in same}

    def load(split: str) -> Samples:
        samples = whole.load(split)
        kept = np.array([_wordnet_id(c) not in removed for c in samples.classes])
        rows = np.flatnonzero(kept[samples.labels])
        if not len(rows):
            raise DataError(f"{name}: every class that is there is also in {id_name}.")
        return Subset(samples, rows, f"{name}-without:{id_name}/{split}")

    return replace(
        whole,
        name=f"{name}-without:{id_name}",
        load=load,
        contents={},
        description=f"{whole.description}, but those of {len(removed)} classes that are also in "
        f"{id_name}",
    )


def imagenet_without(id_name: str) -> DatasetSpec:
    """ImageNet-1k validation images of classes that an ID set lacks: imagenet-without:cifar10."""
    return _without("imagenet", id_name)


def imagenet500_without(id_name: str) -> DatasetSpec:
    """One photograph of each of 500 ImageNet-1k classes, of those that an ID set lacks.

    As ``imagenet500-without:cifar10``.
    """
    return _without("imagenet500", id_name)
