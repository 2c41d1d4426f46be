"""Real street scenes with anomalies: RoadAnomaly, Fishyscapes and SegmentMeIfYouCan, one by one.

Each is a benchmark of its own, of the publisher's public validation images: anomalous pixels
against the others that its masks count (void is left out), by a network of Cityscapes' classes that
is given (``--network``). In RoadAnomaly, Fishyscapes and RoadAnomaly21 that is the whole scene, in
RoadObstacle21 the road alone.

- RoadAnomaly: 60 photographs (K. Lis, K. Nakka, P. Fua, M. Salzmann, ICCV 2019; arXiv:1904.07595)
- Fishyscapes LostAndFound, 100 of its images, and Static, 30 with objects pasted into Cityscapes
  (H. Blum, P.-E. Sarlin, J. Nieto, R. Siegwart, C. Cadena, IJCV 2021; arXiv:1904.03215)
- SegmentMeIfYouCan: RoadAnomaly21, 10 images, and RoadObstacle21, 30 (R. Chan et al., NeurIPS
  Datasets and Benchmarks 2021; arXiv:2104.14812)

There is no ID test set in these protocols. The ID mIoU of a row is that on eight *training* images
of Cityscapes which NVIDIA/pix2pixHD holds: it says whether the network is fed as it was trained,
and no more. Test sets whose masks are not public are scored by the publishers alone.

Layouts: the publishers' own, or ``Validation_Dataset`` as it is in
Lorkenzo/AnomalySegmentation_CourseProjectBaseCode, where images have lost their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from oodbench import files
from oodbench.benchmark import Benchmark
from oodbench.data.samples import OOD
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import CheckpointError, DataError, MissingDataError, OptionError
from oodbench.networks.checkpoints import read_checkpoint
from oodbench.networks.enet import ENet, Resized
from oodbench.networks.espnetv2 import ESPNetv2

from .roads import (
    _CITYSCAPES,
    _FISHYSCAPES,
    _ROAD_ANOMALY,
    CITYSCAPES_CLASSES,
    FISHYSCAPES,
    PROTOCOL,
    ROAD_ANOMALY,
    MaskFiles,
    Pairs,
    _table,
    _with_masks,
)

NOT_OOD = ("not OOD",)
GATHERED = "Validation_Dataset"
WHERE = "Validation_Dataset of github.com/Lorkenzo/AnomalySegmentation_CourseProjectBaseCode"
PREPROCESS = Preprocess(512, (0.0,) * 3, (1.0,) * 3)
"""Images in their own sizes, with values in [0, 1], for a network that says nothing of them."""

_SMIYC = _table({0: 0, 1: OOD})


def _pairs(root: Path, images: str, masks: str, tail: str) -> Pairs:
    """Images of a folder, each with the mask of its stem and a tail in another folder."""
    found = sorted(path for path in (root / images).glob("*.*") if not path.name.startswith("."))
    stems = [path.stem.removesuffix("_leftImg8bit") for path in found]
    pairs = [
        (f"{images}/{path.name}", f"{masks}/{stem}{tail}")
        for path, stem in zip(found, stems, strict=True)
    ]
    return _with_masks(root, pairs)


Layout = tuple[str, str, str, str]
"""A folder below the data folder, those of images and masks in it, and the end of a mask's name."""


def _load(
    name: str,
    layouts: Sequence[Layout],
    table: object,
    how: str,
    n: int,
    split: str,
    called: str | None = None,
) -> MaskFiles:
    """The images of the first layout that is there, all of them.

    Args:
        name: of the images, whichever layout they are in.
        layouts: where they are looked for.
        table: classes of the masks' values.
        how: where they can be had.
        n: how many there are.
        split: ``"test"``.
        called: the dataset's name, if it is another.

    Raises:
        OptionError: another split than ``"test"``.
        MissingDataError: there is none.
        DataError: masks are missing, or it is another number of images than was published.
    """
    if split != "test":
        raise OptionError(f"{name} has the split test, not {split!r}.")
    for folder, images, masks, tail in layouts:
        root = files.data_dir() / folder
        if not (root / images).is_dir():
            continue
        pairs = _pairs(root, images, masks, tail)
        if len(pairs) != n:
            raise DataError(
                f"{name} is {n} images, and {root / images} has {len(pairs)}. Get it again: {how}"
            )
        classes = tuple(CITYSCAPES_CLASSES.values()) if table is _CITYSCAPES else NOT_OOD
        return MaskFiles(f"{name}/test", root, pairs, table, classes)  # type: ignore[arg-type]
    first = layouts[0]
    raise MissingDataError(
        f"{called or name}, {split}: no images below {files.data_dir() / first[0] / first[1]}. "
        f"Get it: {how} Or set OODBENCH_DATA to the folder that has it."
    )


def _gathered(name: str) -> Layout:
    return f"{GATHERED}/{name}", "images", "labels_masks", ".png"


def _either(
    official: DatasetSpec, called: str, name: str, table: object, how: str, n: int, split: str
) -> MaskFiles:
    """The publisher's own layout where it is there, else the gathered one."""
    try:
        own = official.load(split)
    except MissingDataError:
        return _load(official.name, (_gathered(name),), table, how, n, split, called)
    assert isinstance(own, MaskFiles)  # noqa: S101
    return own


def _spec(
    name: str, layouts: Sequence[Layout], table: object, how: str, n: int, **about: Any
) -> DatasetSpec:
    load = partial(_load, name, tuple(layouts), table, how, n)
    return DatasetSpec(name, load, ("test",), **about)


CITYSCAPES_SAMPLE = _spec(
    "cityscapes-sample",
    (("cityscapes-sample", "train_img", "train_label", "_gtFine_labelIds.png"),),
    _CITYSCAPES,
    "train_img and train_label below datasets/cityscapes of github.com/NVIDIA/pix2pixHD.",
    8,
    description="eight training images of Cityscapes, 19 classes; no measure of a network",
    source="https://github.com/NVIDIA/pix2pixHD",
    licence="Cityscapes' own terms, non-commercial",
    citation="Cordts et al., CVPR 2016",
)
ANOMALY21 = _spec(
    "smiyc-anomaly21",
    (
        ("dataset_AnomalyTrack", "images", "labels_masks", "_labels_semantic.png"),
        _gathered("RoadAnomaly21"),
    ),
    _SMIYC,
    f"dataset_AnomalyTrack.zip from segmentmeifyoucan.com, or {WHERE}.",
    10,
    description="the 10 public images of RoadAnomaly21 (SegmentMeIfYouCan), anomalies anywhere",
    source="https://segmentmeifyoucan.com",
    licence="own terms",
    citation="Chan et al., NeurIPS Datasets and Benchmarks 2021",
)
OBSTACLE21 = _spec(
    "smiyc-obstacle21",
    (
        ("dataset_ObstacleTrack", "images", "labels_masks", "_labels_semantic.png"),
        _gathered("RoadObsticle21"),
    ),
    _SMIYC,
    f"dataset_ObstacleTrack.zip from segmentmeifyoucan.com, or {WHERE}.",
    30,
    description="the 30 public images of RoadObstacle21 (SegmentMeIfYouCan), obstacles on the road",
    source="https://segmentmeifyoucan.com",
    licence="own terms",
    citation="Chan et al., NeurIPS Datasets and Benchmarks 2021",
)
STATIC = _spec(
    "fishyscapes-static",
    (_gathered("fs_static"),),
    _FISHYSCAPES,
    f"{WHERE}.",
    30,
    description="30 images of Cityscapes with pasted objects (public validation set of Static)",
    source="https://fishyscapes.com",
    licence="own terms",
    citation="Blum et al., IJCV 2021",
)
ROAD_ANOMALY_60 = DatasetSpec(
    "roadanomaly-60",
    partial(_either, ROAD_ANOMALY, "roadanomaly-60", "RoadAnomaly", _ROAD_ANOMALY,
            f"RoadAnomaly.zip from epfl.ch/labs/cvlab/data/road-anomaly, or {WHERE}.", 60),
    ("test",),
    description="RoadAnomaly's 60 photographs, in the publisher's layout or in that of others",
    source=ROAD_ANOMALY.source,
    licence=ROAD_ANOMALY.licence,
    citation=ROAD_ANOMALY.citation,
)  # fmt: skip
FISHYSCAPES_100 = DatasetSpec(
    "fishyscapes-laf-100",
    partial(_either, FISHYSCAPES, "fishyscapes-laf-100", "FS_LostFound_full", _FISHYSCAPES,
            f"fishyscapes_lostandfound.zip from fishyscapes.com and LostAndFound, or {WHERE}.",
            100),
    ("test",),
    description="Fishyscapes LostAndFound's 100 images, in the publisher's layout or in another",
    source=FISHYSCAPES.source,
    licence=FISHYSCAPES.licence,
    citation=FISHYSCAPES.citation,
)  # fmt: skip


def _benchmark(name: str, scenes: DatasetSpec, citation: str) -> Benchmark:
    return Benchmark(
        name=name,
        id=CITYSCAPES_SAMPLE,
        near=(scenes,),
        far=(),
        preprocess=PREPROCESS,
        protocol=PROTOCOL,
        backbone="deeplabv3-resnet50",
        citation=citation,
        task="segmentation",
    )


def road_anomaly() -> Benchmark:
    """Anomalous pixels in RoadAnomaly's 60 photographs, by a given Cityscapes network."""
    return _benchmark("roadanomaly", ROAD_ANOMALY_60, "arXiv:1904.07595")


def lost_and_found() -> Benchmark:
    """Unknown objects in the 100 images of Fishyscapes LostAndFound, by a given network."""
    return _benchmark("fishyscapes/laf", FISHYSCAPES_100, "arXiv:1904.03215")


def static() -> Benchmark:
    """Pasted objects in the 30 public images of Fishyscapes Static, by a given network."""
    return _benchmark("fishyscapes/static", STATIC, "arXiv:1904.03215")


def anomaly21() -> Benchmark:
    """Anomalous pixels in the 10 public images of RoadAnomaly21, by a given network."""
    return _benchmark("smiyc/anomaly21", ANOMALY21, "arXiv:2104.14812")


def obstacle21() -> Benchmark:
    """Obstacles on the road in the 30 public images of RoadObstacle21, by a given network."""
    return _benchmark("smiyc/obstacle21", OBSTACLE21, "arXiv:2104.14812")


def _published(model: nn.Module, file: str, where: str, shown: Preprocess) -> Resized:
    """A network with weights of the data folder, at 1024 x 512; its last class, void, is left out.

    Raises:
        MissingDataError: the weights are not here; says where they are.
        CheckpointError: they do not fit.
    """
    path = files.data_dir() / file
    if not path.is_file():
        raise MissingDataError(f"there are no weights {path}. They are {where}.")
    state, _ = read_checkpoint(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        name = type(model).__name__
        raise CheckpointError(f"{path} does not fit {name}: {str(error)[:200]}") from error
    return Resized(model.eval(), (512, 1024), len(CITYSCAPES_CLASSES), shown)


def enet() -> Resized:
    """The ENet of yurnero14/Anomaly-Segmentation on Cityscapes, at 1024 x 512 (``--network``).

    RGB in [0, 1], not normalised; 19 classes, and void as a 20th, which is left out.

    Raises:
        MissingDataError: the weights are not here; says where they are.
        CheckpointError: they do not fit.
    """
    where = (
        "save/enet_train_cityscape_void/model_best.pth of github.com/yurnero14/Anomaly-Segmentation"
    )
    return _published(ENet(20), "enet/model_best.pth", where, PREPROCESS)


def espnetv2() -> Resized:
    """The largest ESPNetv2 of sacmehta/EdgeNets on Cityscapes, at 1024 x 512 (``--network``).

    Normalised as for ImageNet; 19 classes, and void as a 20th, which is left out. Its publishers
    say 66.4 % mIoU on Cityscapes' validation images.

    Raises:
        MissingDataError: the weights are not here; says where they are.
        CheckpointError: they do not fit.
    """
    file = "espnetv2_s_2.0_city_1024x512.pth"
    where = f"model/segmentation/model_zoo/espnetv2/{file} of github.com/sacmehta/EdgeNets"
    shown = Preprocess(512, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return _published(ESPNetv2(20), f"espnetv2/{file}", where, shown)
