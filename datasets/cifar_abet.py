"""CIFAR-10 and CIFAR-100 as AbeT's code tests them: OOD images are cut out, never resized.

Its ``main.py`` takes the central 32x32 pixels of every image at the size that it has on disk: of a
photograph of 256 pixels a side a 64th, which is texture more than scene. Figures differ from those
on resized images, and only like may be compared with like.

OOD sets, with the images that the authors' code finds: SVHN's TRAINING split (73,257), the first of
the ten TRAINING splits of the Describable Textures Dataset (1,880), LSUN's test images (10,000, 256
pixels on the short side), and Places365, of which the repository does not say which images: here
all of what is at hand, 36,500 if that is the validation split. It also takes SUN and iNaturalist
for CIFAR. Which sets the paper's CIFAR columns average is not in the repository. Both ID sets have
the moments of CIFAR-10, mean 125.3, 123.0, 113.9 and std 63.0, 62.1, 66.7, over 255.

Ranked by FPR@95 with ID positive, the first column of the paper's table.
Differs from the authors' code: (1) the average over OOD sets may be of others, see above; (2) the
ID set has a validation split, a tenth of the training split, on which ``--tune`` may choose; theirs
chooses nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.content import Content
from oodbench.data.samples import ImageFiles, Samples, image_folder
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import DataError, MissingDataError

from . import _sources
from ._bounds import bounded
from ._find import Reader, find, folders, parquet, torchvision_arrays
from .cifar import CIFAR10, CIFAR100
from .images import PLACES365, SVHN, TEXTURES, build_svhn
from .validation import synthetic_ood

ABET = "LeVine et al. 2024, Ablated Learned Temperature Energy, arXiv:2401.12129"
CROPPED = Preprocess(
    32,
    (125.3 / 255, 123.0 / 255, 113.9 / 255),
    (63.0 / 255, 62.1 / 255, 66.7 / 255),
    resize="centre",
)


def _first_training_split(root: Path, name: str, _: str) -> Samples | None:
    """The images that the Describable Textures Dataset's ``labels/train1.txt`` names."""
    for layout in ("dtd/dtd", "dtd", "textures"):
        listed = root / layout / "labels" / "train1.txt"
        if not listed.is_file() or not (root / layout / "images").is_dir():
            continue
        wanted = listed.read_text(encoding="utf-8").split()
        whole = image_folder(name, root / layout / "images")
        at = {Path(path).as_posix(): i for i, path in enumerate(whole.paths)}
        if missing := [path for path in wanted if path not in at]:
            raise DataError(
                f"{name}: {listed} names {len(missing)} images that are not in {whole.root} "
                f"({', '.join(missing[:3])}). Unpack the dataset again."
            )
        rows = np.array([at[path] for path in wanted], dtype=np.int64)
        paths = [whole.paths[row] for row in rows]
        return ImageFiles(name, whole.root, paths, whole.labels[rows], whole.classes)
    return None


_FIRST_TRAINING_SPLIT = Reader(_first_training_split, ("dtd/dtd/labels/train1.txt",))


def _svhn(_: str) -> Samples:
    readers = (
        folders("svhn/{split}"),
        torchvision_arrays("train_32x32.mat", build_svhn, ("train",)),
        parquet(config="cropped_digits", refused=("full_numbers",)),
    )
    how = "torchvision.datasets.SVHN(root, split='train', download=True)"
    try:
        samples = find("svhn", "train", readers, how)
    except MissingDataError as error:
        raise MissingDataError(f"svhn-train is the training split of SVHN. {error}") from error
    samples.name = "svhn-train/test"
    return samples


def _textures(split: str) -> Samples:
    readers = (folders("textures-train1"), _FIRST_TRAINING_SPLIT)
    how = "torchvision.datasets.DTD(root, download=True)"
    return find("textures-train1", split, readers, how)


def _lsun(split: str) -> Samples:
    how = "the LSUN test images (test_lmdb.zip of lsun.cs.princeton.edu) as files in lsun-256/"
    return find("lsun-256", split, (folders("lsun-256/{split}", "lsun-256"),), how)


SVHN_TRAIN = replace(
    SVHN,
    name="svhn-train",
    load=_svhn,
    description="street-view house numbers, 32x32, the training split (73,257)",
    downloads=_sources.SVHN_TRAIN,
    contents={"test": Content(73_257)},
)
TEXTURES_TRAIN1 = replace(
    TEXTURES,
    name="textures-train1",
    load=_textures,
    description="Describable Textures Dataset, training split 1 (1,880)",
    contents={"test": Content(1_880)},
)
LSUN_256 = DatasetSpec(
    name="lsun-256",
    load=_lsun,
    description="LSUN test images, short side 256 pixels (10,000)",
    contents={"test": Content(10_000)},
    source="https://www.yf.io/p/lsun",
    licence="see source",
    citation="Yu et al. 2015, LSUN, arXiv:1506.03365",
)


def _benchmark(name: str, id_set: DatasetSpec) -> Benchmark:
    return Benchmark(
        name=name,
        id=id_set,
        near=(),
        far=(SVHN_TRAIN, LSUN_256, PLACES365, TEXTURES_TRAIN1),
        preprocess=CROPPED,
        protocol=bounded(
            Protocol(rank_by="fpr95_id", rank_group="far", fpr="fpr95_id"), id_set.name
        ),
        citation=ABET,
        validation=(synthetic_ood(id_set, CROPPED),),
    )


def cifar10_abet() -> Benchmark:
    """CIFAR-10; far: SVHN, LSUN, Places365, Textures, cut to their central 32x32 pixels."""
    return _benchmark("cifar10/abet", CIFAR10)


def cifar100_abet() -> Benchmark:
    """CIFAR-100; far: SVHN, LSUN, Places365, Textures, cut to their central 32x32 pixels."""
    return _benchmark("cifar100/abet", CIFAR100)
