"""Clips of videos and of optical flow: which frames they are, and what a network sees of them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oodbench.data.video import Video
from oodbench.errors import DataError, OptionError


def _clip(frame_count: int, length: int, stride: int) -> tuple[np.ndarray, int]:
    """Positions of a clip from frame 0 on, and in how many places it fits whole."""
    if length < 1 or stride < 1:
        raise OptionError(f"a clip has length and stride of at least 1, not {length} and {stride}.")
    if frame_count < 1:
        raise DataError(f"a clip cannot be taken of {frame_count} frames.")
    return np.arange(length, dtype=np.int64) * stride, frame_count - length * stride + 1


def uniform_clip(frame_count: int, length: int, stride: int) -> np.ndarray:
    """``[length]`` int64: the central clip, its frames ``stride`` apart.

    A clip spans ``length * stride`` frames; a shorter video is repeated from its first frame. As
    MMAction2's ``SampleFrames(test_mode=True, num_clips=1)``.

    Raises:
        OptionError: a length or stride below 1.
        DataError: a video without frames.
    """
    clip, places = _clip(frame_count, length, stride)
    return (clip + max(places, 0) // 2) % frame_count


def random_clip(frame_count: int, length: int, stride: int, rng: random.Random) -> np.ndarray:
    """``[length]`` int64: as :func:`uniform_clip`, anywhere in the video that the clip fits.

    As MMAction2's ``SampleFrames(num_clips=1)``; a video that is too short starts at frame 0.
    """
    clip, places = _clip(frame_count, length, stride)
    return (clip + (rng.randrange(places) if places > 0 else 0)) % frame_count


def _resized(frames: np.ndarray, height: int, width: int) -> Tensor:
    """``[T, C, height, width]`` uint8 of frames ``[T, H, W, C]``, bilinear, antialiased."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if frames.shape[1:3] == (height, width):
        return pixels
    return torch.nn.functional.interpolate(
        pixels, size=(height, width), mode="bilinear", antialias=True
    )


@dataclass(frozen=True)
class ClipPreprocess:
    """The preprocessing of videos and of optical flow: one clip, resized and normalised.

    The clip of :func:`uniform_clip`; resize its short side bilinearly (with antialiasing, unlike
    the OpenCV code of MMAction2); crop the centre; scale to [0, 1]; subtract ``mean`` and divide by
    ``std``, per channel. SlowFast's 8 x 8 in MMAction2 is ``ClipPreprocess(32, 2, 224, mean, std,
    short_side=256, min_scale=0.08)`` with ImageNet's moments, its SlowOnly of flow
    ``ClipPreprocess(8, 4, 256, (128 / 255,) * 2, (128 / 255,) * 2, train_size=224,
    min_scale=0.08)``.

    Args:
        length: T, frames of a clip.
        stride: frames from one of them to the next; 1 for all.
        size: side of the square that the network sees, in pixels.
        mean: per channel, on the [0, 1] scale; as many as the videos have channels.
        std: per channel, on the [0, 1] scale.
        short_side: of the frames before the crop; ``size`` if not given.
        flip: whether a mirrored video is still of its class; for training only.
        min_scale: smallest share of a frame's area that a random crop keeps; for training only.
        train_size: side of the square in training; ``size`` if not given.
    """

    length: int
    stride: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    short_side: int | None = None
    flip: bool = True
    min_scale: float = 0.25
    train_size: int | None = None

    def __post_init__(self) -> None:
        # lists come from configuration files; as tuples they compare and hash
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if not 1 <= len(self.mean) == len(self.std):
            raise OptionError(
                f"clip: mean has {len(self.mean)} and std {len(self.std)} values; "
                "give one per channel."
            )
        if not all(map(math.isfinite, self.mean)) or not all(0 < s < math.inf for s in self.std):
            raise OptionError(
                f"clip: mean must be finite and std positive, not {self.mean} and {self.std}."
            )
        sides = (self.size, self.short_side or self.size, self.train_size or self.size)
        if min(self.length, self.stride, *sides) < 1 or sides[1] < self.size:
            raise OptionError(
                f"clip: length {self.length}, stride {self.stride}, size {self.size} and train "
                f"size {self.train_size} must be at least 1, and the short side "
                f"{self.short_side} not below the size."
            )
        if not 0 < self.min_scale <= 1:
            raise OptionError(f"clip: min_scale must be in (0, 1], not {self.min_scale}.")

    @property
    def channels(self) -> int:
        """Channels of the tensor."""
        return len(self.mean)

    def __call__(self, video: Video) -> Tensor:
        """``[C, T, size, size]`` float32 of the central clip.

        Raises:
            OptionError: the video has other channels than ``mean``.
            DataError: the video is missing or damaged; the message names it.
        """
        frames = video.frames(uniform_clip(self._count(video), self.length, self.stride))
        height, width = frames.shape[1:3]
        # rounded as MMAction2's Resize and CenterCrop round
        scale = (self.short_side or self.size) / min(height, width)
        pixels = _resized(frames, int(height * scale + 0.5), int(width * scale + 0.5))
        top, left = ((side - self.size) // 2 for side in pixels.shape[2:])
        return self._normalized(pixels[..., top : top + self.size, left : left + self.size])

    def augment(self, video: Video, rng: random.Random) -> Tensor:
        """``[C, T, train_size, train_size]`` float32 of a random clip; one crop for all frames.

        A crop of ``min_scale`` to 1 of the area and aspect 3/4 to 4/3, resized once; mirrored half
        the time if ``flip``. Mirrored flow also turns its sign: x becomes 255 - x. ``rng`` is the
        only source of randomness.

        Raises:
            OptionError: the video has other channels than ``mean``.
            DataError: the video is missing or damaged; the message names it.
        """
        frames = video.frames(random_clip(self._count(video), self.length, self.stride, rng))
        top, left, height, width = self._box(frames.shape[1], frames.shape[2], rng)
        side = self.train_size or self.size
        pixels = _resized(frames[:, top : top + height, left : left + width], side, side)
        if self.flip and rng.random() < 0.5:
            pixels = pixels.flip(3)  # a copy
            if video.channels == 2:
                pixels[:, 0] = 255 - pixels[:, 0]
        return self._normalized(pixels)

    def _count(self, video: Video) -> int:
        if video.channels != self.channels:
            raise OptionError(
                f"clip: mean is of {self.channels} channel(s), but {video} has {video.channels}."
            )
        return video.frame_count

    def _box(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height and width of a random crop; the central square if none fits."""
        for _ in range(10):
            area = height * width * rng.uniform(self.min_scale, 1.0)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return rng.randint(0, height - h), rng.randint(0, width - w), h, w
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side

    def _normalized(self, pixels: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
            for values in (self.mean, self.std)
        )
        clip = pixels.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
        return clip.div_(255).sub_(mean).div_(std)
