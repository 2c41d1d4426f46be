"""Your own image folders, as ``folder:PATH``: an OOD set, or an ID set with a benchmark."""

from __future__ import annotations

from pathlib import Path

from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec, folder_spec
from oodbench.errors import MissingDataError, OptionError

from .validation import synthetic_ood

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SIZE = 32
"""Side of the square that images are resized to, if none is given."""


def folder(path: str) -> DatasetSpec:
    """Your own images: folder:PATH, with PATH/<class>/* or PATH/<split>/<class>/*.

    Raises:
        OptionError: no path after the colon.
        MissingDataError: there is no such folder.
    """
    return folder_spec(f"folder:{path}", _root(path))


def _root(path: str) -> Path:
    if not path:
        raise OptionError("folder: names no path; write folder:PATH.")
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise MissingDataError(f"folder:{path}: there is no folder {root}.")
    return root


def _sized(path: str) -> tuple[str, int]:
    """The folder and the size of ``PATH@SIZE``.

    Raises:
        OptionError: that is both a folder of this name and a size for another.
    """
    bare, at, size = path.rpartition("@")
    if not at or not (size.isascii() and size.isdigit()):
        return path, SIZE
    if not Path(path).expanduser().is_dir():
        return bare, int(size)
    if bare and Path(bare).expanduser().is_dir() and not bare.endswith(("/", "\\")):
        raise OptionError(
            f"folder:{path}: there are folders {path} and {bare}. Write folder:{path}@{SIZE} for "
            f"images of the first, and folder:{bare}/@{size} for the second's at {size} pixels."
        )
    return path, SIZE


def folder_benchmark(path: str) -> Benchmark:
    """Your own images as ID: folder:PATH, with PATH/train/<class>/* and PATH/test/<class>/*.

    Images are resized to 32 x 32 (add ``@SIZE`` to the path for another size) and normalised with
    ImageNet's statistics; a checkpoint's own preprocessing goes first. It has no OOD sets of its
    own: name them with ``--ood``. Hyper-parameters are chosen on PATH/val/<class>/*, where it is.
    A folder that is itself called ``birds@2`` is meant where there is no folder ``birds``.
    """
    bare, size = _sized(path)
    spec = folder_spec(f"folder:{bare}", _root(bare), flat=False)
    preprocess = Preprocess(size, IMAGENET_MEAN, IMAGENET_STD)
    return Benchmark(
        name=f"folder:{path}",
        id=spec,
        near=(),
        far=(),
        preprocess=preprocess,
        protocol=Protocol(rank_group="far"),
        validation=(synthetic_ood(spec, preprocess),),
    )
