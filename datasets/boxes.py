"""Photographs with boxes, in the layout of VOS (Du et al., ICLR 2022); nothing is downloaded.

ID: Pascal VOC 2007 and 2012 (20 classes) or BDD-100k (10). OOD: the images of COCO 2017 and of
OpenImages that hold no object of those classes. Boxes are read from VOS's files in COCO's format,
whose category ids 1 to C are the classes in the order below.

Differs from VOS: it scores boxes from the confidence that has the best F1 on ID test images, here
from 0.5, which is chosen on nothing (AbeT's code scores every box from 0.05, on ID and OOD images
alike). As there, training images without an object of a class are
left out, and VOC's difficult objects are trained and tested on like others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from oodbench import files
from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.samples import BoxedSamples, Boxes, ImageFiles, content_digest
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import DataError, MissingDataError, OptionError

from .folder import IMAGENET_MEAN, IMAGENET_STD

VOC_CLASSES = (
    "person",
    "bird",
    "cat",
    "cow",
    "dog",
    "horse",
    "sheep",
    "airplane",
    "bicycle",
    "boat",
    "bus",
    "car",
    "motorcycle",
    "train",
    "bottle",
    "chair",
    "dining table",
    "potted plant",
    "couch",
    "tv",
)
BDD_CLASSES = (
    "pedestrian",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "traffic light",
    "traffic sign",
)


class BoxFiles(ImageFiles, BoxedSamples):
    """Images that are files below one folder, and the boxes of their objects.

    Args:
        name: what messages call it.
        root: the folder.
        paths: files relative to it, N of them.
        corners: ``[n, 4]`` of all objects, image by image.
        labels: ``[n]`` classes, -1 for none.
        ends: ``[N + 1]``: objects ``ends[i]`` to ``ends[i + 1]`` are those of image i.
        classes: class names.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        paths: Sequence[str],
        corners: np.ndarray,
        labels: np.ndarray,
        ends: np.ndarray,
        classes: Sequence[str],
    ) -> None:
        super().__init__(name, root, paths, np.zeros(len(paths)), classes)
        self._corners, self._classes, self._ends = corners, labels, ends

    def boxes(self, index: int) -> Boxes:
        """The objects of the image at a position."""
        rows = slice(self._ends[index], self._ends[index + 1])
        return Boxes(self._corners[rows], self._classes[rows])

    def _digests(self) -> np.ndarray:
        images = super()._digests()
        return np.array(
            [
                content_digest(
                    int(digest).to_bytes(8, "little")
                    + self._corners[start:end].tobytes()
                    + self._classes[start:end].tobytes()
                )
                for digest, start, end in zip(images, self._ends, self._ends[1:], strict=False)
            ],
            dtype=np.uint64,
        )


def read_coco(
    name: str,
    root: Path,
    annotations: Path,
    images: str,
    classes: Sequence[str],
    *,
    ood: bool = False,
    empty: bool = True,
) -> BoxFiles:
    """Images and boxes of a file in COCO's format.

    Boxes without area are dropped. Groups (``iscrowd``) are objects of no class.

    Args:
        name: what messages call it.
        root: the dataset's folder.
        annotations: the JSON file.
        images: folder of the images, relative to the root.
        classes: category ids 1 to C.
        ood: whether all objects belong to no class, whatever their categories.
        empty: whether images without an object of a class are kept.

    Raises:
        DataError: the file is not what it should be; an ID object of another category.
    """
    try:
        with annotations.open(encoding="utf-8") as handle:
            content = json.load(handle)
        listed = content["images"]
        place = {image["id"]: i for i, image in enumerate(listed)}
        paths = [f"{images}/{image['file_name']}" for image in listed]
        objects = content["annotations"]
        owner = np.array([place[item["image_id"]] for item in objects], dtype=np.int64)
        category = np.array([item["category_id"] for item in objects], dtype=np.int64)
        crowd = np.array([bool(item.get("iscrowd")) for item in objects], dtype=bool)
        sides = np.array([item["bbox"] for item in objects], dtype=np.float32).reshape(-1, 4)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{name}: {annotations} is no file in COCO's format ({error!r}). Get it again."
        ) from error
    unknown = ~crowd & ((category < 1) | (category > len(classes)))
    if not ood and unknown.any():
        raise DataError(
            f"{name}: {annotations} has objects of category {category[unknown][0]}, but the "
            f"classes are 1 to {len(classes)}. It must be VOS's file, not another conversion."
        )
    labels = np.where(crowd | ood, -1, category - 1)
    corners = np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1)
    usable = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    if not empty:
        has_object = np.zeros(len(paths), bool)
        has_object[owner[usable & (labels >= 0)]] = True
        usable &= has_object[owner]
        paths = [path for path, kept in zip(paths, has_object, strict=True) if kept]
        owner = (np.cumsum(has_object) - 1)[owner]
    order = np.flatnonzero(usable)[np.argsort(owner[usable], kind="stable")]
    ends = np.searchsorted(owner[order], np.arange(len(paths) + 1))
    return BoxFiles(name, root, paths, corners[order], labels[order], ends, classes)


def _load(
    name: str,
    folder: str,
    where: dict[str, tuple[str, str]],
    classes: Sequence[str],
    ood: bool,
    how: str,
    split: str,
) -> BoxFiles:
    if split not in where:
        raise OptionError(f"{name} has the splits {', '.join(where)}, not {split!r}.")
    root = files.data_dir() / folder
    annotations, images = where[split]
    for path in (root / annotations, root / images):
        if not path.exists():
            raise MissingDataError(
                f"{name}: there is no {path}. Get it: {how} Put it there, or set "
                "OODBENCH_DATA to the folder that has it."
            )
    return read_coco(
        f"{name}/{split}",
        root,
        root / annotations,
        images,
        classes,
        ood=ood,
        empty=split != "train",
    )


def _spec(
    name: str,
    folder: str,
    where: dict[str, tuple[str, str]],
    classes: Sequence[str],
    how: str,
    *,
    ood: bool = False,
    **about: Any,
) -> DatasetSpec:
    load = partial(_load, name, folder, where, classes, ood, how)
    return DatasetSpec(name, load, tuple(where), **about)


_VOS = "VOS's files are linked from github.com/deeplearning-wisc/vos."
_NOT_ID = ("not ID",)

VOC = _spec(
    "voc",
    "voc",
    {
        "train": ("voc0712_train_all.json", "JPEGImages"),
        "test": ("val_coco_format.json", "JPEGImages"),
    },
    VOC_CLASSES,
    f"the processed VOC 2007 and 2012. {_VOS}",
    description="photographs of Pascal VOC 2007 and 2012, 20 classes",
    source="http://host.robots.ox.ac.uk/pascal/VOC",
    licence="Flickr's terms",
    citation="Everingham et al., IJCV 2010",
)
BDD = _spec(
    "bdd",
    "bdd",
    {
        "train": ("train_bdd_converted.json", "images/100k/train"),
        "test": ("val_bdd_converted.json", "images/100k/val"),
    },
    BDD_CLASSES,
    f"the 100k images of BDD-100k (bdd-data.berkeley.edu) and VOS's json files. {_VOS}",
    description="driving scenes of BDD-100k, 10 classes",
    source="https://bdd-data.berkeley.edu",
    licence="own terms, non-commercial",
    citation="Yu et al., CVPR 2020",
)
_COCO_HOW = f"val2017 of COCO (cocodataset.org) and VOS's json file. {_VOS}"
COCO_WITHOUT_VOC = _spec(
    "coco-without-voc",
    "coco",
    {"test": ("annotations/instances_val2017_ood_rm_overlap.json", "val2017")},
    _NOT_ID,
    _COCO_HOW,
    ood=True,
    description="COCO val2017 without images that hold an object of VOC's classes",
    source="https://cocodataset.org",
    licence="CC BY 4.0 (annotations)",
    citation="Lin et al., ECCV 2014",
)
COCO_WITHOUT_BDD = _spec(
    "coco-without-bdd",
    "coco",
    {"test": ("annotations/instances_val2017_ood_wrt_bdd_rm_overlap.json", "val2017")},
    _NOT_ID,
    _COCO_HOW,
    ood=True,
    description="COCO val2017 without images that hold an object of BDD's classes",
    source="https://cocodataset.org",
    licence="CC BY 4.0 (annotations)",
    citation="Lin et al., ECCV 2014",
)
OPENIMAGES_VOS = _spec(
    "openimages-vos",
    "openimages",
    {
        "test": (
            "ood_classes_rm_overlap/COCO-Format/val_coco_format.json",
            "ood_classes_rm_overlap/images",
        )
    },
    _NOT_ID,
    f"VOS's OpenImages splits. {_VOS}",
    ood=True,
    description="OpenImages without images that hold an object of VOC's or BDD's classes",
    source="https://storage.googleapis.com/openimages/web",
    licence="CC BY 4.0 (annotations)",
    citation="Kuznetsova et al., IJCV 2020",
)

PREPROCESS = Preprocess(800, IMAGENET_MEAN, IMAGENET_STD)
PROTOCOL = Protocol(rank_group="far")
"""VOS takes ID as positive: FPR@95 is the share of OOD boxes accepted where 95 % of ID are."""


def voc() -> Benchmark:
    """Pascal VOC against COCO and OpenImages without its classes (VOS)."""
    return Benchmark(
        name="voc/detection",
        id=VOC,
        near=(),
        far=(COCO_WITHOUT_VOC, OPENIMAGES_VOS),
        preprocess=PREPROCESS,
        protocol=PROTOCOL,
        backbone="fasterrcnn-resnet50-fpn",
        citation="arXiv:2202.01197",
        task="detection",
    )


def bdd() -> Benchmark:
    """BDD-100k against COCO and OpenImages without its classes (VOS)."""
    return Benchmark(
        name="bdd/detection",
        id=BDD,
        near=(),
        far=(COCO_WITHOUT_BDD, OPENIMAGES_VOS),
        preprocess=PREPROCESS,
        protocol=PROTOCOL,
        backbone="fasterrcnn-resnet50-fpn",
        citation="arXiv:2202.01197",
        task="detection",
    )
