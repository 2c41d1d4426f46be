"""Masks and boxes of images, checked: what pixels and boxes are learned from and compared with."""

from __future__ import annotations

import numpy as np
from PIL import Image

from oodbench.data.samples import OOD, VOID, BoxedSamples, Boxes, MaskedSamples, Samples
from oodbench.errors import DataError


def check_size(image: Image.Image, mask: np.ndarray, name: str = "an image") -> None:
    """Check that a mask has the size of its image.

    Raises:
        DataError: it has another.
    """
    if mask.shape != (image.height, image.width):
        raise DataError(
            f"{name}: the image has {image.height} x {image.width} pixels, its mask "
            f"{' x '.join(map(str, mask.shape))}. They must be of one size."
        )


def check_mask(mask: np.ndarray, classes: int, name: str) -> None:
    """Check that a mask has one value per pixel: a class, ``OOD`` or ``VOID``.

    Raises:
        DataError: it has another shape, type or value; names the mask.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(
            f"{name}: a mask has one 8-bit value per pixel (uint8 [H, W]), not {mask.dtype} "
            f"{list(mask.shape)}. Take the mask with class numbers, not the one with colours."
        )
    strays = [v for v in np.flatnonzero(np.bincount(mask.ravel())) if classes <= v < OOD]
    if strays:
        raise DataError(
            f"{name}: the mask has the value{'s' * (len(strays) > 1)} "
            f"{', '.join(map(str, strays[:5]))}{' …' * (len(strays) > 5)}, but the classes are "
            f"0 to {classes - 1}; {OOD} is OOD and {VOID} void. Is it of another set of labels?"
        )


def masked(samples: Samples) -> MaskedSamples:
    """Samples as those with masks that they are.

    Raises:
        DataError: they have none.
    """
    if not isinstance(samples, MaskedSamples):
        raise DataError(
            f"{samples.name} has no masks; segmentation needs a class for each pixel. "
            "Choose a benchmark of segmentation (oodbench list benchmarks)."
        )
    return samples


class FittingMasks(MaskedSamples):
    """Images with masks that are checked whenever an image is read: values, and size.

    Args:
        samples: the images, with masks; nothing is copied.

    Raises:
        DataError: at an image whose mask does not fit; names it.
    """

    def __init__(self, samples: MaskedSamples) -> None:
        super().__init__(samples.name, samples.labels, samples.classes)
        self.samples = samples
        self.is_prepared = samples.is_prepared

    @property
    def in_memory(self) -> bool:
        """Whether the images are in memory."""
        return self.samples.in_memory

    def __getitem__(self, index: int) -> Image.Image:
        """The image at a position."""
        image = self.samples[index]
        check_size(image, self.mask(index), self.mask_name(index))
        return image

    def mask(self, index: int) -> np.ndarray:
        """The mask at a position."""
        mask = self.samples.mask(index)
        check_mask(mask, len(self.classes), self.mask_name(index))
        return mask

    def mask_name(self, index: int) -> str:
        """What messages call the mask at a position."""
        return self.samples.mask_name(index)

    @property
    def digests_are_cheap(self) -> bool:
        """Whether digests of the images are cheap."""
        return self.samples.digests_are_cheap

    def _digests(self) -> np.ndarray:
        return self.samples.digests


def check_labels(boxes: Boxes, classes: int, name: str) -> None:
    """Check that boxes are of a class or of none.

    Raises:
        DataError: a label beyond the classes, such as one that counts from 1; names the image.
    """
    strays = boxes.labels[(boxes.labels < -1) | (boxes.labels >= classes)]
    if len(strays):
        raise DataError(
            f"{name}: a box has the label {strays[0]}, but the classes are 0 to {classes - 1}, and "
            "-1 is no class. Do its labels count from 1?"
        )


def boxed(samples: Samples) -> BoxedSamples:
    """Samples as those with boxes that they are.

    Raises:
        DataError: they have none.
    """
    if not isinstance(samples, BoxedSamples):
        raise DataError(
            f"{samples.name} has no boxes; detection needs those of its objects. "
            "Choose a benchmark of detection (oodbench list benchmarks)."
        )
    return samples
