"""Pre-trained networks, OOD data that they have seen the like of, and OOD data that they have not.

``ptood/<id>``: familiar OOD are images of ImageNet's classes that the ID set has not
(``imagenet.py``), unfamiliar OOD are images of nothing that is in ImageNet: textures, digits, house
numbers, spectrograms. The gap between them is the finding of A. Miyai et al., "Can Pre-trained
Networks Detect Familiar Out-of-Distribution Data?" (arXiv:2310.00847), whose own data sets were not
published: these benchmarks are of its kind. The networks see all images in their own preprocessing.

What the gap does not separate: familiar sets are photographs as the ID sets are, and digits are
not. ``textures`` in the full benchmarks are photographs that ImageNet's classes do not name.
For networks that were pre-trained on other images than ImageNet's, "familiar" is a guess.
"""

from __future__ import annotations

from dataclasses import replace

from oodbench.benchmark import Benchmark, DatasetSpec, Protocol
from oodbench.errors import MissingDataError
from oodbench.samples import Samples
from oodbench.transforms import Preprocess

from .cifar import CIFAR10, CIFAR10_PREPROCESS, CIFAR100, CIFAR100_PREPROCESS, VALIDATION_SHARE
from .folder import IMAGENET_MEAN, IMAGENET_STD, folder_benchmark
from .imagenet import imagenet500_without, imagenet_without, overlap
from .images import MNIST, SVHN, TEXTURES
from .spectrograms import FSDD_SPECTROGRAMS
from .transfer import CALTECH101, DTD, FOOD101, PETS, TEXTURES10
from .validation import held_out, synthetic_ood

PAPER = "after Miyai et al. 2023, arXiv:2310.00847"
PREPROCESS = Preprocess(224, IMAGENET_MEAN, IMAGENET_STD, resize="crop", pre_size=256)
"""Of networks without a preprocessing of their own."""

PHOTOGRAPHS = (TEXTURES, MNIST, SVHN, FSDD_SPECTROGRAMS)
PICTURES = (MNIST, FSDD_SPECTROGRAMS)
BACKBONE = "tf_efficientnet_lite0.pypi"


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
    description="a tenth of CIFAR-10's training images and a fifth of its test images, by content",
)


def _benchmark(
    name: str,
    spec: DatasetSpec,
    unfamiliar: tuple[DatasetSpec, ...] = PHOTOGRAPHS,
    preprocess: Preprocess = PREPROCESS,
    *,
    small: bool = False,
) -> Benchmark:
    imagenet = imagenet500_without if small else imagenet_without
    return Benchmark(
        name=f"ptood/{name}",
        id=spec,
        near=(),
        far=(),
        familiar=(imagenet(name),),
        unfamiliar=unfamiliar,
        preprocess=preprocess,
        protocol=Protocol(rank_group="familiar", fpr="fpr95_ood"),
        backbone=BACKBONE,
        citation=PAPER,
        validation=(synthetic_ood(spec, preprocess),) if "val" in spec.splits else (),
        standard_method="linear-probe",
        own_inputs=True,
        known_classes={c: tuple(dict.fromkeys(s.values())) for c, s in overlap(name).items()},
    )


def cifar10() -> Benchmark:
    """CIFAR-10; familiar: ImageNet without its classes; unfamiliar: textures, digits, sound."""
    return _benchmark("cifar10", CIFAR10, preprocess=CIFAR10_PREPROCESS)


def cifar10_small() -> Benchmark:
    """A tenth of CIFAR-10; familiar: 500 ImageNet photographs; unfamiliar: MNIST, spectrograms."""
    preprocess = CIFAR10_PREPROCESS
    return _benchmark("cifar10-small", CIFAR10_SMALL, PICTURES, preprocess, small=True)


def cifar100() -> Benchmark:
    """CIFAR-100; familiar: ImageNet without its classes; unfamiliar: textures, digits, sound."""
    return _benchmark("cifar100", CIFAR100, preprocess=CIFAR100_PREPROCESS)


def dtd() -> Benchmark:
    """Describable Textures; familiar: ImageNet without its classes; unfamiliar: digits, sound."""
    return _benchmark("dtd", DTD, (MNIST, SVHN, FSDD_SPECTROGRAMS))


def textures10() -> Benchmark:
    """Ten textures; familiar: 500 ImageNet photographs; unfamiliar: MNIST and spectrograms."""
    return _benchmark("textures10", TEXTURES10, PICTURES, small=True)


def food101() -> Benchmark:
    """Food-101; familiar: ImageNet without its classes; unfamiliar: textures, digits, sound."""
    return _benchmark("food101", FOOD101)


def pets() -> Benchmark:
    """Oxford-IIIT Pets; familiar: ImageNet without its classes; unfamiliar: textures and others."""
    return _benchmark("pets", PETS)


def caltech101() -> Benchmark:
    """Caltech-101; familiar: ImageNet without its classes; unfamiliar: textures, digits, sound."""
    return _benchmark("caltech101", CALTECH101)


def folder(path: str) -> Benchmark:
    """Your own images as ID, ptood/folder:PATH; ImageNet classes of the same name are left out."""
    own = folder_benchmark(path)
    return replace(_benchmark(f"folder:{path}", own.id), preprocess=own.preprocess)
