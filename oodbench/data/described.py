"""A sample as bytes: what its digest is of, where its class does not say so itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from oodbench.errors import DataError


def content_of(sample: Any) -> bytes:
    """The content of a sample, other bytes for another one.

    A Pillow image, an array or a tensor by its numbers, their shape and type; text, numbers and
    bytes as they are; a file (a ``Path``, or a handle with a ``path`` such as ``VideoFile``) by
    what is in it; a mapping, list or tuple by its parts.

    Raises:
        DataError: it is something else, or a file that cannot be read.
    """
    kind, content = _parts(sample)
    return b"%s %d\0" % (kind.encode(), len(content)) + content


def _parts(sample: Any) -> tuple[str, bytes]:
    if isinstance(sample, Image.Image):
        return f"image {sample.mode} {sample.size}", sample.tobytes()
    if isinstance(sample, Tensor):
        sample = sample.detach().cpu().numpy()
    if isinstance(sample, np.ndarray | np.generic) and sample.dtype != object:
        array = np.ascontiguousarray(sample)
        return f"array {array.dtype.str} {sample.shape}", array.tobytes()
    if sample is None or isinstance(sample, bool | int | float | str):
        return type(sample).__name__, repr(sample).encode()
    if isinstance(sample, bytes):
        return "bytes", sample
    if isinstance(sample, Path):
        return "file", _read(sample)
    if isinstance(sample, Mapping):
        names = sorted(sample, key=str)
        return "mapping", b"".join(content_of(str(n)) + content_of(sample[n]) for n in names)
    if isinstance(sample, list | tuple):
        return "list", b"".join(map(content_of, sample))
    if dataclasses.is_dataclass(sample) and isinstance(getattr(sample, "path", None), Path | str):
        values = {f.name: getattr(sample, f.name) for f in dataclasses.fields(sample)}
        values["path"] = Path(values["path"])
        return type(sample).__name__, content_of(values)
    raise DataError(
        f"a {type(sample).__name__} says nothing of its content, by which samples are told apart. "
        "Override content(index) of the samples: the bytes that it was made of."
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
