"""Videos and optical flow: read when they are needed, and what a network sees of them.

A sample is a handle: cheap to make and to pickle, it opens its files when frames are asked for.
Transforms know which frames they want, so only those are decoded.

A frame is known by its position in the order of display, never by its time or by what a header
counts: rates are odd or vary, and headers are wrong. Frames are as stored: a rotation that a player
would apply is not applied.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from oodbench.data.images import decode, in_mode
from oodbench.data.media import ADVICE, best_stream, is_cut_off, opened
from oodbench.errors import DataError, OptionError

# Containers that hold one whole frame per packet, each with its time of display. Others (AVI, MPEG
# streams) may pack two frames into one packet, split one, or leave times out.
_TIMED_CONTAINERS = ("mp4", "matroska")


class Video(ABC):
    """Frames that are decoded when they are asked for."""

    @property
    def channels(self) -> int:
        """Channels of a frame: 3 for RGB, 2 for flow (x, y), 1 for grey levels."""
        return 3

    @property
    @abstractmethod
    def frame_count(self) -> int:
        """Frames that can be decoded, at least 1; found at the first call, then kept.

        Raises:
            DataError: a file is missing or damaged, or there are no frames; the message names it.
            OODBenchError: the library that reads it is not installed.
        """

    @property
    def rate(self) -> float | None:
        """Frames a second, the mean where it varies; None if it is not known."""
        return None

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """``[T, H, W, C]`` uint8: the frames at these positions in the order of display.

        Args:
            indices: T >= 1 positions in ``[0, frame_count)``, in any order, with repeats.

        Raises:
            OptionError: there are no positions, or one is outside the video.
            DataError: a file is missing or damaged; the message names it.
            OODBenchError: the library that reads it is not installed.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if not len(wanted):
            raise OptionError(f"{self}: asked for no frames.")
        if wanted.min() < 0 or wanted.max() >= self.frame_count:
            raise OptionError(
                f"{self}: asked for frames {wanted.min()} to {wanted.max()}, but it has "
                f"{self.frame_count} (the first is 0)."
            )
        positions, back = np.unique(wanted, return_inverse=True)
        decoded = self._decode(positions.tolist())
        if len({frame.shape for frame in decoded}) > 1:
            sizes = sorted({f"{frame.shape[1]} x {frame.shape[0]}" for frame in decoded})
            raise DataError(f"{self}: the frames differ in size ({', '.join(sizes)}).")
        return np.stack([decoded[position] for position in back])

    @abstractmethod
    def _decode(self, positions: list[int]) -> list[np.ndarray]:
        """``[H, W, C]`` uint8 a position; positions are sorted, different and in range."""


@dataclass
class _Index:
    """What one pass over the packets of a video tells, without decoding where that is enough."""

    count: int
    rate: float | None
    times: np.ndarray | None  # [count] time of display by position; None: only decoding tells
    keys: np.ndarray  # positions from which decoding can start, ascending
    seeks: list[int]  # for each of them, the time to seek to


@dataclass(frozen=True)
class VideoFile(Video):
    """A video file, of any format that FFmpeg decodes.

    Where packets and frames are one to one (MP4, Matroska), frames are found by their time of
    display: decoding starts at the last key frame before them. If any packet's time is missing,
    double or suspect, and in all other containers (AVI), frames are counted by decoding them all,
    and found by decoding from the first: slower, but the same frames.

    Args:
        path: the file.
        mode: ``"RGB"``, or ``"L"`` for grey levels, ``C = 1``.
    """

    path: Path | str
    mode: Literal["RGB", "L"] = "RGB"

    @property
    def channels(self) -> int:
        """3 for colour, 1 for grey levels."""
        return 3 if self.mode == "RGB" else 1

    @property
    def frame_count(self) -> int:
        """Frames that can be decoded; headers are not believed.

        Raises:
            DataError: see :attr:`Video.frame_count`; also a file that is cut off.
        """
        return self._index.count

    @property
    def rate(self) -> float | None:
        """Frames a second, the mean where it varies; None if the file does not say."""
        return self._index.rate

    @cached_property
    def _index(self) -> _Index:
        with opened(self.path, "video") as container:
            stream = best_stream(container, "video", self.path, "video")
            # a demuxer ends with an empty packet, which flushes the decoder
            packets = [packet for packet in container.demux(stream) if packet.size]
            damaged = any(packet.is_corrupt for packet in packets)
            if (damaged or stream.frames > len(packets)) and is_cut_off(self.path):
                raise DataError(
                    f"the video {self.path} is cut off: {len(packets)} of its {stream.frames} "
                    "frames are there. Get it again, or leave it out."
                )
            times = [packet.pts for packet in packets]
            timed = (
                any(name in container.format.name for name in _TIMED_CONTAINERS)
                and not damaged
                and not any(packet.is_discard for packet in packets)
                and None not in times
                and len(set(times)) == len(times)
                and bool(packets)
                and packets[0].is_keyframe
            )
            rate = float(stream.average_rate or 0) or None
            index = _Index(len(packets), rate, None, np.zeros(0, np.int64), [])
            if timed:
                index.times = np.sort(np.asarray(times, dtype=np.int64))
                keys = sorted((p for p in packets if p.is_keyframe), key=lambda packet: packet.pts)
                index.keys = np.searchsorted(index.times, [packet.pts for packet in keys])
                # MP4 seeks by time of decoding, which is never after that of display
                index.seeks = [p.pts if p.dts is None else min(p.dts, p.pts) for p in keys]
        if index.times is None:
            with opened(self.path, "video") as container:
                stream = best_stream(container, "video", self.path, "video")
                index.count = sum(1 for _ in container.decode(stream))
        if not index.count:
            raise DataError(f"the video {self.path} has no frames. {ADVICE.format(what='video')}")
        return index

    def _decode(self, positions: list[int]) -> list[np.ndarray]:
        frames: dict[int, np.ndarray] = {}
        if self._index.times is not None:
            with opened(self.path, "video") as container:
                stream = best_stream(container, "video", self.path, "video")
                for run in self._runs(positions):
                    self._seek(container, stream, run, frames)
        missing = [position for position in positions if position not in frames]
        if missing:  # also where a seek did not land where the index of the file says
            with opened(self.path, "video") as container:
                stream = best_stream(container, "video", self.path, "video")
                self._collect(container, stream, missing, frames)
        if len(frames) < len(positions):
            raise DataError(
                f"the video {self.path} has {self.frame_count} frames, but "
                f"{len(positions) - len(frames)} of the {len(positions)} wanted ones cannot be "
                f"decoded. {ADVICE.format(what='video')}"
            )
        return [frames[position] for position in positions]

    def _runs(self, positions: list[int]) -> Iterator[list[int]]:
        """Positions that are decoded in one go: no two key frames lie between neighbours."""
        starts = np.searchsorted(self._index.keys, positions, side="right")
        for run in np.split(np.asarray(positions), np.flatnonzero(np.diff(starts) > 1) + 1):
            yield run.tolist()

    def _seek(
        self, container: Any, stream: Any, positions: list[int], frames: dict[int, np.ndarray]
    ) -> None:
        """Adds the frames at ``positions`` to ``found``, from the last key frame before them."""
        key = int(np.searchsorted(self._index.keys, positions[0], side="right")) - 1
        if key < 0:
            return  # shown before the first key frame: only decoding from the start tells
        container.seek(self._index.seeks[key], stream=stream, backward=True, any_frame=False)
        self._collect(container, stream, positions, frames)

    def _collect(
        self, container: Any, stream: Any, positions: list[int], frames: dict[int, np.ndarray]
    ) -> None:
        """Adds the frames at ``positions`` to ``found``, decoding from where the container is."""
        times = self._index.times
        keys = positions if times is None else times[positions].tolist()
        pending = dict(zip(keys, positions, strict=True))
        for count, frame in enumerate(container.decode(stream)):
            key = count if times is None else frame.pts
            if key in pending:
                pixels = frame.to_ndarray(format="rgb24" if self.mode == "RGB" else "gray")
                frames[pending.pop(key)] = pixels if self.mode == "RGB" else pixels[..., None]
            if not pending or (key is not None and key > keys[-1]):
                return


def _both(x: list[np.ndarray], y: list[np.ndarray], names: str) -> list[np.ndarray]:
    """``[H, W, 2]`` a frame of the two components ``[H, W, 1]``."""
    for one, other in zip(x, y, strict=True):
        if one.shape != other.shape:
            raise DataError(
                f"the flow {names} differs in size: {one.shape[1]} x {one.shape[0]} of x, "
                f"{other.shape[1]} x {other.shape[0]} of y. They are not of one video: get them "
                "again, or leave them out."
            )
    return [np.concatenate(pair, axis=2) for pair in zip(x, y, strict=True)]


@dataclass(frozen=True)
class FlowFiles(Video):
    """Optical flow in two grey videos, C = 2; 128 is no motion.

    Where one has more frames than the other, the flow is as long as the shorter, and its rate is
    that of x.

    Args:
        x_path: the horizontal component.
        y_path: the vertical component.
    """

    x_path: Path | str
    y_path: Path | str

    @property
    def channels(self) -> int:
        """2: flow along x and along y."""
        return 2

    @cached_property
    def _parts(self) -> tuple[VideoFile, VideoFile]:
        return VideoFile(self.x_path, "L"), VideoFile(self.y_path, "L")

    @property
    def frame_count(self) -> int:
        """Frames of the shorter of the two; see :attr:`Video.frame_count`."""
        return min(part.frame_count for part in self._parts)

    @property
    def rate(self) -> float | None:
        """Frames per second of the file of x."""
        return self._parts[0].rate

    def _decode(self, positions: list[int]) -> list[np.ndarray]:
        x, y = (part._decode(positions) for part in self._parts)
        return _both(x, y, f"in {self.x_path} and {self.y_path}")


def _image(path: Path, mode: str) -> np.ndarray:
    """An image as an array, ``[H, W, C]`` uint8."""
    pixels = np.array(in_mode(decode(path, f"the frame {path}"), mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _number_of_frames(video: FrameFolder | FlowFolder) -> int:
    if not 0 <= video.first <= video.last:
        raise DataError(
            f"the frames {video.first} to {video.last} of {video.folder} are none: the first must "
            "not be negative, nor after the last."
        )
    return video.last - video.first + 1


@dataclass(frozen=True)
class FrameFolder(Video):
    """A video whose frames are images in one folder, RGB.

    Args:
        folder: the folder.
        first: number of the first frame.
        last: number of the last frame, which is part of the video.
        pattern: the name of a frame's file, formatted with its number.
        frame_rate: frames per second, where that is known.
    """

    folder: Path | str
    first: int
    last: int
    pattern: str = "frame_{:010d}.jpg"
    frame_rate: float | None = None

    @property
    def frame_count(self) -> int:
        """``last - first + 1``; whether all are there shows when they are read.

        Raises:
            DataError: that is less than 1, or ``first`` is negative.
        """
        return _number_of_frames(self)

    @property
    def rate(self) -> float | None:
        """The frames per second, as given."""
        return self.frame_rate

    def _decode(self, positions: list[int]) -> list[np.ndarray]:
        folder = Path(self.folder)
        return [_image(folder / self.pattern.format(self.first + p), "RGB") for p in positions]


@dataclass(frozen=True)
class FlowFolder(Video):
    """Optical flow whose frames are grey images in two folders, C = 2 (EPIC-Kitchens).

    Args:
        folder: the folder that holds both.
        first: number of the first frame.
        last: number of the last frame, which is part of the video.
        pattern: the name of a frame's file, formatted with its number.
        parts: the folders of the horizontal and of the vertical component.
        frame_rate: frames per second, where that is known.
    """

    folder: Path | str
    first: int
    last: int
    pattern: str = "frame_{:010d}.jpg"
    parts: tuple[str, str] = ("u", "v")
    frame_rate: float | None = None

    @property
    def channels(self) -> int:
        """2: flow along x and along y."""
        return 2

    @property
    def frame_count(self) -> int:
        """The number of frames; see :class:`FrameFolder`."""
        return _number_of_frames(self)

    @property
    def rate(self) -> float | None:
        """The frames per second, as given."""
        return self.frame_rate

    def _decode(self, positions: list[int]) -> list[np.ndarray]:
        names = [self.pattern.format(self.first + position) for position in positions]
        x, y = ([_image(Path(self.folder, part, n), "L") for n in names] for part in self.parts)
        return _both(x, y, f"in {self.folder}")


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
