"""ImageNet-1k against the four OOD sets of MOS: iNaturalist, SUN, Places, Textures.

Paper: R. Huang, Y. Li, "MOS: Towards Scaling Out-of-distribution Detection for Large Semantic
Space", CVPR 2021, arXiv:2105.01879
AbeT:  LeVine et al. 2024, arXiv:2401.12129 (its ImageNet columns are on the same sets)

ID is the whole validation split of ILSVRC 2012, 50,000 images, which the two lists of OpenOOD name
together. ``imagenet1k/abet`` resizes the short side to 232 pixels, as AbeT's code does, is ranked
by FPR@95 with ID positive, and has of Textures the first of ten training splits (1,880 images),
which is what the authors' code loads, although their README says the entire set.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.content import Content
from oodbench.data.samples import Samples
from oodbench.dataset import DatasetSpec

from . import _sources
from ._bounds import bounded
from ._find import find, folders
from .cifar_abet import ABET, TEXTURES_TRAIN1
from .images import TEXTURES
from .imglists import ImageList, listed_files, published
from .openood import (
    IMAGENET1K,
    IMAGENET_PREPROCESS,
    INATURALIST,
    on_drive,
    training_images,
    warn_of_overlap,
    wordnet_ids,
)

MOS = "Huang and Li 2021, MOS: Towards Scaling OOD Detection for Large Semantic Space, CVPR"
_PARTS = ("imagenet/val_imagenet.txt", "imagenet/test_imagenet.txt")


def whole_validation() -> ImageList:
    """All validation images of ILSVRC 2012, in the order of their numbers."""
    lines = sorted(line for one in _PARTS for line in published(one).rows())
    content = "".join(f"{path} {label}\n" for path, label in lines).encode()
    digest = hashlib.sha256(content).hexdigest()
    return ImageList("imagenet/val+test", len(lines), digest, lambda _: content)


def _load(split: str) -> Samples:
    classes = wordnet_ids("imagenet1k")
    if split == "train":
        return training_images("imagenet1k/train", classes)
    how = "ILSVRC2012_img_val.tar of https://image-net.org, unpacked into imagenet/val"
    return listed_files(f"imagenet1k/whole-{split}", whole_validation(), classes, how)


_ID = replace(
    IMAGENET1K,
    load=_load,
    splits=("train", "test"),
    contents={"train": IMAGENET1K.contents["train"], "test": Content(50_000)},
    description="1,000 classes of ImageNet's photographs; all 50,000 validation images are tested",
)


def _scenes(name: str, title: str, citation: str, *, description: str) -> DatasetSpec:
    url = f"http://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset/{title}.tar.gz"
    folder = f"images_largescale/{title.lower()}"
    readers = (folders(folder, f"{title}/images", f"{title}"),)

    def load(split: str) -> Samples:
        return find(name, split, readers, f"{url}, unpacked there")

    return DatasetSpec(
        name,
        load,
        description=description,
        source=url,
        licence="see source",
        citation=citation,
        contents={"test": Content(10_000)},
        downloads=(*on_drive(folder), _sources.of_mos(title)),
    )


SUN = _scenes(
    "sun-mos",
    "SUN",
    "Xiao et al. 2010, SUN Database, CVPR; Huang and Li 2021, MOS, CVPR",
    description="photographs of SUN of classes that ImageNet-1k lacks, 10,000 images",
)
PLACES = _scenes(
    "places-mos",
    "Places",
    "Zhou et al. 2018, Places, TPAMI; Huang and Li 2021, MOS, CVPR",
    description="photographs of Places of classes that ImageNet-1k lacks, 10,000 images",
)
_CAVEATS = warn_of_overlap(
    "inaturalist", "places", "textures", more=" SUN, scenes as well, was not looked at."
)


def imagenet1k_four() -> Benchmark:
    """ImageNet-1k; far: iNaturalist, SUN, Places, Textures, which most papers report."""
    return Benchmark(
        name="imagenet1k/four",
        id=_ID,
        near=(),
        far=(INATURALIST, SUN, PLACES, TEXTURES),
        preprocess=IMAGENET_PREPROCESS,
        protocol=bounded(Protocol(rank_group="far", fpr="fpr95_id"), _ID.name),
        backbone="resnet18",
        citation=MOS,
        own_inputs=True,
        caveats=_CAVEATS,
    )


def imagenet1k_abet() -> Benchmark:
    """ImageNet-1k; far: iNaturalist, SUN, Places, Textures, as AbeT's code has them."""
    return replace(
        imagenet1k_four(),
        name="imagenet1k/abet",
        groups={"near": (), "far": (INATURALIST, SUN, PLACES, TEXTURES_TRAIN1)},
        preprocess=replace(IMAGENET_PREPROCESS, pre_size=232),
        protocol=bounded(Protocol(rank_by="fpr95_id", rank_group="far", fpr="fpr95_id"), _ID.name),
        citation=ABET,
    )
