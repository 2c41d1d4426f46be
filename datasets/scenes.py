"""Embedded scenes: scikit-learn's digits on one of its photographs; nothing to download.

ID: scenes of handwritten digits 0-5 on crops of a photograph. Near-OOD: the digits 6-9 of the same
writers in their place. Far-OOD: regular polygons and discs with a drawn pattern, which are neither
digit nor photograph (a piece of a photograph would be background, which is what a photograph is
here). Training and test scenes have different digits and different halves of the photograph. Trains
on a CPU in minutes, so it shows that a method works, not how good it is.

A scene is 64 x 64 grey: a crop of a photograph at half its contrast, and as many of two or three
objects, of at most 28 pixels a side, as find room without overlap. A digit is drawn as light ink.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.samples import OOD, BoxedSamples, Boxes, MaskedSamples, Samples, content_digest
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import OptionError

from .digits import CITATION, DIGITS, DIGITS_6_9, ID_CLASSES

SIZE = 64
INK = 0.35
"""Share of full ink from which a pixel is a digit's."""

CORNERS = (3, 4, 5, 6, 60)
"""Corners that a far-OOD shape may have; the last is a disc."""
PATTERNS = ("stripes", "checks", "dots", "noise")
"""What it may be filled with."""

COUNTS = {"train": 600, "val": 100, "test": 200}
Content = Literal["id", "near", "far", "id+near", "id+far"]
PREPROCESS = Preprocess(SIZE, (0.413,), (0.212,), mode="L", flip=False)


@dataclass
class Scene:
    """One scene with its mask and boxes.

    Args:
        image: ``[64, 64]`` uint8.
        classes: ``[64, 64]`` uint8: 0 for background, 1 + digit, or ``OOD``.
        boxes: its objects, with the digit as label, -1 for OOD.
    """

    image: np.ndarray
    classes: np.ndarray
    boxes: Boxes


@cache
def _photograph() -> np.ndarray:
    return np.asarray(Image.fromarray(load_sample_images().images[0]).convert("L"))


@cache
def scenes(split: str, content: Content) -> tuple[Scene, ...]:
    """The scenes of a split; the same ones each time.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        content: ``"id"``: digits 0-5; ``"near"``: 6-9; ``"far"``: patterned shapes;
            ``"id+near"`` and ``"id+far"``: one object of the latter and up to two digits 0-5.

    Raises:
        OptionError: no such split.
    """
    if split not in COUNTS:
        raise OptionError(f"scenes have the splits {', '.join(COUNTS)}, not {split!r}.")
    kinds = ("id", "near", "far", "id+near", "id+far")
    rng = np.random.default_rng([list(COUNTS).index(split), kinds.index(content)])
    return tuple(_scene(rng, split, content) for _ in range(COUNTS[split]))


def _scene(rng: np.random.Generator, split: str, content: Content) -> Scene:
    image = _background(rng, split)
    classes = np.zeros((SIZE, SIZE), np.uint8)
    kinds = ["id"] * int(rng.integers(2, 4))
    if content.startswith("id+"):
        kinds[0] = content.removeprefix("id+")
    elif content != "id":
        kinds = [content] * len(kinds)
    corners: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for kind in kinds:
        side = int(rng.integers(20, 29))
        place = _free_place(rng, side, corners)
        if place is None:  # two large objects can leave no room for a third
            continue
        left, top = place
        window = np.s_[top : top + side, left : left + side]
        if kind == "far":
            shape, label = _shape(rng, side), -1
            image[window][shape] = _pattern(rng, side)[shape]
        else:
            ink, label = _digit(rng, split, kind, side)
            image[window] = image[window] * (1 - ink) + 255 * ink
            shape = ink > INK
        classes[window][shape] = OOD if label < 0 else 1 + label
        ys, xs = np.nonzero(shape)
        corners.append((left + xs.min(), top + ys.min(), left + xs.max() + 1, top + ys.max() + 1))
        labels.append(label)
    boxes = Boxes(np.array(corners), np.array(labels))
    return Scene(np.rint(image).astype(np.uint8), classes, boxes)


def _background(rng: np.random.Generator, split: str) -> np.ndarray:
    """A crop of the photograph's left half for training, of its right half for the rest."""
    whole = _photograph()
    half = whole.shape[1] // 2
    left = int(rng.integers(0, half - SIZE)) + (0 if split == "train" else half)
    top = int(rng.integers(0, whole.shape[0] - SIZE))
    return 32 + whole[top : top + SIZE, left : left + SIZE].astype(np.float64) / 2


def _shape(rng: np.random.Generator, side: int) -> np.ndarray:
    """A regular polygon or a disc at any angle, ``[side, side]`` bool."""
    corners = int(rng.choice(CORNERS))
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
    y, x = (np.indices((side, side)) + 0.5) * 2 / side - 1
    edges = np.cos(angles)[:, None, None] * x + np.sin(angles)[:, None, None] * y
    inside: np.ndarray = edges.max(axis=0) <= np.cos(np.pi / corners)
    return inside


def _pattern(rng: np.random.Generator, side: int) -> np.ndarray:
    """Grey values ``[side, side]``: dark and light by turns every 4 to 8 pixels, or noise."""
    kind = PATTERNS[int(rng.integers(len(PATTERNS)))]
    dark, light = rng.uniform(0, 80), rng.uniform(175, 255)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    pace = 2 * np.pi / rng.uniform(4, 8)
    noise = rng.random((side, side))
    y, x = np.indices((side, side)) - (side - 1) / 2
    u = pace * (x * np.cos(angle) + y * np.sin(angle)) + phase
    v = pace * (y * np.cos(angle) - x * np.sin(angle)) + phase
    share = {
        "stripes": np.sin(u) > 0,
        "checks": np.sin(u) * np.sin(v) > 0,
        "dots": np.cos(u) + np.cos(v) > 0.5,
        "noise": noise,
    }[kind]
    return dark + (light - dark) * share


@cache
def _digits(split: str, kind: str) -> Samples:
    return DIGITS.load(split) if kind == "id" else DIGITS_6_9.load("test")


def _digit(rng: np.random.Generator, split: str, kind: str, side: int) -> tuple[np.ndarray, int]:
    """Ink ``[side, side]`` in [0, 1] and the class, -1 for a digit of none."""
    samples = _digits(split, kind)
    index = int(rng.integers(len(samples)))
    large = samples[index].resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(large) / 255, int(samples.labels[index]) if kind == "id" else -1


def _free_place(
    rng: np.random.Generator, side: int, taken: list[tuple[int, int, int, int]]
) -> tuple[int, int] | None:
    for _ in range(50):
        left, top = (int(v) for v in rng.integers(0, SIZE - side + 1, 2))
        if all(
            left >= x1 or top >= y1 or left + side <= x0 or top + side <= y0
            for x0, y0, x1, y1 in taken
        ):
            return left, top
    return None


class SceneMasks(MaskedSamples):
    """Scenes with masks: background and the digits 0-5."""

    def __init__(self, name: str, drawn: tuple[Scene, ...]) -> None:
        super().__init__(name, np.zeros(len(drawn)), ("background", *ID_CLASSES))
        self.scenes = drawn

    @property
    def in_memory(self) -> bool:
        """Whether images need no reading: these are drawn in memory."""
        return True

    def __getitem__(self, index: int) -> Image.Image:
        """The scene at a position."""
        return Image.fromarray(self.scenes[index].image)

    def mask(self, index: int) -> np.ndarray:
        """The class of each pixel of a scene, ``[H, W]``."""
        return self.scenes[index].classes

    def _digests(self) -> np.ndarray:
        return _digests([(s.image, s.classes) for s in self.scenes])


class SceneBoxes(BoxedSamples):
    """Scenes with boxes of the digits 0-5."""

    def __init__(self, name: str, drawn: tuple[Scene, ...]) -> None:
        super().__init__(name, np.zeros(len(drawn)), ID_CLASSES)
        self.scenes = drawn

    @property
    def in_memory(self) -> bool:
        """Whether images need no reading: these are drawn in memory."""
        return True

    def __getitem__(self, index: int) -> Image.Image:
        """The scene at a position."""
        return Image.fromarray(self.scenes[index].image)

    def boxes(self, index: int) -> Boxes:
        """The objects of a scene."""
        return self.scenes[index].boxes

    def _digests(self) -> np.ndarray:
        return _digests([(s.image, s.boxes.corners, s.boxes.labels) for s in self.scenes])


def _digests(parts: list[tuple[np.ndarray, ...]]) -> np.ndarray:
    return np.array(
        [content_digest(b"".join(part.tobytes() for part in scene)) for scene in parts], np.uint64
    )


def _spec(
    name: str,
    kind: type[SceneMasks] | type[SceneBoxes],
    content: Content,
    *,
    description: str,
) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        load=lambda split: kind(f"{name}/{split}", scenes(split, content)),
        splits=tuple(COUNTS) if content == "id" else ("test",),
        description=description,
        source="sklearn.datasets.load_digits, load_sample_images",
        licence="CC BY 4.0, CC BY 2.0",
        citation=CITATION,
    )


MASKS = _spec(
    "scenes", SceneMasks, "id", description="digits 0-5 on photographs, 64x64 grey, masks"
)
MASKS_6_9 = _spec(
    "scenes-6-9",
    SceneMasks,
    "id+near",
    description="digits 0-5 and one digit 6-9 on photographs, 64x64 grey, masks",
)
MASKS_SHAPES = _spec(
    "scenes-shapes",
    SceneMasks,
    "id+far",
    description="digits 0-5 and one patterned shape on photographs, 64x64 grey, masks",
)
BOXES = _spec(
    "scenes", SceneBoxes, "id", description="digits 0-5 on photographs, 64x64 grey, boxes"
)
BOXES_6_9 = _spec(
    "scenes-6-9", SceneBoxes, "near", description="digits 6-9 on photographs, 64x64 grey, boxes"
)
BOXES_SHAPES = _spec(
    "scenes-shapes",
    SceneBoxes,
    "far",
    description="patterned shapes on photographs, 64x64 grey, boxes",
)

SEGMENTATION_REMARKS = (
    "Of the ID pixels of these images 92 % are background, of a photograph: against all of them a "
    "score does well that tells objects from background, whatever the objects are. The table of "
    "OOD pixels against ID objects asks for more. A far-OOD shape, unlike a digit, may be called "
    "background by the network.",
    "The recipe quick was chosen on the ID validation split alone (rates 0.1, 0.03 and 0.01); "
    "slow, at rate 0.01, has the lowest mIoU of them there. OOD figures chose nothing.",
    "What AbeT's temperature learned with quick (benchmarks/temperature.py; medians over pixels, "
    "middle one of three seeds): 0.089 on background, 0.051 on ID digits, 0.062 on OOD digits. T "
    "is to be large where the network is unsure, and so it is among objects: by T alone OOD digits "
    "are told from ID digits with an AUROC of 69.4, shapes with 93.1. But background, where "
    "nothing is unsure, has the largest T of all, as cross-entropy makes T small where digits are "
    "hard; against it T is upside down (1.5 for OOD digits), and abet with it. A smaller rate "
    "(slow) mends that in one seed of three.",
)


def segmentation() -> Benchmark:
    """Scenes of digits 0-5 with one digit 6-9 (near) or one patterned shape (far); embedded."""
    return Benchmark(
        name="scenes/segmentation",
        id=MASKS,
        near=(MASKS_6_9,),
        far=(MASKS_SHAPES,),
        preprocess=PREPROCESS,
        protocol=Protocol(fpr="fpr95_ood"),  # as papers on pixels have it; see roads.py
        backbone="scenes-unet",
        citation="oodbench",
        task="segmentation",
        task_options={"background": ("background",)},
        remarks=SEGMENTATION_REMARKS,
    )


def detection() -> Benchmark:
    """Scenes of digits 0-5 against digits 6-9 (near) and patterned shapes (far); embedded."""
    return Benchmark(
        name="scenes/detection",
        id=BOXES,
        near=(BOXES_6_9,),
        far=(BOXES_SHAPES,),
        preprocess=PREPROCESS,
        backbone="scenes-frcnn",
        citation="oodbench",
        task="detection",
    )
