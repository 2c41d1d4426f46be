"""CIFAR-10 and CIFAR-100 as ID sets, with OpenOOD's and PALM's OOD sets.

Hyper-parameters are chosen on a ``val`` split and on synthetic OOD images made of it. In
``cifar10``, ``cifar100`` and ``/palm`` the test set is the whole official test split, and ``val``
is a tenth of the TRAINING split: no test image is looked at, but a network that was trained on the
whole training split, as published ones are, has seen these images. ``train`` stays the whole
training split. In ``cifar10/held-out`` and ``cifar100/held-out`` ``val`` is a tenth of the official
TEST split, which no network has seen, and ``test`` is the other nine tenths, both drawn by content
(``datasets/validation.py``). These came before OpenOOD's lists were here; ``/openood``, which has
its very images, supersedes them (``datasets/openood.py``).

Differs from OpenOOD v1.5, in ``cifar10`` and ``cifar100``: (1) the ID test set is the whole
official test split, and images are resized to 32x32 in one step, both sides, as PALM does (in
``/held-out`` and ``/openood`` the short side is, before a central crop; the two differ for images
that are not square); (2) the OOD images for validation are synthetic (OpenOOD: 1,000 of
TinyImageNet for CIFAR-10, 972 for CIFAR-100); (3) an OOD set is every image of its test split, as
it is found on disk. What the splits have, and how many OpenOOD's lists name, which leave out images
whose classes overlap the ID set's:

============ ====================================== ================== ==================
set          here                                   OpenOOD, CIFAR-10  OpenOOD, CIFAR-100
============ ====================================== ================== ==================
CIFAR-100/10 10,000                                 9,000              10,000
TinyImageNet 10,000 (validation)                    7,793              6,526
MNIST        10,000                                 70,000             70,000
SVHN         26,032                                 26,032             26,032
Textures     5,640                                  5,640              5,640
Places365    36,500 (validation), or what is there  35,195             33,773
============ ====================================== ================== ==================

``/palm`` differs from PALM's code in Places365: 10,000 images drawn at random from the
official test split there (seed 1), all images of the validation split, or of
whatever is at hand, here.
Rows carry the number of images and a content fingerprint, so that what was compared can be told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.content import Content
from oodbench.data.samples import Samples
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import MissingDataError

from . import _sources
from ._bounds import bounded
from ._find import find, folders, parquet, torchvision_arrays
from .images import ISUN, LSUN_C, MNIST, PLACES365, SVHN, TEXTURES, TIN
from .validation import held_out, synthetic_ood

OPENOOD = "Zhang et al. 2023, OpenOOD v1.5, arXiv:2306.09301"
PALM = "Lu et al. 2024, Learning with Mixture of Prototypes, ICLR, arXiv:2402.02653"


def _torchvision(cls: str) -> Any:
    def build(root: Path, split: str) -> Any:
        from torchvision import datasets

        return getattr(datasets, cls)(root, train=split == "train", download=False)

    return build


VALIDATION_SHARE = 0.1
"""Share of a split that hyper-parameters are chosen on."""


_CONTENTS: dict[str, dict[str, Content]] = {
    "cifar10": {
        "train": Content(
            50_000, "a176f9974216e3c6be9ae94cba054027a95cda33d9a75cce4568ac48ab36e003"
        ),
        "val": Content(5_000, "5ae3c87e011d5a0c6782eeddcae27614c7a70839bcab391cf182840bc42e8881"),
        "test": Content(10_000, "0d701284b132cb6ca7c8406302a31a3caf389a777a8785ca9a72673d6cb77ba6"),
    },
    "cifar100": {
        "train": Content(
            50_000, "8f919ac2f671314bff5c301f357b5591248bfac32203f88da9ba2fb669928ad8"
        ),
        "val": Content(5_000, "410f7678fe11431b4839b4e953d686e66c36ae0fb7722be06d674a9b75f381cf"),
        "test": Content(10_000, "2090098aae6ed71933c136488b492a4717ea641a0d2d77a051065907f4bc76ff"),
    },
}
"""What the splits hold as published; of all official images in their order of classes."""


def _spec(name: str, cls: str, marker: str, label: str, *, description: str) -> DatasetSpec:
    readers = (
        folders(f"{name}/{{split}}", f"images_classic/{name}/{{split}}"),
        torchvision_arrays(marker, _torchvision(cls)),
        parquet("img", label),
    )
    how = f"torchvision.datasets.{cls}(root, download=True)"

    def load(split: str) -> Samples:
        if split == "val":
            return _part(load, "train", f"{name}/val", is_held_out=True)
        return find(name, split, readers, how)

    return DatasetSpec(
        name=name,
        load=load,
        splits=("train", "val", "test"),
        description=description,
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="not stated by its authors",
        citation="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        downloads={"cifar10": _sources.CIFAR10, "cifar100": _sources.CIFAR100}[name],
        contents=_CONTENTS[name],
    )


def _part(load: Callable[[str], Samples], split: str, name: str, *, is_held_out: bool) -> Samples:
    """The held-out tenth of an official split, or the rest of it."""
    try:
        whole = load(split)
    except MissingDataError as error:
        raise MissingDataError(f"{name} is a part of the {split} split. {error}") from error
    part = held_out(whole, VALIDATION_SHARE)[is_held_out]
    part.name = name
    return part


def _held_out(spec: DatasetSpec) -> DatasetSpec:
    """The same ID set with ``val`` and ``test`` drawn from the official test split."""

    def load(split: str) -> Samples:
        if split == "train":
            return spec.load("train")
        name = f"{spec.name}/held-out/{split}"
        return _part(spec.load, "test", name, is_held_out=split == "val")

    contents = {
        "train": spec.contents["train"],
        "val": Content(1_000),
        "test": Content(9_000),
    }
    return replace(
        spec,
        load=load,
        contents=contents,
        description=f"{spec.description}; a tenth of the test images is for validation",
    )


CIFAR10 = _spec(
    "cifar10",
    "CIFAR10",
    "cifar-10-batches-py",
    "label",
    description="10 classes of natural images, 32x32",
)
CIFAR100 = _spec(
    "cifar100",
    "CIFAR100",
    "cifar-100-python",
    "fine_label",
    description="100 classes of natural images, 32x32",
)

CIFAR10_PREPROCESS = Preprocess(32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_PREPROCESS = Preprocess(32, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
CIFAR10_CROPPED, CIFAR100_CROPPED = (
    replace(preprocess, resize="crop") for preprocess in (CIFAR10_PREPROCESS, CIFAR100_PREPROCESS)
)
"""As OpenOOD sees an image: its short side is resized, and then the central square is cut out."""

FAR = (MNIST, SVHN, TEXTURES, PLACES365)


def cifar10() -> Benchmark:
    """CIFAR-10; near: CIFAR-100, TinyImageNet; far: MNIST, SVHN, Textures, Places365."""
    return Benchmark(
        name="cifar10",
        id=CIFAR10,
        near=(CIFAR100, TIN),
        far=FAR,
        preprocess=CIFAR10_PREPROCESS,
        protocol=bounded(Protocol(fpr="fpr95_ood"), "cifar10"),
        citation=OPENOOD,
        validation=(synthetic_ood(CIFAR10, CIFAR10_PREPROCESS),),
    )


def cifar10_held_out() -> Benchmark:
    """CIFAR-10, tested on nine tenths of the test split, tuned on the other, drawn by content."""
    spec = _held_out(CIFAR10)
    return replace(
        cifar10(),
        name="cifar10/held-out",
        superseded_by="cifar10/openood",
        id=spec,
        preprocess=CIFAR10_CROPPED,
        validation=(synthetic_ood(spec, CIFAR10_CROPPED),),
    )


def cifar100() -> Benchmark:
    """CIFAR-100; near: CIFAR-10, TinyImageNet; far: MNIST, SVHN, Textures, Places365."""
    return Benchmark(
        name="cifar100",
        id=CIFAR100,
        near=(CIFAR10, TIN),
        far=FAR,
        preprocess=CIFAR100_PREPROCESS,
        protocol=bounded(Protocol(fpr="fpr95_ood"), "cifar100"),
        citation=OPENOOD,
        validation=(synthetic_ood(CIFAR100, CIFAR100_PREPROCESS),),
    )


def cifar100_held_out() -> Benchmark:
    """CIFAR-100, tested on nine tenths of the test split, tuned on the other, drawn by content."""
    spec = _held_out(CIFAR100)
    return replace(
        cifar100(),
        name="cifar100/held-out",
        superseded_by="cifar100/openood",
        id=spec,
        preprocess=CIFAR100_CROPPED,
        validation=(synthetic_ood(spec, CIFAR100_CROPPED),),
    )


def cifar10_palm() -> Benchmark:
    """CIFAR-10; far: SVHN, Places365, LSUN-C, iSUN, Textures, as in PALM's experiments."""
    return _palm(CIFAR10, replace(CIFAR10_PREPROCESS, std=(0.2023, 0.1994, 0.2010)))


def cifar100_palm() -> Benchmark:
    """CIFAR-100; far: SVHN, Places365, LSUN-C, iSUN, Textures, as in PALM's Table 1."""
    return _palm(CIFAR100, CIFAR100_PREPROCESS)


def _palm(id_set: DatasetSpec, preprocess: Preprocess) -> Benchmark:
    return Benchmark(
        name=f"{id_set.name}/palm",
        id=id_set,
        near=(),
        far=(SVHN, PLACES365, LSUN_C, ISUN, TEXTURES),
        preprocess=preprocess,
        protocol=bounded(Protocol(rank_group="far", fpr="fpr95_id"), id_set.name),
        citation=PALM,
        validation=(synthetic_ood(id_set, preprocess),),
    )
