"""Videos: a file, or a folder of frames, of which those are decoded that are asked for.

A sample is a handle: cheap to make and to pickle, it opens its files when frames are asked for.
Transforms know which frames they want, so only those are decoded.

A frame is known by its position in the order of display, never by its time or by what a header
counts: rates are odd or vary, and headers are wrong. Frames are as stored: a rotation that a player
would apply is not applied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

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


def frame_image(path: Path, mode: str) -> np.ndarray:
    """A frame that is an image, ``[H, W, C]`` uint8.

    Raises:
        DataError: it cannot be read.
    """
    pixels = np.array(in_mode(decode(path, f"the frame {path}"), mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def number_of_frames(folder: Path | str, first: int, last: int) -> int:
    """How many frames there are from a first to a last one, which is part of them.

    Raises:
        DataError: none.
    """
    if not 0 <= first <= last:
        raise DataError(
            f"the frames {first} to {last} of {folder} are none: the first must not be negative, "
            "nor after the last."
        )
    return last - first + 1


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
        return number_of_frames(self.folder, self.first, self.last)

    @property
    def rate(self) -> float | None:
        """The frames per second, as given."""
        return self.frame_rate

    def _decode(self, positions: list[int]) -> list[np.ndarray]:
        folder = Path(self.folder)
        return [frame_image(folder / self.pattern.format(self.first + p), "RGB") for p in positions]
