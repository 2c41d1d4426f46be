"""Street scenes with masks, in the layouts in which they are published; nothing is downloaded.

ID: Cityscapes (19 classes) or StreetHazards (13). OOD: objects on the road in the test sets of
LostAndFound, Fishyscapes LostAndFound and RoadAnomaly (networks trained on Cityscapes), and of
StreetHazards. In an OOD set's masks 0 stands for whatever is not OOD.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from oodbench import files
from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.samples import OOD, VOID, ImageFiles, MaskedSamples, content_digest
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import DataError, MissingDataError, OptionError

from .folder import IMAGENET_MEAN, IMAGENET_STD

Pairs = Sequence[tuple[str, str]]
"""Images and masks, relative to the dataset's folder."""

CITYSCAPES_CLASSES: Mapping[int, str] = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""Labels that are trained on and tested, by their id in ``labelIds`` masks; all others are void."""

STREETHAZARDS_CLASSES = (
    "unlabeled",
    "building",
    "fence",
    "other",
    "pedestrian",
    "pole",
    "road line",
    "road",
    "sidewalk",
    "vegetation",
    "car",
    "wall",
    "traffic sign",
)


class MaskFiles(ImageFiles, MaskedSamples):
    """Images and masks that are files below one folder.

    Args:
        name: what messages call it.
        root: the folder.
        pairs: images and their masks, relative to it.
        table: ``[256]`` uint8: class, ``OOD`` or ``VOID`` of each value in a mask file.
        classes: class names.
    """

    def __init__(
        self, name: str, root: Path, pairs: Pairs, table: np.ndarray, classes: Sequence[str]
    ) -> None:
        super().__init__(name, root, [image for image, _ in pairs], np.zeros(len(pairs)), classes)
        self.table = table
        self._masks = ImageFiles(
            f"{name} masks", root, [mask for _, mask in pairs], self.labels, classes
        )

    def mask(self, index: int) -> np.ndarray:
        """The mask at a position, decoded.

        Raises:
            DataError: the file is damaged, or has colours instead of one value per pixel.
        """
        labels = np.asarray(self._masks.undecorated(index))
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise DataError(
                f"{self.mask_name(index)} must be an 8-bit image with one value per pixel, not "
                f"{labels.dtype} of shape {labels.shape}. "
                "Take the file with label ids, not the one with colours."
            )
        return self.table[labels]

    def mask_name(self, index: int) -> str:
        """The dataset, the position and the mask's file."""
        return f"{self.name}, image {index}: the mask {self.root / self._masks.paths[index]}"

    def _digests(self) -> np.ndarray:
        images, masks, table = super()._digests(), self._masks.digests, self.table.tobytes()
        return np.array(
            [
                content_digest(int(a).to_bytes(8, "little") + int(b).to_bytes(8, "little") + table)
                for a, b in zip(images, masks, strict=True)
            ],
            dtype=np.uint64,
        )


def _table(known: Mapping[int, int]) -> np.ndarray:
    table = np.full(256, VOID, np.uint8)
    for value, meaning in known.items():
        table[value] = meaning
    return table


_CITYSCAPES = _table({value: i for i, value in enumerate(CITYSCAPES_CLASSES)})
# objects that are no hazard (31, 33, 34, 36-39) count neither as road nor as OOD, as in the
# published evaluation
_NO_HAZARD = {31, 33, 34, 36, 37, 38, 39}
_LOST_AND_FOUND = _table({1: 0, **{v: OOD for v in range(2, 44) if v not in _NO_HAZARD}})
_FISHYSCAPES = _table({0: 0, 1: OOD})
_ROAD_ANOMALY = _table({0: 0, 1: 0, 2: OOD})
_STREETHAZARDS = _table({**{c + 1: c for c in range(13)}, 14: OOD})


def _beside(root: Path, images: str, tail: str, mask: Callable[[str], str]) -> Pairs:
    """Images below ``root`` by a pattern, each with the mask that its path leads to."""
    names = sorted(p.relative_to(root).as_posix() for p in root.glob(images))
    pairs = [(image, mask(image.removesuffix(tail))) for image in names if image.endswith(tail)]
    return _with_masks(root, pairs)


def _with_masks(root: Path, pairs: Pairs) -> Pairs:
    """The pairs, whose masks are all there.

    Raises:
        DataError: some are not; names the first.
    """
    missing = [path for _, path in pairs if not (root / path).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(pairs)} images below {root} have no mask; the first that is "
            f"looked for is {root / missing[0]}. Unpack the masks into the same folder."
        )
    return pairs


def _cityscapes(root: Path, split: str) -> Pairs:
    split = "val" if split == "test" else split  # its test set has no public masks
    return _beside(
        root,
        f"leftImg8bit/{split}/*/*.png",
        "_leftImg8bit.png",
        lambda stem: stem.replace("leftImg8bit/", "gtFine/", 1) + "_gtFine_labelIds.png",
    )


def _lost_and_found(root: Path, split: str) -> Pairs:
    return _beside(
        root,
        f"leftImg8bit/{split}/*/*.png",
        "_leftImg8bit.png",
        lambda stem: stem.replace("leftImg8bit/", "gtCoarse/", 1) + "_gtCoarse_labelIds.png",
    )


def _fishyscapes(root: Path, _: str) -> Pairs:
    """Masks of its own (``NNNN_<frame>_labels.png``), images of LostAndFound."""
    masks = sorted(
        path.relative_to(root).as_posix()
        for path in root.glob("fishyscapes_lostandfound/*_labels.png")
    )
    images = {
        path.name.removesuffix("_leftImg8bit.png"): path.relative_to(root).as_posix()
        for path in root.glob("lostandfound/leftImg8bit/*/*/*_leftImg8bit.png")
    }
    frames = [Path(m).name.removesuffix("_labels.png").partition("_")[2] for m in masks]
    missing = [frame for frame in frames if frame not in images]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(masks)} images of Fishyscapes LostAndFound, such as "
            f"{missing[0]}_leftImg8bit.png, are not below {root / 'lostandfound/leftImg8bit'}. "
            "They belong to LostAndFound (train and test): unpack both there."
        )
    return [(images[frame], mask) for frame, mask in zip(frames, masks, strict=True)]


def _road_anomaly(root: Path, _: str) -> Pairs:
    pairs = []
    for folder in sorted(root.glob("frames/*.labels")):
        stem = folder.name.removesuffix(".labels")
        image = next(
            (
                p
                for end in (".webp", ".jpg", ".png")
                if (p := folder.with_name(stem + end)).exists()
            ),
            None,
        )
        mask = folder / "labels_semantic.png"
        if image is None or not mask.is_file():
            what = f"{stem}.webp" if image is None else f"{folder.name}/labels_semantic.png"
            raise DataError(f"RoadAnomaly lacks {root / 'frames' / what}. Unpack it again.")
        pairs.append((image.relative_to(root).as_posix(), mask.relative_to(root).as_posix()))
    return pairs


def _streethazards(root: Path, split: str) -> Pairs:
    return _streethazards_images(root, {"train": "training", "test": "validation"}[split])


def _streethazards_objects(root: Path, _: str) -> Pairs:
    return _streethazards_images(root, "test")


def _streethazards_images(root: Path, folder: str) -> Pairs:
    return _beside(
        root,
        f"*/images/{folder}/*/*.png",
        ".png",
        lambda stem: stem.replace("/images/", "/annotations/", 1) + ".png",
    )


def _load(
    name: str,
    folder: str,
    find: Callable[[Path, str], Pairs],
    table: np.ndarray,
    classes: Sequence[str],
    how: str,
    splits: tuple[str, ...],
    split: str,
) -> MaskFiles:
    if split not in splits:
        raise OptionError(f"{name} has the splits {', '.join(splits)}, not {split!r}.")
    root = files.data_dir() / folder
    pairs = find(root, split) if root.is_dir() else ()
    if not pairs:
        raise MissingDataError(
            f"{name}: no {split} images with masks below {root}. Get it: {how} Unpack it there, "
            "or set OODBENCH_DATA to the folder that has it."
        )
    return MaskFiles(f"{name}/{split}", root, pairs, table, classes)


def _spec(
    name: str,
    folder: str,
    find: Callable[[Path, str], Pairs],
    table: np.ndarray,
    classes: Sequence[str],
    how: str,
    *,
    splits: tuple[str, ...] = ("test",),
    **about: Any,
) -> DatasetSpec:
    load = partial(_load, name, folder, find, table, tuple(classes), how, splits)
    return DatasetSpec(name, load, splits, **about)


_NOT_OOD = ("not OOD",)

CITYSCAPES = _spec(
    "cityscapes",
    "cityscapes",
    _cityscapes,
    _CITYSCAPES,
    tuple(CITYSCAPES_CLASSES.values()),
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from cityscapes-dataset.com "
    "(needs an account).",
    splits=("train", "test"),
    description="street scenes of German cities, 19 classes; test is the public val split",
    source="https://www.cityscapes-dataset.com",
    licence="own terms, non-commercial",
    citation="Cordts et al., CVPR 2016",
)
LOST_AND_FOUND = _spec(
    "lostandfound",
    "lostandfound",
    _lost_and_found,
    _LOST_AND_FOUND,
    _NOT_OOD,
    "leftImg8bit.zip and gtCoarse.zip of LostAndFound from 6d-vision.com/lostandfounddataset.",
    splits=("train", "test"),
    description="LostAndFound: streets with small lost objects, which are OOD against free road",
    source="http://www.6d-vision.com/lostandfounddataset",
    licence="own terms, non-commercial",
    citation="Pinggera et al., IROS 2016",
)
FISHYSCAPES = _spec(
    "fishyscapes-laf",
    ".",
    _fishyscapes,
    _FISHYSCAPES,
    _NOT_OOD,
    "fishyscapes_lostandfound.zip from fishyscapes.com (masks), and LostAndFound (images).",
    description="100 images of LostAndFound with masks of unknown objects (public validation set)",
    source="https://fishyscapes.com",
    licence="CC BY 4.0 (masks)",
    citation="Blum et al., IJCV 2021",
)
ROAD_ANOMALY = _spec(
    "roadanomaly",
    "RoadAnomaly",
    _road_anomaly,
    _ROAD_ANOMALY,
    _NOT_OOD,
    "RoadAnomaly.zip from epfl.ch/labs/cvlab/data/road-anomaly.",
    description="60 photographs of roads with animals, rocks and other dangers, which are OOD",
    source="https://www.epfl.ch/labs/cvlab/data/road-anomaly",
    licence="own terms",
    citation="Lis et al., ICCV 2019",
)
STREETHAZARDS = _spec(
    "streethazards",
    "streethazards",
    _streethazards,
    _STREETHAZARDS,
    STREETHAZARDS_CLASSES,
    "streethazards_train.tar and streethazards_test.tar (github.com/hendrycks/anomaly-seg).",
    splits=("train", "test"),
    description="simulated street scenes, 13 classes; test is the public validation split",
    source="https://github.com/hendrycks/anomaly-seg",
    licence="MIT",
    citation="Hendrycks et al., ICML 2022",
)
STREETHAZARDS_OBJECTS = _spec(
    "streethazards-objects",
    "streethazards",
    _streethazards_objects,
    _STREETHAZARDS,
    STREETHAZARDS_CLASSES,
    "streethazards_test.tar (github.com/hendrycks/anomaly-seg).",
    description="simulated street scenes with objects that StreetHazards does not train on",
    source="https://github.com/hendrycks/anomaly-seg",
    licence="MIT",
    citation="Hendrycks et al., ICML 2022",
)

PREPROCESS = Preprocess(768, IMAGENET_MEAN, IMAGENET_STD)

PROTOCOL = Protocol(fpr="fpr95_ood")
"""Papers on anomalies in street scenes take the anomaly as positive: FPR@95 is the share of other
pixels that are flagged at the threshold that catches 95 % of the anomalous ones (Hendrycks et al.
2022; Blum et al. 2021)."""


def cityscapes() -> Benchmark:
    """Cityscapes against objects of Fishyscapes LostAndFound, LostAndFound and RoadAnomaly."""
    return Benchmark(
        name="cityscapes/segmentation",
        id=CITYSCAPES,
        near=(FISHYSCAPES, LOST_AND_FOUND),
        far=(ROAD_ANOMALY,),
        preprocess=PREPROCESS,
        protocol=PROTOCOL,
        backbone="deeplabv3-resnet50",
        citation="arXiv:2401.12129, section 5",
        task="segmentation",
    )


def streethazards() -> Benchmark:
    """StreetHazards against the anomalous objects of its own test set."""
    return Benchmark(
        name="streethazards/segmentation",
        id=STREETHAZARDS,
        near=(STREETHAZARDS_OBJECTS,),
        far=(),
        preprocess=PREPROCESS,
        protocol=PROTOCOL,
        backbone="deeplabv3-resnet50",
        citation="Hendrycks et al., ICML 2022",
        task="segmentation",
    )
