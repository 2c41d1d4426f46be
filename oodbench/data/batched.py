r"""SimCLR views of a whole batch at once, where the network runs.

The same distribution as :class:`oodbench.data.augmentation.SimCLR`, and of the same numbers the
same view: levels are rounded as Pillow rounds them, step by step. What is random is drawn for each
view by itself from (seed, epoch, index, view), beside the images and without a loop over them:

.. math:: u_k = h(h(h(\text{seed}) + \text{position}) + v K + k), \quad
    \text{position} = \text{epoch} \cdot N + \text{index}

with the finaliser h of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom
Number Generators", OOPSLA 2014). So a view depends neither on the batch that it is in nor on the
number of data workers. kornia draws from torch's one generator, and one order of the jitter's steps
for a batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oodbench.data.augmentation import SimCLR
from oodbench.data.images import in_mode
from oodbench.data.transforms import byte_tensor

TRIES = 10
"""Crops that are drawn until one fits."""
NUMBERS = 2 * TRIES + 14
"""Random numbers of a view."""
JITTERED, GREY = 0.8, 0.2
"""Probabilities of colour jitter and of grey."""
_WEYL = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: int, positions: np.ndarray, views: int, numbers: int) -> np.ndarray:
    """Numbers in [0, 1), ``[B, views, numbers]``, that depend on seed and position alone.

    Args:
        seed: of the run.
        positions: ``[B]``, epoch * N + index.
        views: of each.
        numbers: of each view.
    """
    own = _mixed(_mixed(np.array([seed % 2**64], np.uint64)) + positions.astype(np.uint64) * _WEYL)
    count = np.arange(1, views * numbers + 1, dtype=np.uint64) * _WEYL
    bits = _mixed(own[:, None] + count) >> np.uint64(11)
    found: np.ndarray = bits * 2.0**-53
    return found.reshape(-1, views, numbers)


def _mixed(state: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    found: np.ndarray = state ^ (state >> np.uint64(31))
    return found


class BatchedSimCLR:
    """SimCLR views of a batch: what is random is drawn beside the images, and applied to all.

    Args:
        augmentation: what a view is.
        views: of each image.
        seed: of all that is drawn.
    """

    def __init__(self, augmentation: SimCLR, views: int, seed: int) -> None:
        self.augmentation, self.views, self.seed = augmentation, views, seed

    # --- in a data worker -----------------------------------------------------------------------

    def drawn(self, images: Sequence[Image.Image], positions: Sequence[int]) -> dict[str, Any]:
        """A batch as it is sent: pixels, and what is to be done to them.

        An image of the size that the network sees is sent once, whole. Views of others are cropped
        and resized here, since images of one batch may have many sizes.

        Args:
            images: B of them.
            positions: epoch * N + index of each.

        Returns:
            ``pixels``: ``[B, S, S, C]`` uint8, or ``[B, V, S, S, C]``; ``boxes``: ``[B, V, 4]``,
            left, top, width and height; ``flip``: ``[B, V]``; ``changes``: ``[steps, B * V]``;
            ``order``: ``[steps, B * V]``, views by which step is their first, second …; ``ends``:
            of each step among them; ``grey``: positions of views without colour.
        """
        preprocess = self.augmentation.preprocess
        side = preprocess.size
        images = [in_mode(image, preprocess.mode) for image in images]
        u = uniform(self.seed, np.asarray(positions), self.views, NUMBERS)
        sizes = np.array([image.size for image in images])  # [B, 2]
        boxes = self._boxes(u[..., : 2 * TRIES + 2], sizes[:, None, 0], sizes[:, None, 1])
        if all(image.size == (side, side) for image in images):
            pixels = torch.stack([byte_tensor(image) for image in images])
        else:
            pixels = torch.stack([self._cropped(*one) for one in zip(images, boxes, strict=True)])
            is_other = (sizes != side).any(axis=1)
            boxes[is_other] = (0, 0, side, side)
        rest = u[..., 2 * TRIES + 2 :]
        flip = (rest[..., 0] < 0.5) & preprocess.flip
        grey = (rest[..., 1] < GREY) & (preprocess.mode == "RGB")
        return {
            "pixels": pixels,
            "boxes": torch.from_numpy(boxes),
            "flip": torch.from_numpy(flip),
            "grey": torch.from_numpy(np.flatnonzero(grey)),
            **self._steps(rest[..., 2:].reshape(-1, NUMBERS - 2 * TRIES - 4)),
        }

    def _boxes(self, u: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Left, top, width and height ``[B, V, 4]`` of crops, as ``random_box`` draws them."""
        least, low, high = self.augmentation.min_scale, math.log(3 / 4), math.log(4 / 3)
        area = (width * height)[..., None] * (least + (1 - least) * u[..., :TRIES])
        aspect = np.exp(low + (high - low) * u[..., TRIES : 2 * TRIES])
        w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (w > 0) & (w <= width[..., None]) & (h > 0) & (h <= height[..., None])
        first = fits.argmax(axis=-1)[..., None]
        w, h = (np.take_along_axis(side, first, -1)[..., 0] for side in (w, h))
        left = np.floor(u[..., -2] * (width - w + 1))
        top = np.floor(u[..., -1] * (height - h + 1))
        square = np.minimum(width, height)
        central = ((width - square) // 2, (height - square) // 2, square, square)
        found = fits.any(axis=-1)
        sides = zip((left, top, w, h), central, strict=True)
        return np.stack([np.where(found, a, b) for a, b in sides], axis=-1).astype(np.int64)

    def _cropped(self, image: Image.Image, boxes: np.ndarray) -> Tensor:
        """``[V, S, S, C]``: the crops of an image, or of one that has the size the image itself."""
        side = self.augmentation.preprocess.size
        if image.size == (side, side):
            return byte_tensor(image).expand(self.views, -1, -1, -1)
        return torch.stack(
            [
                byte_tensor(
                    image.crop((left, top, left + w, top + h)).resize(
                        (side, side), Image.Resampling.BILINEAR
                    )
                )
                for left, top, w, h in boxes.tolist()
            ]
        )

    def _steps(self, u: np.ndarray) -> dict[str, Any]:
        """Strength and order of the steps of N views."""
        colour = self.augmentation.colour
        steps = 4 if self.augmentation.preprocess.mode == "RGB" else 2
        is_jittered = (u[:, 0] < JITTERED) & bool(colour)
        strength = np.array([colour, colour, colour, colour / 4])[:steps, None]
        changes = (2 * u[:, 1 : 1 + steps].T - 1) * strength
        turns = np.argsort(u[:, 5 : 5 + steps], axis=1).T  # [turn, N]: the step of each view
        turns = np.where(is_jittered, turns, steps)
        ends = [np.bincount(turn, minlength=steps + 1).cumsum()[:steps].tolist() for turn in turns]
        return {
            "changes": torch.from_numpy(changes.astype(np.float32)),
            "order": torch.from_numpy(np.argsort(turns, axis=1, kind="stable")),
            "ends": ends,
        }

    # --- at the device --------------------------------------------------------------------------

    @torch.no_grad()
    def levels(self, batch: Mapping[str, Any]) -> Tensor:
        """Views ``[B, V, C, S, S]`` as levels 0 to 255, float32, of what :meth:`drawn` gives."""
        pixels = batch["pixels"]
        with _in_full_precision(pixels.device.type):
            if pixels.ndim == 4:
                pixels = pixels[:, None]
            planes = pixels.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format)
            views = _resampled(planes, batch["boxes"], batch["flip"]).contiguous()
            flat = views.flatten(0, 1)  # [N, C, S, S]
            for turn, ends in enumerate(batch["ends"]):
                order = batch["order"][turn]
                for step, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
                    rows = order[begin:end]
                    change = batch["changes"][step, rows].view(-1, 1, 1, 1)
                    flat.index_copy_(0, rows, STEPS[step](flat.index_select(0, rows), change))
            grey = batch["grey"]
            if len(grey):
                luma = grey_of(flat.index_select(0, grey)).expand(-1, flat.shape[1], -1, -1)
                flat.index_copy_(0, grey, luma)
            return views  # which `flat` is a view of


def _in_full_precision(kind: str) -> contextlib.AbstractContextManager[Any]:
    """Products of levels are not rounded to half precision, whatever training does around."""
    is_there = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if is_there else contextlib.nullcontext()


def _resampled(planes: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """Crops of ``[B, V or 1, C, S, S]``, brought to S x S pixels and mirrored: ``[B, V, C, S, S]``.

    Pillow's bilinear filter: along rows, rounded, then along columns.
    """
    left, top, width, height = boxes.unbind(-1)
    side = planes.shape[-1]
    across = filter_weights(left, width, side, flip)  # [B, V, S, S]
    down = filter_weights(top, height, side, torch.zeros_like(flip))
    rows = planes.flatten(-3, -2) @ across.mT  # [B, V, C * S, S]
    rows = rows.add_(0.5).floor_().unflatten(-2, planes.shape[-3:-1])
    views: Tensor = down[:, :, None] @ rows
    return views.add_(0.5).floor_()


def filter_weights(start: Tensor, length: Tensor, side: int, flip: Tensor) -> Tensor:
    """Weights ``[..., side, side]`` of pixels in those that they are resampled to.

    A triangle whose base is two pixels of the coarser of both grids; nothing outside of the crop.

    Args:
        start: first pixel of the crop, ``[...]``.
        length: pixels of the crop.
        side: of the image, and of the result.
        flip: whether the result is mirrored.
    """
    scale = (length / side)[..., None, None]
    target = torch.arange(side, device=start.device, dtype=torch.float32)[:, None]
    target = torch.where(flip[..., None, None], side - 1 - target, target)
    pixel = torch.arange(side, device=start.device) - start[..., None, None]  # [..., 1, side]
    distance = (pixel + 0.5 - (target + 0.5) * scale) / scale.clamp(min=1)
    weights = (1 - distance.abs()).clamp_(min=0)
    weights = weights.masked_fill_((pixel < 0) | (pixel >= length[..., None, None]), 0)
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def grey_of(levels: Tensor) -> Tensor:
    """Pillow's grey of ``[N, C, H, W]``: ``[N, 1, H, W]``; exact in float32, below 2^24."""
    if levels.shape[1] == 1:
        return levels
    red, green, blue = levels.split(1, dim=1)
    grey: Tensor = red * 19595
    grey.add_(green, alpha=38470).add_(blue, alpha=7471).add_(0x8000)
    return grey.mul_(2.0**-16).floor_()


def _blended(other: Tensor | float, levels: Tensor, change: Tensor) -> Tensor:
    """``other + (1 + change) (levels - other)`` as Pillow cuts it to whole levels."""
    return ((levels - other).mul_(1 + change)).add_(other).clamp_(0, 255).floor_()


def brightness(levels: Tensor, change: Tensor) -> Tensor:
    """Away from black, or towards it."""
    return _blended(0.0, levels, change)


def contrast(levels: Tensor, change: Tensor) -> Tensor:
    """Away from the mean grey level, or towards it."""
    return _blended(grey_of(levels).mean(dim=(2, 3), keepdim=True).round_(), levels, change)


def saturation(levels: Tensor, change: Tensor) -> Tensor:
    """Away from each pixel's grey, or towards it."""
    return _blended(grey_of(levels), levels, change)


def hue(levels: Tensor, change: Tensor) -> Tensor:
    """Turns the colour circle by ``change``, with its three numbers in whole levels as Pillow's."""
    value, least = levels.amax(dim=1, keepdim=True), levels.amin(dim=1, keepdim=True)
    span = value - least
    red, green, blue = ((value - levels) / span.clamp(min=1)).split(1, dim=1)  # 0 is the largest
    angle = torch.where(green == 0, 2 + red - blue, 4 + green - red)
    angle = torch.where(red == 0, blue - green, angle)
    turn = (change * 255).trunc_()
    angle = angle.div_(6).add_(1).remainder_(1).mul_(255).trunc_().masked_fill_(span == 0, 0)
    angle = (angle + turn).remainder_(256).mul_(6 / 255)
    share = (span / value.clamp(min=1)).mul_(255).trunc_().mul_(1 / 255)
    begin = torch.arange(5, 0, -2, device=levels.device, dtype=levels.dtype).view(1, 3, 1, 1)
    place = (begin + angle).remainder_(6)
    place = torch.minimum(place, 4 - place).clamp_(0, 1)
    return value.sub(place.mul_(share).mul_(value)).add_(0.5).floor_().clamp_(0, 255)


STEPS = (brightness, contrast, saturation, hue)
"""The jitter, in the order in which ``changes`` has it; of grey images the first two."""
