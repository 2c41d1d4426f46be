"""Image sets that serve as OOD for others: MNIST, SVHN, Textures, Places365, TinyImageNet, LSUN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.data.content import Content
from oodbench.data.samples import Samples
from oodbench.dataset import DatasetSpec

from . import _sources
from ._find import Reader, find, folders, parquet, torchvision_arrays

_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


_VALIDATION = ("validation", "valid", "val", "test")
"""What snapshots call the labelled images that are tested on; their ``test`` may have no labels."""


def _build_mnist(root: Path, split: str) -> Any:
    from torchvision.datasets import MNIST

    # torchvision has the checksums of the archives alone, and never looks at the unpacked files
    for name, expected in _MNIST_SHA256.items():
        path = root / "MNIST" / "raw" / name
        if name.startswith("train") == (split == "train") and files.sha256(path) != expected:
            raise RuntimeError(f"{name} does not have the expected sha256")
    dataset = MNIST(str(root), train=split == "train", download=False)
    dataset.data = dataset.data.numpy()
    return dataset


def build_svhn(root: Path, split: str) -> Any:
    """Torchvision's SVHN, verified."""
    from torchvision.datasets import SVHN

    return SVHN(str(root), split=split, download=False)


def _ood(
    name: str,
    readers: Sequence[Reader],
    how_to_get: str,
    splits: tuple[str, ...] = ("test",),
    **about: Any,
) -> DatasetSpec:
    def load(split: str) -> Samples:
        return find(name, split, readers, how_to_get)

    return DatasetSpec(name, load, splits, **about)


MNIST = _ood(
    "mnist",
    (
        folders("mnist/{split}", "images_classic/mnist/{split}"),
        torchvision_arrays("MNIST/raw", _build_mnist),
        parquet(),
    ),
    "torchvision.datasets.MNIST(root, download=True)",
    splits=("train", "test"),
    description="handwritten digits, 28x28 grey",
    source="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0",
    citation="LeCun et al. 1998",
    downloads=_sources.MNIST,
    contents={
        "train": Content(
            60_000, "7d5a91d7a677e995a33ad574806b09a59fd003812f203f1b20be8bd4ce39d9de"
        ),
        "test": Content(10_000, "46793d2402c8534b6f10b82b191d25abadccde6eab27f7953bd29e492b2bd8ba"),
    },
)
SVHN = _ood(
    "svhn",
    (
        folders("svhn/{split}", "images_classic/svhn/{split}"),
        torchvision_arrays("test_32x32.mat", build_svhn, ("test",)),
        parquet(config="cropped_digits", refused=("full_numbers",)),
    ),
    "torchvision.datasets.SVHN(root, split='test', download=True)",
    description="street-view house numbers, 32x32, the test split",
    source="http://ufldl.stanford.edu/housenumbers/",
    licence="non-commercial use",
    citation="Netzer et al. 2011",
    downloads=_sources.SVHN,
    contents={"test": Content(26_032)},
)
TEXTURES = _ood(
    "textures",
    (
        folders("textures/{split}"),
        parquet(published=("train", "validation", "val", "test"), together=True),
        folders("textures", "dtd/dtd/images", "dtd/images", "images_classic/texture"),
    ),
    "torchvision.datasets.DTD(root, download=True)",
    description="Describable Textures Dataset, 47 classes, 5,640 images",
    source="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    licence="research use",
    citation="Cimpoi et al. 2014, Describing Textures in the Wild, CVPR",
    downloads=_sources.DTD,
    contents={"test": Content(5_640)},
)
PLACES365 = _ood(
    "places365",
    (
        folders("places365/{split}"),
        parquet(published=_VALIDATION),
        folders("places365", "images_classic/places365", "places365_standard/val", "val_256"),
    ),
    "torchvision.datasets.Places365(root, split='val', small=True, download=True)",
    description="photographs of places, from Places365's validation images",
    source="http://places2.csail.mit.edu",
    licence="CC BY",
    citation="Zhou et al. 2018, Places: A 10 Million Image Database, TPAMI",
    downloads=_sources.PLACES365,
    contents={"test": Content(36_500)},
)
TIN = _ood(
    "tin",
    (
        folders("tin/{split}"),
        parquet(published=_VALIDATION),
        folders("tin", "images_classic/tin/val"),
        folders("tiny-imagenet-200/val/images", "tiny-imagenet-200/val"),
    ),
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip, unpacked there",
    description="TinyImageNet validation images, 64x64",
    source="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    licence="see source",
    citation="Le and Yang 2015, Tiny ImageNet visual recognition challenge",
    downloads=_sources.TIN,
    contents={"test": Content(10_000)},
)
LSUN_C = _ood(
    "lsun-c",
    (folders("lsun-c/{split}"), parquet(), folders("lsun-c", "LSUN")),
    "the LSUN archive of the ODIN authors, unpacked there",
    description="random crops of LSUN test images",
    source="https://github.com/facebookresearch/odin",
    licence="see source",
    citation="Yu et al. 2015, LSUN, arXiv:1506.03365",
    downloads=_sources.LSUN_C,
    contents={"test": Content(10_000)},  # as papers have it
)
ISUN = _ood(
    "isun",
    (folders("isun/{split}"), parquet(), folders("isun", "iSUN")),
    "the iSUN archive of the ODIN authors, unpacked there",
    description="iSUN images, 32x32",
    source="https://github.com/facebookresearch/odin",
    licence="see source",
    citation="Xu et al. 2015, TurkerGaze, arXiv:1504.06755",
    downloads=_sources.ISUN,
    contents={"test": Content(8_925)},  # as papers have it
)
