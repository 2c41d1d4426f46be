"""From a raw image to the tensor that a network sees: preprocessing, and the plain augmentation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from oodbench.data.images import in_mode
from oodbench.errors import DataError, OptionError
from oodbench.options import check_choices

Transform = Callable[[Any], Any]
"""From a raw image to the network's input, the same each time; from a sample of several modalities
to a mapping of them."""
Augmentation = Callable[[Any, random.Random], Any]
"""From the same and a random generator to the network's input."""


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of an ID set, applied once to ID and OOD images alike.

    Convert to ``mode``; resize with PIL's filter; scale to [0, 1]; subtract ``mean`` and divide by
    ``std``, per channel.

    Args:
        size: side of the square that the network sees, in pixels.
        mean: per channel, on the [0, 1] scale.
        std: per channel, on the [0, 1] scale.
        mode: ``"RGB"`` or ``"L"`` (grey).
        resize: ``"stretch"``: both sides to ``pre_size`` (PALM's protocol, torchvision's
            ``Resize((s, s))``); ``"crop"``: the short side (OpenOOD's code). Then the central
            square. ``"centre"``: the central square without resizing (AbeT's code), black beyond
            the edges of a smaller image.
        pre_size: sides, or the short side, before the crop; ``size`` if not given.
        flip: whether a mirrored image is still of its class (not for digits); for training only.
        interpolation: the filter that resizes.
        native: side of the ID set's images in pixels, where the network sees them enlarged: every
            image, ID and OOD, is first cut to its central square and brought to this side (Pillow's
            bicubic filter, antialiased), so that OOD images are not told by being sharper. Images
            that have the size stay as they are. None for images in their own sizes.
    """

    task: ClassVar[str] = "classification"
    """What is scored where nothing else is said: the name of a task."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: Literal["RGB", "L"] = "RGB"
    resize: Literal["stretch", "crop", "centre"] = "stretch"
    pre_size: int | None = None
    flip: bool = True
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    native: int | None = None

    def __post_init__(self) -> None:
        check_choices(self, "preprocess")
        if not len(self.mean) == len(self.std) == self.channels:
            raise OptionError(
                f"preprocess: mode {self.mode!r} has {self.channels} channel(s), but mean has "
                f"{len(self.mean)} and std {len(self.std)} values."
            )
        if not all(map(math.isfinite, self.mean)) or not all(0 < s < math.inf for s in self.std):
            raise OptionError(
                f"preprocess: mean must be finite and std positive, not {self.mean} and {self.std}."
            )
        if self.size < 1:
            raise OptionError(f"preprocess: size must be at least 1 pixel, not {self.size}.")
        if self.native is not None and self.native < 1:
            raise OptionError(f"preprocess: native must be at least 1 pixel, not {self.native}.")
        if (self.pre_size or self.size) < self.size:
            raise OptionError(
                f"preprocess: a square of {self.size} pixels cannot be cropped out of an image "
                f"that was resized to pre_size={self.pre_size}."
            )
        if self.resize == "centre" and self.pre_size not in (None, self.size):
            raise OptionError(
                f"preprocess: 'centre' resizes nothing, so pre_size={self.pre_size} has no meaning."
            )

    @property
    def channels(self) -> int:
        """Channels of the tensor: 3 for RGB, 1 for grey."""
        return 3 if self.mode == "RGB" else 1

    def at_native(self, image: Image.Image) -> Image.Image:
        """The image in ``mode``; of ``native`` x ``native`` pixels where there is that size."""
        image = in_mode(image, self.mode)
        return image if self.native is None else _square(image, self.native)

    def fit_image(self, image: Image.Image) -> Image.Image:
        """The image in ``mode`` and of ``size`` x ``size`` pixels, still as 8-bit values."""
        image = self.at_native(image)
        side = self.pre_size or self.size
        if self.resize == "stretch":
            target = (side, side)
        elif self.resize == "centre":
            target = image.size
        else:
            # rounded as torchvision's Resize(int) and CenterCrop round, which OpenOOD uses
            short = min(image.size)
            target = (int(side * image.width / short), int(side * image.height / short))
        if image.size != target:
            image = image.resize(target, Image.Resampling[self.interpolation.upper()])
        if image.size != (self.size, self.size):
            left, top = (_margin(side, self.size) for side in image.size)
            image = image.crop((left, top, left + self.size, top + self.size))
        return image

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        # in float32 whatever a caller's default is
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (self.mean, self.std))
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)

    def normalize(self, image: Tensor) -> Tensor:
        """``(image - mean) / std`` of a ``[C, H, W]`` float tensor in [0, 1]."""
        mean, std = self._statistics
        return (image - mean) / std

    def __call__(self, image: Image.Image) -> Tensor:
        """``[C, size, size]`` float32."""
        return self.normalize(to_tensor(self.fit_image(image)))

    def as_bytes(self, image: Image.Image) -> Tensor:
        """``[size, size, C]`` uint8: the image before it is normalised."""
        return byte_tensor(self.fit_image(image))

    def augment(self, image: Image.Image, rng: random.Random) -> Tensor:
        """``[C, size, size]`` float32 of a random crop, flipped half the time; see CropFlip."""
        return CropFlip(self)(image, rng)


def _margin(side: int, size: int) -> int:
    """Pixels before the central ``size`` of a side, rounded as torchvision does; or negative."""
    return round((side - size) / 2) if side >= size else -((size - side) // 2)


@dataclass(frozen=True)
class MultimodalPreprocess:
    """The preprocessing of samples of several modalities: one of each.

    Args:
        parts: by modality, in the order in which embeddings are joined. A part is called with that
            modality of a sample and gives a tensor; it has ``augment(sample, random generator)``
            for training and ``channels`` for the encoder.
    """

    task: ClassVar[str] = "multimodal"
    """What is scored where nothing else is said: the name of a task."""

    parts: Mapping[str, Any]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(self.parts)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each modality's tensor."""
        return {name: part.channels for name, part in self.parts.items()}

    @property
    def flip(self) -> bool:
        """Whether any part mirrors samples in training."""
        return any(getattr(part, "flip", False) for part in self.parts.values())

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """One tensor per modality.

        Raises:
            DataError: the sample lacks one.
        """
        self._check(sample)
        return {name: part(sample[name]) for name, part in self.parts.items()}

    def _check(self, sample: Any) -> None:
        has = list(sample) if isinstance(sample, Mapping) else [f"a {type(sample).__name__}"]
        if missing := [name for name in self.parts if name not in has]:
            raise DataError(
                f"a sample must have {' and '.join(self.parts)} here, and one has "
                f"{' and '.join(map(str, has))}: {', '.join(missing)} is missing. ID and OOD "
                "sets must be of the same kind: all images, all videos, or all sounds."
            )

    def augment(self, sample: Mapping[str, Any], rng: random.Random) -> dict[str, Tensor]:
        """A tensor a modality, each augmented by itself."""
        self._check(sample)
        return {name: part.augment(sample[name], rng) for name, part in self.parts.items()}


def _square(image: Image.Image, side: int) -> Image.Image:
    """The central square of an image, ``side`` x ``side`` pixels."""
    short = min(image.size)
    if image.width != image.height:
        left, top = (image.width - short) // 2, (image.height - short) // 2
        image = image.crop((left, top, left + short, top + short))
    return image if short == side else image.resize((side, side), Image.Resampling.BICUBIC)


def as_shown(transform: Transform, preprocess: Transform) -> Transform:
    """A network's own transform, of images as a benchmark's preprocessing hands them on.

    They have its ``native`` size, and for a transform of somebody's own its mode as well.
    """
    if not isinstance(preprocess, Preprocess) or transform is preprocess:
        return transform
    if isinstance(transform, Preprocess):
        return transform if transform.native else replace(transform, native=preprocess.native)
    return InMode(transform, preprocess.mode, preprocess.native)


def of_prepared(transform: Transform, is_prepared: bool = True) -> Transform:
    """A preprocessing for images that were cropped already: they are brought to the size, whole.

    Args:
        transform: for images as they were published.
        is_prepared: whether they were cropped; else it is given back as it is.
    """
    if is_prepared and isinstance(transform, Preprocess) and transform.resize == "crop":
        return replace(transform, resize="stretch", pre_size=None)
    return transform


class InMode:
    """Somebody's own transform, which sees every image in one mode, as it was written for.

    Args:
        transform: from an image to a tensor.
        mode: ``"RGB"`` or ``"L"``; grey, palette and transparent images are brought into it.
        native: side of the square that an image is brought to before; see :class:`Preprocess`.
    """

    def __init__(self, transform: Transform, mode: str, native: int | None = None) -> None:
        self.transform, self.mode, self.native = transform, mode, native
        self.size = getattr(transform, "size", 32)

    def __call__(self, sample: Any) -> Any:
        """What the transform makes of it; what is no image of Pillow's passes as it is."""
        if isinstance(sample, Image.Image):
            sample = in_mode(sample, self.mode)
            if self.native is not None:
                sample = _square(sample, self.native)
        return self.transform(sample)

    def __repr__(self) -> str:
        return repr(self.transform)


@dataclass(frozen=True)
class InOwnSize:
    """Images in their own sizes: the mode and the normalisation of a preprocessing alone.

    Args:
        preprocess: whose.
    """

    preprocess: Preprocess

    def __call__(self, image: Image.Image) -> Tensor:
        """``[C, H, W]`` float32."""
        return self.preprocess.normalize(to_tensor(in_mode(image, self.preprocess.mode)))


def byte_tensor(image: Image.Image) -> Tensor:
    """``[H, W, C]`` uint8 of an 8-bit image, in RGB or grey."""
    pixels = torch.from_numpy(np.array(image))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def to_tensor(image: Image.Image) -> Tensor:
    """``[C, H, W]`` float32 in [0, 1] of an 8-bit image."""
    pixels = torch.from_numpy(np.array(image))  # [H, W] or [H, W, C]
    channels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]
    return channels.to(torch.float32, memory_format=torch.contiguous_format) / 255


def content_key(transform: Any) -> Any:
    """What a cache key says of a transform, or None if it cannot be told apart by its content.

    A :class:`Preprocess` is its fields; any other callable is its ``repr``, unless that names a
    memory address (functions, lambdas, classes without a ``repr``) or leaves out the settings
    (torchvision's ``Lambda``, a ``Module`` without an ``extra_repr``): then two different
    transforms could look alike, and what they make must not be cached.
    """
    if isinstance(transform, Preprocess):
        fields = asdict(transform)
        fields.pop("flip")
        if fields["interpolation"] == "bilinear":  # rows from before there was another say nothing
            fields.pop("interpolation")
        if fields["native"] is None:
            fields.pop("native")
        return fields
    if isinstance(transform, MultimodalPreprocess):
        parts = {name: content_key(part) for name, part in transform.parts.items()}
        return None if None in parts.values() else parts
    if isinstance(transform, InOwnSize):
        preprocess = transform.preprocess
        return {
            "size": "own",
            "mode": preprocess.mode,
            "mean": preprocess.mean,
            "std": preprocess.std,
        }
    if isinstance(transform, InMode):
        inner = content_key(transform.transform)
        is_bare = inner is None or transform.native is None
        return inner if is_bare else {"native": transform.native, "transform": inner}
    text = repr(transform)
    return None if " at 0x" in text or any(map(_is_silent, _steps(transform))) else text


def _steps(transform: Any) -> Iterator[Any]:
    """A transform and all that it is made of."""
    yield transform
    inner = [*getattr(transform, "transforms", ())]  # of a torchvision Compose, old or new
    if isinstance(transform, nn.Module):
        inner += transform.children()
    for step in inner:
        yield from _steps(step)


def _is_silent(step: Any) -> bool:
    """Whether its ``repr`` leaves out what it does."""
    cls = type(step)
    if cls.__name__ == "Lambda" or not isinstance(step, nn.Module):
        return cls.__name__ == "Lambda"
    own: tuple[object, ...] = (cls.__repr__, cls.extra_repr)
    inherits = own == (nn.Module.__repr__, nn.Module.extra_repr)
    return inherits and bool(set(vars(step)) - set(vars(nn.Module())) or step.state_dict())


class PixelAugmentation:
    """An augmentation that ends with an 8-bit image, which is normalised as when it is tested.

    So bytes can be sent to the device, and be normalised there. A subclass implements ``pixels``.

    Args:
        preprocess: the ID set's.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """``[C, size, size]`` float32; ``rng`` is the only source of randomness."""
        return self.preprocess.normalize(to_tensor(self.pixels(image, rng)))

    def as_bytes(self, image: Image.Image, rng: random.Random) -> Tensor:
        """``[size, size, C]`` uint8: the same before it is normalised."""
        return byte_tensor(self.pixels(image, rng))

    def pixels(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """The augmented image, ``size`` x ``size`` pixels."""
        raise NotImplementedError


class CropFlip(PixelAugmentation):
    """Random crop after zero padding by an eighth of the side, and a flip where the ID set allows.

    The standard augmentation of CIFAR classifiers (He et al. 2016, section 4.2).
    """

    def pixels(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """The augmented image, ``size`` x ``size`` pixels."""
        size, pad = self.preprocess.size, self.preprocess.size // 8
        image = self.preprocess.fit_image(image)
        left, top = rng.randint(-pad, pad), rng.randint(-pad, pad)
        image = self.change(image.crop((left, top, left + size, top + size)), rng)
        if self.preprocess.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image

    def change(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """What is done between crop and flip: nothing."""
        return image
