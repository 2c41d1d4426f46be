"""Augmentations of training images: random operations, resized crops, and views for contrast."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, TrivialAugmentWide

from oodbench.data.images import in_mode
from oodbench.data.transforms import CropFlip, PixelAugmentation, Preprocess, to_tensor


class TrivialAugment(CropFlip):
    """As :class:`CropFlip`, with one random operation of random strength between the two.

    S. Müller and F. Hutter, "TrivialAugment", ICCV 2021 (the wide space; torchvision's code).
    """

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__(preprocess)
        self.operation = TrivialAugmentWide()

    def change(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """The operation; torch's generator, which it draws from, is given back as it was."""
        return _operated(self.operation, image, rng)


def _operated(operation: Any, image: Image.Image, rng: random.Random) -> Image.Image:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.getrandbits(63))  # a device's stay as they are
        changed: Image.Image = operation(image)
        return changed


class TrivialResizedCrop:
    """Torchvision's training preset for photographs (``references/classification/presets.py``).

    A random resized crop (area 0.08 to 1, aspect 3/4 to 4/3), a flip where the ID set allows, a
    TrivialAugment operation, all bilinear; then, with probability ``erase``, a rectangle (area 0.02
    to 0.33, aspect 0.3 to 3.3) is set to 0, the mean colour.

    Args:
        preprocess: the ID set's.
        erase: probability of the rectangle.
    """

    def __init__(self, preprocess: Preprocess, erase: float = 0.1) -> None:
        self.preprocess, self.erase = preprocess, erase
        self.operation = TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """``[C, size, size]`` float32; ``rng`` is the only source of randomness."""
        preprocess, size = self.preprocess, self.preprocess.size
        image = in_mode(image, preprocess.mode)
        image = image.crop(random_box(image.width, image.height, rng, 0.08))
        image = image.resize((size, size), Image.Resampling.BILINEAR)
        if preprocess.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = preprocess.normalize(to_tensor(_operated(self.operation, image, rng)))
        if rng.random() < self.erase:
            self._erase(pixels, rng)
        return pixels

    @staticmethod
    def _erase(pixels: Tensor, rng: random.Random) -> None:
        size = pixels.shape[-1]
        for _ in range(10):
            area = size * size * rng.uniform(0.02, 0.33)
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < size and w < size:
                top, left = rng.randint(0, size - h), rng.randint(0, size - w)
                pixels[:, top : top + h, left : left + w] = 0
                return


def random_box(
    width: int, height: int, rng: random.Random, min_scale: float
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a part with ``min_scale`` to 1 of the area, aspect 3/4 to 4/3.

    The central square where none was found that fits.
    """
    for _ in range(10):
        area = width * height * rng.uniform(min_scale, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


class SimCLR(PixelAugmentation):
    """A SimCLR-style view (arXiv:2002.05709), with the strengths that SupCon and PALM use.

    Random resized crop (area ``min_scale`` to 1, aspect 3/4 to 4/3, bilinear), horizontal flip,
    colour jitter with probability 0.8 (brightness, contrast and saturation by a factor of
    1 +- ``colour``, hue by +- ``colour`` / 4 of the circle, in random order), grey with probability
    0.2. Saturation, hue and grey are for RGB; the flip for ID sets that allow it. The same
    distribution as torchvision's transforms, drawn from one generator a view and several times as
    fast on small images, where those are all overhead.

    Args:
        preprocess: the ID set's.
        min_scale: smallest share of the image's area that a view keeps.
        colour: strength of the jitter; 0 for none.
    """

    def __init__(self, preprocess: Preprocess, min_scale: float = 0.2, colour: float = 0.4) -> None:
        super().__init__(preprocess)
        self.min_scale, self.colour = min_scale, colour

    def pixels(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """The augmented image, ``size`` x ``size`` pixels."""
        preprocess = self.preprocess
        image = in_mode(image, preprocess.mode)
        # cropped first: else pixels around the crop would come into its border
        image = image.crop(self._box(image.width, image.height, rng))
        image = image.resize((preprocess.size,) * 2, Image.Resampling.BILINEAR)
        if preprocess.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.colour and rng.random() < 0.8:
            image = self._jitter(image, rng)
        if preprocess.mode == "RGB" and rng.random() < 0.2:
            image = image.convert("L").convert("RGB")
        return image

    def _box(self, width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
        return random_box(width, height, rng, self.min_scale)

    def _jitter(self, image: Image.Image, rng: random.Random) -> Image.Image:
        steps = [_brightness, _contrast]
        if image.mode == "RGB":
            steps += [_saturation, _hue]
        rng.shuffle(steps)
        for step in steps:
            strength = self.colour / 4 if step is _hue else self.colour
            image = step(image, rng.uniform(-strength, strength))
        return image


def _brightness(image: Image.Image, change: float) -> Image.Image:
    return Image.blend(Image.new(image.mode, image.size), image, 1 + change)


def _contrast(image: Image.Image, change: float) -> Image.Image:
    mean = round(float(np.asarray(image.convert("L")).mean()))
    grey = Image.new("L", image.size, mean).convert(image.mode)
    return Image.blend(grey, image, 1 + change)


def _saturation(image: Image.Image, change: float) -> Image.Image:
    return Image.blend(image.convert("L").convert("RGB"), image, 1 + change)


def _hue(image: Image.Image, change: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turn = int(change * 255)  # as torchvision turns it
    turned = hue.point([(level + turn) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
