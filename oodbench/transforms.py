"""From a raw image to the tensor that a network sees: preprocessing and training augmentations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from oodbench.errors import OptionError

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of an ID set, applied once to ID and OOD images alike.

    Convert to ``mode``; resize with PIL's bilinear filter; scale to [0, 1]; subtract ``mean`` and
    divide by ``std``, per channel.

    Args:
        size: side of the square that the network sees, in pixels.
        mean: per channel, on the [0, 1] scale.
        std: per channel, on the [0, 1] scale.
        mode: ``"RGB"`` or ``"L"`` (grey).
        resize: ``"stretch"``: both sides to ``size`` (PALM's protocol, torchvision's
            ``Resize((s, s))``); ``"crop"``: the short side to ``pre_size``, then the central
            square (OpenOOD's code).
        pre_size: short side before the crop; ``size`` if not given.
        flip: whether a mirrored image is still of its class (not for digits); for training only.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: Literal["RGB", "L"] = "RGB"
    resize: Literal["stretch", "crop"] = "stretch"
    pre_size: int | None = None
    flip: bool = True

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels:
            raise OptionError(
                f"preprocess: mode {self.mode!r} has {self.channels} channel(s), but mean has "
                f"{len(self.mean)} and std {len(self.std)} values."
            )

    @property
    def channels(self) -> int:
        """Channels of the tensor: 3 for RGB, 1 for grey."""
        return 3 if self.mode == "RGB" else 1

    def fit_image(self, image: Image.Image) -> Image.Image:
        """The image in ``mode`` and of ``size`` x ``size`` pixels, still as 8-bit values."""
        if image.mode != self.mode:
            image = image.convert(self.mode)
        if self.resize == "stretch":
            target = (self.size, self.size)
        else:
            scale = (self.pre_size or self.size) / min(image.size)
            target = (round(image.width * scale), round(image.height * scale))
        if image.size != target:
            image = image.resize(target, Image.Resampling.BILINEAR)
        if self.resize == "crop":
            left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
            image = image.crop((left, top, left + self.size, top + self.size))
        return image

    def normalize(self, image: Tensor) -> Tensor:
        """``(image - mean) / std`` of a ``[C, H, W]`` float tensor in [0, 1]."""
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return (image - mean) / std

    def __call__(self, image: Image.Image) -> Tensor:
        """``[C, size, size]`` float32."""
        return self.normalize(to_tensor(self.fit_image(image)))


def to_tensor(image: Image.Image) -> Tensor:
    """``[C, H, W]`` float32 in [0, 1]."""
    return v2.functional.to_dtype(v2.functional.pil_to_tensor(image), torch.float32, scale=True)


def content_key(transform: Any) -> Any:
    """What a cache key says of a transform, or None if it cannot be told apart by its content.

    A :class:`Preprocess` is its fields; any other callable is its ``repr``, unless that names a
    memory address (functions, lambdas, classes without a ``repr``): then two different transforms
    could look alike, and what they make must not be cached.
    """
    if isinstance(transform, Preprocess):
        fields = asdict(transform)
        fields.pop("flip")
        return fields
    text = repr(transform)
    return None if " at 0x" in text else text


class _Compose:
    """``fit_image``, a PIL augmentation, to tensor, normalise (picklable for data workers)."""

    def __init__(self, preprocess: Preprocess, augmentation: v2.Transform) -> None:
        self.preprocess = preprocess
        self.augmentation = augmentation

    def __call__(self, image: Image.Image) -> Tensor:
        fitted = self.augmentation(self.preprocess.fit_image(image))
        return self.preprocess.normalize(to_tensor(fitted))


def crop_flip(preprocess: Preprocess) -> Transform:
    """Random crop after padding by an eighth of the side, and a flip where the ID set allows it."""
    steps: list[v2.Transform] = [v2.RandomCrop(preprocess.size, padding=preprocess.size // 8)]
    if preprocess.flip:
        steps.append(v2.RandomHorizontalFlip())
    return _Compose(preprocess, v2.Compose(steps))


def simclr(preprocess: Preprocess, min_scale: float = 0.2, colour: float = 0.4) -> Transform:
    """A SimCLR-style view (arXiv 2002.05709), with the strengths that SupCon and PALM use.

    Random resized crop (area ``min_scale`` to 1), horizontal flip, colour jitter with probability
    0.8 (brightness, contrast, saturation ``colour``, hue a quarter of it), grey with probability
    0.2. Colour steps apply to RGB, the flip where a mirrored image keeps its class; grey images
    get brightness and contrast alone.
    """
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(
            preprocess.size, scale=(min_scale, 1.0), interpolation=v2.InterpolationMode.BILINEAR
        )
    ]
    if preprocess.flip:
        steps.append(v2.RandomHorizontalFlip())
    if colour and preprocess.mode == "RGB":
        jitter = v2.ColorJitter(colour, colour, colour, colour / 4)
        steps += [v2.RandomApply([jitter], p=0.8), v2.RandomGrayscale(p=0.2)]
    elif colour:
        steps.append(v2.RandomApply([v2.ColorJitter(colour, colour)], p=0.8))
    return _Compose(preprocess, v2.Compose(steps))
