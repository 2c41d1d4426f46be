"""Pre-trained networks, OOD data that they have seen the like of, and OOD data that they have not.

``ptood/<id>``: familiar OOD are images of ImageNet's classes that the ID set has not
(``imagenet.py``), unfamiliar OOD are photographs of nothing that is in ImageNet: textures. Digits,
house numbers and spectrograms are no photographs; they are far-OOD, but where the ID set is of
textures itself: there they are the unfamiliar sets, for want of other photographs. A. Miyai et al.,
"Can Pre-trained Networks Detect Familiar Out-of-Distribution Data?" (arXiv:2310.00847), find that
familiar OOD is hard to tell where it is not linearly separable, most with self-supervised networks;
comparing it with unfamiliar OOD is ours. Their own data sets were not published: these benchmarks
are of their kind. The networks see all images in their own preprocessing.

Before that every image, ID and OOD, becomes a square of the ID set's own size (``NATIVE``, in
pixels a side; ``Preprocess.native``). Else a sharp photograph is told from an enlarged ID image of
32 pixels by its sharpness, whatever it shows: 100.00 % AUROC and separability instead of about 90.

What the gap does not separate: (1) familiar sets show objects and scenes, textures fill the frame;
(2) images smaller than ``NATIVE`` (MNIST: 28 pixels, spectrograms: 64) are blurred by enlarging
them, and JPEG's artefacts are each set's own; (3) the unfamiliar sets of ``dtd`` and ``textures10``
are no photographs, so their gap is not one of familiarity alone; (4) the 47 classes of ``textures``
name patterns, many of which some ImageNet class shows as well: ``textures10-without-imagenet``, in
``cifar10-small``, is without them, and has three classes left; (5) for networks that were
pre-trained on other images than ImageNet's, "familiar" is a guess.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.samples import Samples, Subset
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import MissingDataError, OptionError

from .cifar import CIFAR10, CIFAR10_PREPROCESS, CIFAR100, CIFAR100_PREPROCESS, VALIDATION_SHARE
from .folder import IMAGENET_MEAN, IMAGENET_STD, folder_benchmark
from .imagenet import imagenet500_without, imagenet_without, overlap
from .images import MNIST, SVHN, TEXTURES
from .spectrograms import FSDD_SPECTROGRAMS
from .transfer import CALTECH101, DTD, FOOD101, PETS, TEXTURES10, ten_textures
from .validation import held_out, synthetic_ood

PAPER = "after Miyai et al. 2023, arXiv:2310.00847"
PREPROCESS = Preprocess(224, IMAGENET_MEAN, IMAGENET_STD, resize="crop", pre_size=256)
"""Of networks without a preprocessing of their own."""

NATIVE = {
    "cifar10": 32,
    "cifar10-small": 32,
    "cifar100": 32,
    "textures10": 160,
    "caltech101": 200,
    "dtd": 300,
    "food101": 300,
    "pets": 300,
}
"""Side of the square that all images become: the short side that nearly all ID images have."""

SIGNS = (MNIST, SVHN, FSDD_SPECTROGRAMS)
SMALL_SIGNS = (MNIST, FSDD_SPECTROGRAMS)
BACKBONE = "tf_efficientnet_lite0.pypi"


PROTOCOL = Protocol(
    rank_group="familiar",
    fpr="fpr95_ood",
    contrast=("unfamiliar", "familiar"),
    contrast_remark="The sets differ in more than what the network was pre-trained on: the gap "
    "names no cause.",
    group_of_others="unfamiliar",
)
"""Ranked by familiar OOD; what unfamiliar OOD is easier by is the gap."""


@dataclass(frozen=True)
class KnownClasses:
    """Warns of ID classes that networks were pre-trained on.

    Args:
        id: the ID set's name.
        names: by ID class, the names of those of the pre-training set that are the same; empty for
            a class of which there is none.
    """

    id: str
    names: Mapping[str, tuple[str, ...]]

    def __call__(self, test: Samples) -> Iterator[str]:
        """One sentence for all such classes of an ID test set; none if there is no such class."""
        known = {c: names for c, names in self.names.items() if names}
        if not known:
            return
        listed = [
            f"{c} ({', '.join(names[:3])}{' …' * (len(names) > 3)})" for c, names in known.items()
        ]
        rest = f" and {len(listed) - 12} more" if len(listed) > 12 else ""
        yield (
            f"{len(known)} of the {len(test.classes)} ID classes of {self.id} are also in the "
            f"pre-training set: {', '.join(listed[:12])}{rest}. Images of these are in no familiar "
            "OOD set, but a network that was pre-trained on them knows the ID class."
        )


def _small(split: str) -> Samples:
    try:
        whole = CIFAR10.load("test" if split == "test" else "train")
    except MissingDataError as error:
        raise MissingDataError(f"cifar10-small/{split} is a part of it. {error}") from error
    part = held_out(whole, 0.2 if split == "test" else 0.1)[1]
    if split == "val":
        part = held_out(part, VALIDATION_SHARE)[1]
    part.name = f"cifar10-small/{split}"
    return part


CIFAR10_SMALL = replace(
    CIFAR10,
    name="cifar10-small",
    load=_small,
    contents={},
    description="a tenth of CIFAR-10's training images and a fifth of its test images, by content",
)


def _unnamed(split: str) -> Samples:
    name = "textures10-without-imagenet"
    if split != "test":
        raise OptionError(f"{name} has the split test, not {split!r}.")
    whole = ten_textures(name, split)
    kept = np.isin(whole.classes, list(overlap("textures10")), invert=True)
    return Subset(whole, np.flatnonzero(kept[whole.labels]), f"{name}/{split}")


TEXTURES10_WITHOUT_IMAGENET = replace(
    TEXTURES10,
    name="textures10-without-imagenet",
    load=_unnamed,
    splits=("test",),
    description="blotchy, cracked and crystalline textures, which no ImageNet class shows",
)


def _benchmark(
    name: str,
    spec: DatasetSpec,
    unfamiliar: tuple[DatasetSpec, ...],
    far: tuple[DatasetSpec, ...] = (),
    preprocess: Preprocess = PREPROCESS,
    *,
    native: int | None = None,
    small: bool = False,
) -> Benchmark:
    imagenet = imagenet500_without if small else imagenet_without
    native = native or NATIVE[name]
    preprocess = replace(preprocess, native=native)
    return Benchmark(
        name=f"ptood/{name}",
        id=spec,
        near=(),
        far=far,
        familiar=(imagenet(name),),
        unfamiliar=unfamiliar,
        preprocess=preprocess,
        protocol=PROTOCOL,
        backbone=BACKBONE,
        citation=PAPER,
        validation=(synthetic_ood(spec, preprocess),) if "val" in spec.splits else (),
        standard_method="linear-probe",
        own_inputs=True,
        measures=("separability",),
        caveats=KnownClasses(
            spec.name, {c: tuple(dict.fromkeys(s.values())) for c, s in overlap(name).items()}
        ),
        remarks=(
            f"Every image, ID and OOD, is first brought to {native} x {native} pixels, the ID "
            "set's own size, so that no set is told by being sharper.",
            "Familiar and unfamiliar sets are photographs, but of objects here and of surfaces "
            "there: the gap is not of familiarity alone."
            if far
            else "Unfamiliar sets are no photographs: the gap is that to another kind of picture, "
            "and not of familiarity alone.",
        ),
    )


def cifar10() -> Benchmark:
    """CIFAR-10; familiar: ImageNet without its classes; unfamiliar: textures; far: digits."""
    return _benchmark("cifar10", CIFAR10, (TEXTURES,), SIGNS, CIFAR10_PREPROCESS)


def cifar10_small() -> Benchmark:
    """A tenth of CIFAR-10; familiar: 500 ImageNet photographs; unfamiliar: 120 textures."""
    unfamiliar = (TEXTURES10_WITHOUT_IMAGENET,)
    return _benchmark(
        "cifar10-small", CIFAR10_SMALL, unfamiliar, SMALL_SIGNS, CIFAR10_PREPROCESS, small=True
    )


def cifar100() -> Benchmark:
    """CIFAR-100; familiar: ImageNet without its classes; unfamiliar: textures; far: digits."""
    return _benchmark("cifar100", CIFAR100, (TEXTURES,), SIGNS, CIFAR100_PREPROCESS)


def dtd() -> Benchmark:
    """Describable Textures; familiar: ImageNet without its classes; unfamiliar: digits, sound."""
    return _benchmark("dtd", DTD, SIGNS)


def textures10() -> Benchmark:
    """Ten textures; familiar: 500 ImageNet photographs; unfamiliar: MNIST and spectrograms."""
    return _benchmark("textures10", TEXTURES10, SMALL_SIGNS, small=True)


def food101() -> Benchmark:
    """Food-101; familiar: ImageNet without its classes; unfamiliar: textures; far: digits."""
    return _benchmark("food101", FOOD101, (TEXTURES,), SIGNS)


def pets() -> Benchmark:
    """Oxford-IIIT Pets; familiar: ImageNet without its classes; unfamiliar: textures."""
    return _benchmark("pets", PETS, (TEXTURES,), SIGNS)


def caltech101() -> Benchmark:
    """Caltech-101; familiar: ImageNet without its classes; unfamiliar: textures; far: digits."""
    return _benchmark("caltech101", CALTECH101, (TEXTURES,), SIGNS)


SHOWN = 100
"""Images of your own whose median short side is their native size."""


def folder(path: str) -> Benchmark:
    """Your own images as ID, ptood/folder:PATH; ImageNet classes of the same name are left out.

    All images become squares of the median short side of 100 of the training images.
    """
    own = folder_benchmark(path)
    train = own.id.load("train")
    rows = np.linspace(0, len(train) - 1, min(SHOWN, len(train))).round().astype(int).tolist()
    native = int(statistics.median_low(min(train[row].size) for row in rows))
    preprocess = cast(Preprocess, own.preprocess)
    return _benchmark(f"folder:{path}", own.id, (TEXTURES,), SIGNS, preprocess, native=native)
