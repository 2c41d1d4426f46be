"""Validation data: images that hyper-parameters may be chosen on, made without any test image.

:func:`held_out` splits labelled images in two, by content. :func:`synthetic_ood` makes OOD images
of an ID set's validation images.

Paper: D. Hendrycks, M. Mazeika, T. Dietterich, "Deep Anomaly Detection with Outlier Exposure",
ICLR 2019 (appendix: validation distributions). arXiv:1812.04606
Code:  hendrycks/outlier-exposure (CIFAR/test.py); written anew

The paper's seven validation distributions are here: uniform noise, the arithmetic and the geometric
mean of two images, a jigsaw of 16 patches, speckle noise, RGB ghosting, inverted channels. The
noises that it tests on (Gaussian, Rademacher, blobs) are not.

Differs from the authors' code: (1) the images are made of the ID validation split; the code makes
them of the other CIFAR's test images, which are a near-OOD test set here; (2) each image becomes
one image of one kind, all kinds alike often, so the AUROC of the set is the mean over the kinds;
(3) the jigsaw is drawn for each image, and has four patches where an image is below 16 pixels;
(4) grey images are not ghosted, and inverted whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from oodbench.benchmark import get_benchmark
from oodbench.data.content import pixel_digests
from oodbench.data.images import in_mode
from oodbench.data.samples import Samples, Subset, content_digest
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import OptionError

VERSION = 1
"""Part of every digest; raised when the same sources would give other images."""

PAPER = (
    "Hendrycks, Mazeika and Dietterich 2019, Deep Anomaly Detection with Outlier Exposure, ICLR, "
    "arXiv:1812.04606"
)

Pixels = np.ndarray
"""``[H, W, C]`` float32 in [0, 1]."""


def held_out(samples: Samples, share: float) -> tuple[Subset, Subset]:
    """Split samples in a rest and a held-out part, class by class, by what the images show.

    The images with the lowest digests of their pixels are held out: the same images in every run
    and in every file layout (PNG folders, torchvision's archive, parquet files). Equal images of a
    class stay together.

    Args:
        samples: what is split.
        share: of each class that is held out, in (0, 1); of every class with two different images
            at least one is, and at least one stays.

    Returns:
        The rest and the held-out part, each in the order of ``samples``.
    """
    digests = pixel_digests(samples)
    held = np.zeros(len(samples), dtype=bool)
    for label in range(len(samples.classes)):
        rows = np.flatnonzero(samples.labels == label)
        if len(rows) < 2:
            continue
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        last = np.sort(digests[rows])[count - 1]
        chosen = digests[rows] <= last
        held[rows] = digests[rows] < last if chosen.all() else chosen
    return (
        Subset(samples, np.flatnonzero(~held), f"{samples.name}, the rest"),
        Subset(samples, np.flatnonzero(held), f"{samples.name}, held out"),
    )


def synthetic(id_name: str) -> DatasetSpec:
    """Outliers to train with, made of an ID set's training images: synthetic:digits.

    They are of the kinds that :func:`synthetic_ood` makes of validation images, so what is tuned
    on those has seen their like.

    Raises:
        OptionError: no name after the colon.
        UnknownNameError: no benchmark of that name.
    """
    if not id_name:
        raise OptionError("name the ID set that they are made of: synthetic:digits.")
    benchmark = get_benchmark(id_name)
    preprocess = benchmark.preprocess
    if not isinstance(preprocess, Preprocess):
        raise OptionError(f"synthetic:{id_name}: its samples are no images.")
    name = f"synthetic:{id_name}"

    def load(split: str) -> Samples:
        source = benchmark.id.load(split)
        return Synthetic(f"{name}/{split}", source, preprocess)

    return DatasetSpec(
        name=name,
        load=load,
        splits=("train",),
        description=f"outliers made of {benchmark.id.name}/train: "
        + ", ".join(kinds_of(preprocess.mode)),
        source=benchmark.id.source,
        licence=benchmark.id.licence,
        citation=PAPER,
    )


def synthetic_ood(id_spec: DatasetSpec, preprocess: Preprocess) -> DatasetSpec:
    """The synthetic OOD images of an ID set's ``val`` split, as a dataset with a ``val`` split.

    Args:
        id_spec: the ID set; its other splits are never read.
        preprocess: the benchmark's; its ``mode`` tells grey from RGB, and its ``size`` how fine
            noise may be without vanishing when a large image is resized.
    """

    def load(split: str) -> Samples:
        source = id_spec.load("val")
        return Synthetic(f"{id_spec.name}-synthetic/{split}", source, preprocess)

    return DatasetSpec(
        name=f"{id_spec.name}-synthetic",
        load=load,
        splits=("val",),
        description=f"validation OOD images made of {id_spec.name}/val: "
        + ", ".join(kinds_of(preprocess.mode)),
        source=id_spec.source,
        licence=id_spec.licence,
        citation=PAPER,
    )


class Synthetic(Samples):
    """Images made of other images when they are asked for; one of each, of one kind each.

    Everything random is seeded by the source's pixels: neither the order nor the layout of the
    source matters, nor does any global state. Labels are the kinds.

    Args:
        name: what messages call it.
        source: ID validation images, of any size.
        preprocess: see :func:`synthetic_ood`.
    """

    def __init__(self, name: str, source: Samples, preprocess: Preprocess) -> None:
        self.source, self.mode, self.size = source, preprocess.mode, preprocess.size
        self.pixel_digests = pixel_digests(source)
        kinds = kinds_of(self.mode)
        order = np.argsort(self.pixel_digests, kind="stable")
        # digests are as good as random, so whoever comes next in their order is a random partner
        self.partners = np.empty(len(order), dtype=np.int64)
        self.partners[order] = np.roll(order, -1)
        labels = np.empty(len(order), dtype=np.int64)
        labels[order] = np.arange(len(order)) % len(kinds)
        super().__init__(name, labels, kinds)

    def __getitem__(self, index: int) -> Image.Image:
        """The image at a position, of its source's size."""
        kind = self.classes[self.labels[index]]
        image = in_mode(self.source[index], self.mode)
        x = _to_pixels(image)
        if kind in _RANDOM:
            made = _RANDOM[kind](x, _Random(int(self.pixel_digests[index]), self.size))
        elif kind in _MIXING:
            other = in_mode(self.source[int(self.partners[index])], self.mode)
            if other.size != image.size:
                other = other.resize(image.size, Image.Resampling.BILINEAR)
            made = _MIXING[kind](x, _to_pixels(other))
        else:
            made = _COLOUR[kind](x)
        levels = np.rint(made.clip(0, 1) * 255).astype(np.uint8)
        return Image.fromarray(levels[..., 0] if self.mode == "L" else levels)

    def _digests(self) -> np.ndarray:
        def digest(index: int) -> int:
            kind = self.classes[self.labels[index]]
            parents = [int(self.pixel_digests[index])]
            if kind in _MIXING:
                parents.append(int(self.pixel_digests[self.partners[index]]))
            return content_digest(repr((VERSION, kind, self.mode, self.size, parents)).encode())

        return np.fromiter(map(digest, range(len(self))), dtype=np.uint64, count=len(self))


class _Random:
    """Random numbers of one image, no finer than the network sees them.

    Args:
        seed: 64 bits.
        size: of the network's input; noise on a larger image has grains of several pixels, as it
            would be averaged away otherwise.
    """

    def __init__(self, seed: int, size: int) -> None:
        # RandomState's streams are frozen; those of default_rng may change with NumPy's version
        self.state = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])
        self.size = size

    def noise(self, draw: Callable[..., Any], shape: tuple[int, ...]) -> np.ndarray:
        height, width, channels = shape
        grid = draw(size=(min(height, self.size), min(width, self.size), channels))
        rows = np.arange(height) * len(grid) // height
        columns = np.arange(width) * grid.shape[1] // width
        return grid[rows][:, columns]


def _to_pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, dtype=np.float32).reshape(image.height, image.width, -1) / 255


def _uniform(x: Pixels, random: _Random) -> Pixels:
    return random.noise(random.state.random_sample, x.shape)


def _jigsaw(x: Pixels, random: _Random) -> Pixels:
    height, width, channels = x.shape
    n = 4 if min(height, width) >= 16 else 2
    h, w = height // n, width // n
    if not (h and w):
        return x[::-1, ::-1]  # nothing to cut in an image that is one pixel wide
    # whole patches: of a side that is no multiple of n, at most n - 1 pixels are trimmed
    patches = x[: n * h, : n * w].reshape(n, h, n, w, channels).swapaxes(1, 2)
    order = random.state.permutation(n * n)
    if (order == np.arange(n * n)).all():
        order = order[::-1]
    moved = patches.reshape(n * n, h, w, channels)[order].reshape(n, n, h, w, channels)
    return moved.swapaxes(1, 2).reshape(n * h, n * w, channels)


def _speckle(x: Pixels, random: _Random) -> Pixels:
    return x + x * random.noise(random.state.standard_normal, x.shape)


def _arithmetic_mean(x: Pixels, other: Pixels) -> Pixels:
    return (x + other) / 2


def _geometric_mean(x: Pixels, other: Pixels) -> Pixels:
    return np.sqrt(x * other)


def _inverted(x: Pixels) -> Pixels:
    if x.shape[2] == 1:
        return 1 - x
    # not all channels: such an image is more surely OOD than a negative is
    return np.stack([x[..., 0], 1 - x[..., 1], 1 - x[..., 2]], axis=2)


def _rgb_ghost(x: Pixels) -> Pixels:
    return np.stack([x[:, ::-1, 1], x[..., 2], x[..., 0]], axis=2)


_RANDOM = {"uniform": _uniform, "jigsaw": _jigsaw, "speckle": _speckle}
_MIXING = {"arithmetic-mean": _arithmetic_mean, "geometric-mean": _geometric_mean}
_COLOUR = {"inverted": _inverted, "rgb-ghost": _rgb_ghost}


def kinds_of(mode: str) -> tuple[str, ...]:
    """The kinds of synthetic images: all seven for RGB; no ghosting for grey."""
    kinds = (*_RANDOM, *_MIXING, *_COLOUR)
    return kinds if mode == "RGB" else tuple(kind for kind in kinds if kind != "rgb-ghost")
