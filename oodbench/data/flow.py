"""Optical flow in two grey videos or folders: along x and along y, one channel each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from oodbench.data.video import Video, VideoFile, frame_image, number_of_frames
from oodbench.errors import DataError


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
        return number_of_frames(self.folder, self.first, self.last)

    @property
    def rate(self) -> float | None:
        """The frames per second, as given."""
        return self.frame_rate

    def _decode(self, positions: list[int]) -> list[np.ndarray]:
        names = [self.pattern.format(self.first + position) for position in positions]
        x, y = (
            [frame_image(Path(self.folder, part, n), "L") for n in names] for part in self.parts
        )
        return _both(x, y, f"in {self.folder}")
