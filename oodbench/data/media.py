"""Files of videos and recordings: opened, and checked for being whole. What reads them shares this.

PyAV (extra ``video``) and soundfile (extra ``audio``) are imported at the first read.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.errors import DataError, OODBenchError

ADVICE = "It is damaged, cut off or no {what}: get it again, or leave it out."


def library(name: str, extra: str) -> Any:
    """An optional library.

    Raises:
        OODBenchError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OODBenchError(
            f"{'videos and their sound' if extra == 'video' else 'recordings'} are read by {name}, "
            f"which is not installed: pip install 'oodbench[{extra}]'."
        ) from error


def existing(path: Path | str, what: str) -> Path:
    """The path of a file that is there.

    Raises:
        DataError: it is not.
    """
    located = files.user_path(path)
    if not located.is_file():
        raise DataError(f"there is no {what} {located}. Get it, or leave it out of the list.")
    return located


@contextmanager
def opened(path: Path | str, what: str) -> Iterator[Any]:
    """PyAV's container; whatever fails in it becomes a DataError that names the file."""
    av = library("av", "video")
    file = existing(path, what)
    try:
        # "file:" so that no name is taken for an address; the whitelist so that a playlist under a
        # video's name cannot make the decoder fetch anything. An option of the container alone: as
        # one of its streams too, PyAV before 18 crashes where those are found late (MPEG).
        with av.open(
            f"file:{file}",
            metadata_errors="replace",
            container_options={"protocol_whitelist": "file"},
        ) as container:
            yield container
    except OODBenchError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, ArithmeticError, RuntimeError) as error:
        raise DataError(
            f"cannot read the {what} {file} ({error}). {ADVICE.format(what=what)}"
        ) from error


def best_stream(container: Any, kind: str, path: Path | str, what: str) -> Any:
    """The stream that players choose (not a cover picture), decoded in one thread."""
    stream = container.streams.best(kind)
    if stream is None:
        raise DataError(
            f"the {what} {path} is cut off. Get it again, or leave it out."
            if is_cut_off(path)
            else f"the {what} {path} has no {kind} track. Get one that has, or leave it out."
        )
    if stream.codec_context is None:
        raise DataError(
            f"the {kind} track of the {what} {path} is coded in a way that is not known. "
            f"{ADVICE.format(what=what)}"
        )
    # data loaders run many processes, whose threads would fight for the cores
    stream.codec_context.thread_count = 1
    return stream


def is_cut_off(path: Path | str) -> bool:
    """Whether an MP4 or RIFF file is shorter than its own headers say; False if they say nothing.

    Some whole files overstate themselves, so a reader needs a second witness.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(12)
        if head[:4] == b"RIFF":
            declared = int.from_bytes(head[4:8], "little")
            # the largest values stand for "not known yet" where a file was written as a stream;
            # the byte that pads an odd length is often counted, but not written
            return 0 < declared < 0x7FFFF000 and declared + 8 > size + 1
        if head[4:8] != b"ftyp":
            return False
        at = 0
        while at + 8 <= size:
            handle.seek(at)
            head = handle.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8:  # to the end of the file, or padding
                return False
            at += length
            if at > size:
                return head[4:8] in (b"mdat", b"moov", b"moof")  # else rubbish at the end
    return False
