"""Where new images come from: files, folders, lists of paths, and the frames of videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from oodbench import files
from oodbench.data.images import decode
from oodbench.data.listing import files_below, is_image
from oodbench.data.media import best_stream, opened
from oodbench.data.recordings import SUFFIXES, VIDEO
from oodbench.errors import DataError, OODBenchError, OptionError

VIDEOS = SUFFIXES[VIDEO]
"""Suffixes of files whose frames are images."""

STANDARD_INPUT = "-"
"""Stands for a list of paths on standard input, one a line."""


@dataclass(frozen=True)
class Item:
    """An image that is to be scored.

    Args:
        path: what its row says; a video's frame is ``clip.mp4#frame=12``, counted from 0.
        load: gives the image, or raises an OODBenchError.
    """

    path: str
    load: Callable[[], Any]


def items(words: Iterable[str], lines: Iterable[str] = (), every: int = 1) -> Iterator[Item]:
    """The images of files, folders, videos and lists, one by one, in their order.

    A folder's are those below it, sorted in each folder. What cannot be read is an item as well,
    whose ``load`` says why. Nothing is held but the images of one frame.

    Args:
        words: paths; ``"-"`` for ``lines``.
        lines: paths, one per line, with or without its end.
        every: which frames of a video: each first of so many.

    Raises:
        OptionError: ``every`` is less than 1, or a folder holds no image.
    """
    if every < 1:
        raise OptionError(f"`every` is a number of frames, at least 1, not {every}.")
    for word in words:
        if word != STANDARD_INPUT:
            yield from _at(word, every, is_named=True)
            continue
        for line in lines:
            path = line.rstrip("\r\n")
            if path:
                yield from _at(path, every, is_named=False)


def _at(word: str, every: int, *, is_named: bool) -> Iterator[Item]:
    path = files.user_path(word)
    if path.is_dir():
        is_any = False
        for file in files_below(str(path), path):
            if file.suffix.lower() in VIDEOS or (file.is_file() and is_image(file)):
                is_any = True
                yield from _file(str(file), file, every)
        if not is_any and is_named:
            raise OptionError(f"the folder {path} holds no images and no videos.")
    else:
        yield from _file(word, path, every)


def _file(word: str, path: Path, every: int) -> Iterator[Item]:
    if path.suffix.lower() in VIDEOS:
        yield from _frames(word, path, every)
    else:
        yield Item(word, lambda: decode(path, f"the image {path}"))


def _frames(word: str, path: Path, every: int) -> Iterator[Item]:
    """The frames of a video, decoded one after the other; an item that says why it ends early."""
    number = 0
    try:
        with opened(path, "video") as container:
            stream = best_stream(container, "video", path, "video")
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                    yield Item(f"{word}#frame={number}", lambda image=image: image)  # type: ignore[misc]
            if stream.frames and number + 1 < stream.frames:
                raise DataError(
                    f"the video {path} ends after {number + 1} of {stream.frames} frames."
                )
    except OODBenchError as error:
        yield Item(f"{word}#frame={number}" if number else word, _raises(error))


def _raises(error: Exception) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load
