"""Images as they are given to a fitted detector in Python, made into what its network sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from oodbench import files
from oodbench.data.images import decode
from oodbench.data.transforms import Transform
from oodbench.errors import DataError

WANTED = (
    "Give a path, a Pillow image, uint8 pixels as an array [H, W] or [H, W, C] or a tensor "
    "[C, H, W], a floating tensor that is preprocessed already, a list of these, or Samples"
)


def batches_of(images: Any, preprocess: Transform, size: int) -> Iterator[Any]:
    """What the network sees of images, ``size`` at a time.

    Floating tensors (``[C, H, W]`` or ``[B, C, H, W]``, also by modality) are taken for what the
    network sees already; all else is preprocessed.

    Raises:
        DataError: something that is no image, or a file that cannot be read.
    """
    if isinstance(images, Tensor) and images.is_floating_point():
        whole = images[None] if images.ndim == 3 else images
        yield from (whole[start : start + size] for start in range(0, len(whole), size))
        return
    listed = iter(_listed(images))
    while chunk := list(islice(listed, size)):
        yield default_collate([prepared(image, preprocess) for image in chunk])


def _listed(images: Any) -> Iterable[Any]:
    """The images one by one."""
    if isinstance(images, str | Path | Image.Image | dict):
        return [images]
    if isinstance(images, np.ndarray):
        is_one = images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in (1, 3, 4))
        return [images] if is_one else list(images)
    if isinstance(images, Tensor):
        return [images] if images.ndim == 3 else list(images)
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):  # Samples, lists
        return (images[index] for index in range(len(images)))
    if isinstance(images, Iterable):
        return images
    raise DataError(f"a {type(images).__name__} is no image. {WANTED}.")


def prepared(image: Any, preprocess: Transform) -> Any:
    """What the network sees of one image.

    Raises:
        DataError: it is no image, or a file that cannot be read.
    """
    if isinstance(image, Tensor) and image.is_floating_point():
        return image
    if isinstance(image, str | Path):
        path = files.user_path(image)
        image = decode(path, f"the image {path}")
    elif isinstance(image, Tensor):
        image = _image(image.cpu().movedim(0, -1).numpy() if image.ndim == 3 else image.numpy())
    elif isinstance(image, np.ndarray):
        image = _image(image)
    elif not isinstance(image, Image.Image | dict):
        raise DataError(f"a {type(image).__name__} is no image. {WANTED}.")
    return preprocess(image)


def _image(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise DataError(
            f"an array {list(pixels.shape)} of {pixels.dtype} is no image: whether 1 or 255 is "
            f"white cannot be told. {WANTED}."
        )
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels))
