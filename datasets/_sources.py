"""Where image sets are published: repositories of the hub, torchvision's archives, OpenOOD's zips.

Digests of archives are torchvision's; the hub tells those of its files, of one commit, when it is
asked. OpenOOD's zips on Google Drive and the archives on Dropbox come without any: what is in them
is compared with what the set must hold. Sizes of the hub's snapshots are about right, for people.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scipy.io import loadmat
from timm.data.imagenet_info import ImageNetInfo

from oodbench.download.archives import Limits, limits, unpack
from oodbench.download.described import Download, HubFiles, RemoteFile, archive, hub
from oodbench.errors import DataError

_KRIZ = "https://www.cs.toronto.edu/~kriz"
CIFAR10 = (
    hub("uoft-cs/cifar10", "cifar10", size=143_646_105),
    archive(
        f"{_KRIZ}/cifar-10-python.tar.gz",
        "cifar10/cifar-10-batches-py",
        "cifar-10-batches-py",
        size=170_498_071,
        md5="c58f30108f718f92721af3b95e74349a",
    ),
)
CIFAR100 = (
    hub("uoft-cs/cifar100", "cifar100", size=142_291_368),
    archive(
        f"{_KRIZ}/cifar-100-python.tar.gz",
        "cifar100/cifar-100-python",
        "cifar-100-python",
        size=169_001_437,
        md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
)

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
MNIST = (
    Download(
        "mnist/MNIST/raw",
        tuple(
            RemoteFile(f"{_MNIST}/{name}", f"mnist/{name}", md5=md5)
            for name, md5 in (
                ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
                ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
                ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
            )
        ),
        size=11_594_722,
    ),
    hub("ylecun/mnist", "mnist", size=18_157_506),
)

_SVHN = "http://ufldl.stanford.edu/housenumbers"
SVHN = (
    archive(
        f"{_SVHN}/test_32x32.mat",
        "svhn/test_32x32.mat",
        "test_32x32.mat",
        size=64_275_384,
        md5="eb5a983be6a315427106f1b164d9cef3",
    ),
    hub(
        "ufldl-stanford/svhn",
        "svhn",
        ("cropped_digits/train-*.parquet", "cropped_digits/test-*.parquet"),
        size=236_000_000,
    ),
)
SVHN_TRAIN = (
    archive(
        f"{_SVHN}/train_32x32.mat",
        "svhn/train_32x32.mat",
        "train_32x32.mat",
        size=182_040_794,
        md5="e26dedcc434d2e4c54c9b2d4a06d8373",
    ),
)

DTD = (
    archive(
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
        "dtd/dtd",
        "dtd",
        md5="fff73e5086ae6bdbea199a49dfb8a4c1",
        about=625_000_000,
    ),
)
PLACES365 = (
    archive(
        "http://data.csail.mit.edu/places/places365/val_256.tar",
        "val_256",
        "val_256",
        md5="e27b17d8d44f4af9a78502beb927f808",
        about=525_000_000,
    ),
)
TIN = (
    archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "tiny-imagenet-200",
        "tiny-imagenet-200",
        size=248_100_043,
        md5="90528d7ca1a48142e341f4ef8d21d0de",
    ),
    hub("zh-plus/tiny-imagenet", "tin", ("data/valid-*.parquet",), size=16_000_000),
)

# The authors of ODIN keep these; no digest of them is published.
LSUN_C = (archive("https://www.dropbox.com/s/fhtsw1m3qxlwj6h/LSUN.tar.gz?dl=1", "LSUN", "LSUN"),)
ISUN = (archive("https://www.dropbox.com/s/ssz7qxfqae0cca5/iSUN.tar.gz?dl=1", "iSUN", "iSUN"),)

FOOD101 = (
    hub("ethz/food101", "food101", size=5_059_972_308),
    archive(
        "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
        "food101/food-101",
        "food-101",
        md5="85eeb15f3717b99a5da872d97d918f87",
        about=5_000_000_000,
    ),
)
_PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
PETS = (
    Download(
        "oxford-iiit-pet",
        (
            RemoteFile(f"{_PETS}/images.tar.gz", "pets/images.tar.gz",
                       md5="5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            RemoteFile(f"{_PETS}/annotations.tar.gz", "pets/annotations.tar.gz",
                       md5="95a8c909bbe2e81eed6a22bccdf3f68f"),
        ),
        size=811_000_000,
    ),
)  # fmt: skip


def _unpack_objects(folder: Path) -> None:
    """Caltech-101's images, which are an archive in the archive."""
    inner = folder / "caltech-101" / "101_ObjectCategories.tar.gz"
    unpack(inner, folder, limits(inner))


CALTECH101 = (
    Download(
        "caltech101/101_ObjectCategories",
        (
            RemoteFile(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                md5="3138e1922a9193bfa496528edbbc45d0",
            ),
        ),
        inside="101_ObjectCategories",
        size=137_000_000,
        arrange=_unpack_objects,
    ),
)

_IMAGENET_STEPS = (
    "Make an account at https://image-net.org and agree to its terms of access.",
    "Download the files of ILSVRC2012 at "
    "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php.",
)
_DEVKIT = RemoteFile(name="ILSVRC2012_devkit_t12.tar.gz", md5="fa75699e90414af021442c21a62c3abf")
_IMAGENET_HUB = "ILSVRC/imagenet-1k"
_IMAGENET_FILE = re.compile(r"ILSVRC2012_val_\d{8}|n\d{8}_\d+")
"""What an image is called; the hub puts the class behind it."""


def _sort_validation(folder: Path) -> None:
    """ImageNet's validation images into class folders, as the development kit says."""
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    synsets = loadmat(data / "meta.mat", squeeze_me=True)["synsets"]
    ids = {int(one[0]): str(one[1]) for one in synsets.tolist() if int(one[4]) == 0}  # no children
    truth = (data / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    for number, synset in enumerate(truth, 1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        place = folder / "val" / ids[int(synset)]
        place.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(place / name)


def _sort_training(folder: Path) -> None:
    """ImageNet's training images into class folders: a tar each."""
    inner = sorted(folder.glob("n*.tar"))
    most = Limits(2 * sum(path.stat().st_size for path in inner))
    (folder / "train").mkdir()
    for path in inner:
        unpack(path, folder / "train" / path.stem, most)
        path.unlink()


def _sort_snapshot(folder: Path, split: str) -> None:
    """ImageNet's images out of the hub's parquet files, into class folders under their own names.

    So lists that name images find them, and one layout serves all that is made of ImageNet.

    Raises:
        DataError: an image without its name or class, or two of one name.
    """
    from pyarrow.parquet import ParquetFile

    ids = ImageNetInfo("imagenet-1k").label_names()
    for shard in sorted(folder.rglob("*.parquet")):
        with ParquetFile(shard) as file:
            for batch in file.iter_batches(64, columns=["image", "label"]):
                for row in batch.to_pylist():
                    _write_image(folder / split, ids, shard.name, row)
        shard.unlink()


def _write_image(root: Path, ids: Sequence[str], shard: str, row: dict[str, Any]) -> None:
    path, label = str(row["image"]["path"]), row["label"]
    name = _IMAGENET_FILE.match(path.rpartition("/")[2])
    if name is None or label is None or not 0 <= label < len(ids):
        raise DataError(f"{shard} has an image {path!r} of the class {label}, none of ImageNet's.")
    place = root / ids[label] / f"{name.group()}.JPEG"
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with place.open("xb") as handle:
            handle.write(row["image"]["bytes"])
    except FileExistsError as error:
        raise DataError(f"{shard} has a second image {place.name}.") from error


def _snapshot(split: str, pattern: str, size: int, splits: tuple[str, ...]) -> Download:
    return Download(
        f"imagenet/{split}",
        hub=HubFiles(_IMAGENET_HUB, (pattern,), is_gated=True),
        splits=splits,
        inside=split,
        size=size,
        steps=(f"Agree to the terms at https://huggingface.co/datasets/{_IMAGENET_HUB}.",),
        arrange=partial(_sort_snapshot, split=split),
        needs=("pyarrow",),
    )


def imagenet_validation(splits: tuple[str, ...] = ()) -> tuple[Download, ...]:
    """ImageNet's validation images, for the splits of a dataset that are made of them."""
    return (
        _snapshot("val", "data/validation-*.parquet", 6_700_000_000, splits),
        Download(
            "imagenet/val",
            (
                RemoteFile(
                    name="ILSVRC2012_img_val.tar",
                    size=6_744_924_160,
                    md5="29b22e2961454d5413ddabcf34fc5622",
                ),
                _DEVKIT,
            ),
            splits=splits,
            inside="val",
            steps=_IMAGENET_STEPS,
            arrange=_sort_validation,
        ),
    )


IMAGENET = imagenet_validation()
"""Its validation images."""

IMAGENET_TRAIN = (
    _snapshot("train", "data/train-*.parquet", 146_000_000_000, ("train",)),
    Download(
        "imagenet/train",
        (
            RemoteFile(
                name="ILSVRC2012_img_train.tar",
                size=147_897_477_120,
                md5="1d675b47d978889d74fa0da5fadfb00e",
            ),
        ),
        splits=("train",),
        inside="train",
        steps=_IMAGENET_STEPS,
        arrange=_sort_training,
    ),
)
"""Its training images."""


def of_mos(title: str) -> Download:
    """An OOD set of ImageNet-1k as the authors of MOS keep it, without a digest."""
    url = f"http://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset/{title}.tar.gz"
    return archive(url, title, title)


def openood(name: str, drive_id: str, folder: str = "images_classic") -> Download:
    """A zip of OpenOOD's, unpacked where its scripts put it: ``FOLDER/NAME``."""
    file = RemoteFile(f"drive:{drive_id}", f"openood/{name}.zip")
    return Download(f"{folder}/{name}", (file,))


OPENOOD = {
    name: openood(name, drive_id, folder)
    for folder, ids in {
        "images_classic": {
            "cifar10": "1Co32RiiWe16lTaiOU6JMMnyUYS41IlO1",
            "cifar100": "1PGKheHUsf29leJPPGuXqzLBMwl8qMF8_",
            "cifar10c": "170DU_ficWWmbh6O2wqELxK9jxRiGhlJH",
            "cifar100c": "1MnETiQh9RTxJin2EHeSoIAJA28FRonHx",
            "tin": "1PZ-ixyx52U989IKsMA2OT-24fToTrelC",
            "tin597": "1R0d8zBcUxWNXz6CPXanobniiIfQbpKzn",
            "mnist": "1CCHAGWqA1KJTFFswuF9cbhmB-j98Y1Sb",
            "svhn": "1DQfc11HOtB1nEwqS4pWUFp8vtQ3DczvI",
            "texture": "1OSz1m3hHfVWbRdmMwKbUzoU8Hg9UKcam",
            "places365": "1Ec-LRSTf6u5vEctKX9vRp9OA6tqnJ0Ay",
        },
        "images_largescale": {
            "imagenet_1k": "1i1ipLDFARR-JZ9argXd2-0a6DXwVhXEj",
            "ssb_hard": "1PzkA-WGG8Z18h0ooL_pDdz9cO-DCIouE",
            "ninco": "1Z82cmvIB0eghTehxOGP5VTdLt7OD3nk6",
            "inaturalist": "1zfLfMvoUD0CUlKNnkk7LgxZZBnTBipdj",
            "places": "1fZ8TbPC4JGqUCm-VtvrmkYxqRNp2PoB3",
            "sun": "1ISK0STxWzWmg-_uUr4RQ8GSLFW7TZiKp",
            "openimage_o": "1VUFXnB_z70uHfdgJG2E_pjYOcEgqM7tE",
            "imagenet_v2": "1akg2IiE22HcbvTBpwXQoD7tgfPCdkoho",
            "imagenet_r": "1EzjMN2gq-bVV7lg-MEAdeuBuz-7jbGYU",
            "imagenet_c": "1JeXL9YH4BO8gCJ631c5BHbaSsl-lekHt",
            "imagenet_es": "1ATz11vKmPqyzfEaEDRaPTF9TXiC244sw",
        },
    }.items()
    for name, drive_id in ids.items()
}
"""OpenOOD v1.5's zips by its names of the sets."""
