"""Pictures of what was scored: colours, and files that are never large.

A panel has at most ``SIDE`` pixels a side and a file at most ``MOST_BYTES``, however large the
photographs are.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from oodbench import files
from oodbench.data.samples import OOD
from oodbench.reporting import reason_of

SIDE = 512
"""Longest side of a panel, in pixels."""

MOST_BYTES = 2**19
"""Of a file."""

MOST_PICTURES = 8
"""Of each set of images, for each detector."""


@dataclass
class Drawing:
    """Where pictures go, and who is told of those that cannot be made.

    Args:
        folder: the folder; each detector has a subfolder.
        note: told what went wrong, in a sentence.
    """

    folder: Path
    note: Callable[[str], None]

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """What goes wrong with a picture is noted, and loses no result."""
        try:
            yield
        except Exception as error:
            self.note(f"not all pictures could be made: {reason_of(error)}")

    @staticmethod
    def announcement(folder: Path, sets: int, detectors: int) -> str:
        """How many pictures there will be, and how large they are at most."""
        most = MOST_PICTURES * sets * detectors
        return (
            f"pictures: at most {MOST_PICTURES} of each set for each detector, {most} in all, "
            f"of at most {MOST_BYTES // 1024} KiB ({most * MOST_BYTES / 2**20:.0f} MiB), "
            f"in {folder}"
        )


SCALE = 20
"""Height of the scale below a heat map, in pixels, with the gap above it."""

_INFERNO = (
    (0, 0, 4), (11, 7, 36), (33, 12, 74), (61, 9, 101), (87, 16, 110), (113, 25, 110),
    (138, 34, 106), (163, 44, 97), (188, 55, 84), (208, 69, 69), (227, 89, 51), (241, 113, 31),
    (249, 140, 10), (252, 170, 15), (249, 201, 50), (242, 232, 101), (252, 255, 164),
)  # fmt: skip
"""Seventeen colours at equal distances of inferno (N. Smith, S. van der Walt; CC0).

Equal steps along it look equally large, as prints in grey do, too.
"""


def heat(scores: np.ndarray) -> np.ndarray:
    """Scores ``[H, W]`` as colours ``[H, W, 3]`` uint8, from dark (their least) to bright."""
    low, high = float(scores.min()), float(scores.max())
    at = (scores - low) / (high - low) if high > low else np.zeros_like(scores)
    places = np.linspace(0, 1, len(_INFERNO))
    channels = [np.interp(at, places, channel) for channel in np.array(_INFERNO, float).T]
    coloured: np.ndarray = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return coloured


def with_scale(row: Image.Image, left: int, right: int, low: float, high: float) -> Image.Image:
    """A row of panels, and below its heat map the colours from the least score to the largest.

    Args:
        row: the panels.
        left: where the heat map begins.
        right: where it ends.
        low: the least score in it.
        high: the largest.
    """
    whole = Image.new("RGB", (row.width, row.height + SCALE), "white")
    whole.paste(row, (0, 0))
    colours = heat(np.linspace(0.0, 1.0, right - left)[None])
    top = row.height + 8
    whole.paste(Image.fromarray(colours.repeat(SCALE - 8, axis=0)), (left, top))
    draw = ImageDraw.Draw(whole)
    least, largest = f"score {low:.4g}", f"{high:.4g}"
    draw.text((left - 6 - draw.textlength(least), top), least, "black")
    draw.text((right + 6, top), largest, "black")
    return whole


def class_colours(classes: np.ndarray) -> np.ndarray:
    """Classes ``[H, W]`` as colours ``[H, W, 3]`` uint8; background black, ``VOID`` grey."""
    hues = np.arange(254) * 0.618034 % 1.0  # golden ratio: neighbours far apart
    wheel = np.stack([hues + shift for shift in (0.0, 1 / 3, 2 / 3)], axis=1) % 1.0
    table = np.full((256, 3), 128, np.uint8)
    table[:254] = np.rint(255 * np.clip(np.abs(wheel * 6 - 3) - 1, 0.1, 1.0))
    table[0], table[OOD] = 0, 255
    coloured: np.ndarray = table[classes]
    return coloured


def scale(width: int, height: int, wanted: int) -> float:
    """By how much a panel is enlarged, a whole number, or shrunk.

    Args:
        width: of the image.
        height: of the image.
        wanted: the height that small images are enlarged to, as far as they fit.
    """
    longest = max(width, height)
    return SIDE / longest if longest > SIDE else max(1, min(wanted // height, SIDE // longest))


def panel(pixels: Image.Image, times: float, smooth: bool = True) -> Image.Image:
    """An RGB image enlarged, pixel by pixel, or shrunk; ``smooth``: as a mean of what is lost."""
    size = (max(1, round(pixels.width * times)), max(1, round(pixels.height * times)))
    if pixels.size == size:
        return pixels
    filter_ = Image.Resampling.BOX if times < 1 and smooth else Image.Resampling.NEAREST
    return pixels.resize(size, filter_)


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a picture, whole or not at all: as a PNG, or as a JPEG where that would be large.

    Returns:
        Where it is: ``path``, or the same with the suffix ``.jpg``.
    """
    path = path.with_suffix(".png")
    content = _encoded(picture, "PNG")
    for quality in (90, 70, 50, 30, 10):
        if len(content) <= MOST_BYTES:
            break
        content = _encoded(picture, "JPEG", quality=quality)
        path = path.with_suffix(".jpg")
    files.write_bytes(path, content)
    path.with_suffix(".jpg" if path.suffix == ".png" else ".png").unlink(missing_ok=True)
    return path


def _encoded(picture: Image.Image, format_: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format_, **options)
    return buffer.getvalue()
