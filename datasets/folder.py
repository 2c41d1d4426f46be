"""Your own folders, as ``folder:PATH``: an OOD set, or an ID set with a benchmark.

They hold images, or videos, or sounds, of which each is read as it is.
"""

from __future__ import annotations

from pathlib import Path

from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.clips import ClipPreprocess
from oodbench.data.recordings import VIDEO, modality_of
from oodbench.data.spectrograms import LogMel
from oodbench.data.transforms import MultimodalPreprocess, Preprocess
from oodbench.dataset import DatasetSpec, folder_spec
from oodbench.errors import MissingDataError, OptionError

from .validation import synthetic_ood

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SIZE = 32
"""Side of the square that images are resized to, if none is given."""

CLIP_SIZE, CLIP_MEAN, CLIP_STD = 112, (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
"""What torchvision's networks of Kinetics-400 see."""

SOUND_RATE, SECONDS = 16_000, 2.0
"""Of sounds, in Hz; and how much of one is heard, if nothing is given."""


def folder(path: str) -> DatasetSpec:
    """Your own files (images, videos, sounds): folder:PATH, PATH/<class>/*, PATH/<split>/<class>/*.

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


def _clip(size: int) -> ClipPreprocess:
    return ClipPreprocess(16, 2, size, CLIP_MEAN, CLIP_STD, short_side=round(size * 8 / 7))


def folder_benchmark(path: str) -> Benchmark:
    """Your own images as ID: folder:PATH, with PATH/train/<class>/* and PATH/test/<class>/*.

    Images are resized to 32 x 32 (add ``@SIZE`` to the path for another size) and normalised with
    ImageNet's statistics; a checkpoint's own preprocessing goes first. It has no OOD sets of its
    own: name them with ``--ood``. Hyper-parameters are chosen on PATH/val/<class>/*, where it is.
    A folder that is itself called ``birds@2`` is meant where there is no folder ``birds``.

    Of videos (.mp4, .avi …) a network sees a clip of 16 frames, every second one from the middle,
    112 x 112 pixels (or ``@SIZE``); of sounds (.wav, .flac …) a log-mel spectrogram of the first
    two seconds (or ``@SECONDS``) at 16 kHz. Their networks are those of several modalities, of
    which there is one: ``--backbone clips-small`` for a processor, where nothing else is said.
    """
    bare, size = _sized(path)
    root = _root(bare)
    spec = folder_spec(f"folder:{bare}", root, flat=False)
    modality = modality_of(root)
    if modality is not None:
        part = (
            _clip(size if bare != path else CLIP_SIZE)
            if modality == VIDEO
            else LogMel(rate=SOUND_RATE, seconds=float(size) if bare != path else SECONDS, mels=64)
        )
        return Benchmark(
            name=f"folder:{path}",
            id=spec,
            near=(),
            far=(),
            preprocess=MultimodalPreprocess({modality: part}),
            protocol=Protocol(rank_group="far"),
            backbone="clips-small",
        )
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
