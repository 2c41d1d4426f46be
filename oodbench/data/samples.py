"""Samples: the images of one split, as they are on disk, with labels and a content fingerprint.

What stands here is known to every dataset family; where the data is and how it is split stands in
``datasets/``.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from oodbench import files
from oodbench.data.described import content_of
from oodbench.data.images import SUFFIXES, decode
from oodbench.data.listing import (
    Listing,
    class_folders,
    identity,
    list_images,
    loose_images,
    passed_over,
    several_frames,
)
from oodbench.disk import digests
from oodbench.errors import DataError, MissingDataError, OODBenchWarning

_RACY_SECONDS = 2.0
_FEW_BYTES = 2**28


class Samples(Dataset[Image.Image]):
    """One split of a dataset: raw images, labels, class names.

    The base of samples of your own: call ``super().__init__``, and say in ``__getitem__`` what a
    sample is, the same each time. ``oodbench.testing.samples_checks`` tries whether it is right.

    Args:
        name: what messages call it, ``"cifar10/test"``.
        labels: ``[N]`` integers in ``[0, C)``; all zero where there are no classes.
        classes: the C class names, in the order of the labels.
    """

    is_prepared: bool = False
    """Whether its images were resized and cropped by their publisher, as the protocol wants it."""

    def __init__(self, name: str, labels: Sequence[int] | np.ndarray, classes: Sequence[str]):
        self.name = name
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = tuple(classes)

    @property
    def in_memory(self) -> bool:
        """Whether its images are decoded and in memory: reading one costs nothing."""
        return False

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Image.Image:
        """The image at a position: 8-bit pixels in any of Pillow's modes, in its own size."""
        raise NotImplementedError

    def content(self, index: int) -> bytes:
        """The bytes that tell a sample from others; its digest is of them.

        They are made of the sample itself, all of which is read for it. A subclass overrides this
        where it knows the bytes sooner: those of a sample's files, and of its row in a table.

        Raises:
            DataError: the sample holds what says nothing of its content.
        """
        return content_of(self[index])

    def _digests(self) -> np.ndarray:
        contents = (content_digest(self.content(index)) for index in range(len(self)))
        return np.fromiter(contents, dtype=np.uint64, count=len(self))

    @cached_property
    def digests(self) -> np.ndarray:
        """``[N]`` uint64: the first eight bytes of the sha256 of each sample's content."""
        return self._digests()

    @property
    def digests_are_cheap(self) -> bool:
        """Whether the digests are known, or had within seconds."""
        return self.in_memory or "digests" in vars(self)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over contents, labels and class names, in order."""
        whole = hashlib.sha256()
        whole.update(np.ascontiguousarray(self.digests).tobytes())
        whole.update(self.labels.tobytes())
        whole.update("\0".join(self.classes).encode())
        return whole.hexdigest()


class MultimodalSamples(Samples):
    """Samples that are seen in several ways: ``samples[i]`` is a mapping by modality.

    Args:
        name: what messages call it.
        labels: ``[N]``.
        classes: class names.
        modalities: names of the modalities that every sample has.
    """

    def __init__(
        self,
        name: str,
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        modalities: Sequence[str],
    ) -> None:
        super().__init__(name, labels, classes)
        self.modalities = tuple(modalities)

    def __getitem__(self, index: int) -> Any:
        """What there is of the sample at a position, undecorated, by modality."""
        raise NotImplementedError


VOID = 255
"""Value of a mask where nothing is known: such pixels are neither trained nor tested on."""

OOD = 254
"""Value of a mask where something is that belongs to no class."""


class MaskedSamples(Samples):
    """Images with a class for each pixel. ``labels`` are zeros; ``classes`` are those of pixels."""

    def mask(self, index: int) -> np.ndarray:
        """``[H, W]`` uint8, the size of the image: classes in [0, C), ``OOD`` or ``VOID``."""
        raise NotImplementedError

    def mask_name(self, index: int) -> str:
        """What messages call the mask at a position: its file, where there is one."""
        return f"{self.name}, image {index}"


@dataclass
class Boxes:
    """Objects of one image.

    Args:
        corners: ``[n, 4]`` float32, left, top, right, bottom in pixels; n may be 0.
        labels: ``[n]`` int64, classes in [0, C), or -1 for an object that belongs to none.
    """

    corners: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        self.corners = np.asarray(self.corners, dtype=np.float32).reshape(-1, 4)
        self.labels = np.asarray(self.labels, dtype=np.int64).reshape(-1)
        if len(self.corners) != len(self.labels):
            raise DataError(f"{len(self.corners)} boxes, but {len(self.labels)} labels.")
        if (self.corners[:, 2:] <= self.corners[:, :2]).any():
            raise DataError("a box has its right or bottom side before its left or top one.")


class BoxedSamples(Samples):
    """Images with the boxes of their objects. ``labels`` are zeros; ``classes`` are of boxes."""

    def boxes(self, index: int) -> Boxes:
        """The objects of the image at a position; there may be none."""
        raise NotImplementedError


def content_digest(content: bytes) -> int:
    """The first eight bytes of a content's sha256, as an integer."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little")


def _array_digest(image: np.ndarray) -> int:
    # the same bytes are other images in another shape
    return content_digest(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())


class ImageArrays(Samples):
    """Images that are in memory already.

    Args:
        name: what messages call it.
        images: ``[N, H, W]`` (grey) or ``[N, H, W, 3]`` (RGB), uint8.
        labels: ``[N]``.
        classes: class names.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
    ) -> None:
        super().__init__(name, labels, classes)
        if images.dtype != np.uint8 or len(images) != len(self.labels):
            raise DataError(f"{name}: wants uint8 images, as many as labels ({len(self.labels)}).")
        self.images = images

    @property
    def in_memory(self) -> bool:
        """True: the images are held in memory."""
        return True

    def __getitem__(self, index: int) -> Image.Image:
        """The image at a position."""
        return Image.fromarray(self.images[index])

    def _digests(self) -> np.ndarray:
        return np.fromiter(map(_array_digest, self.images), dtype=np.uint64, count=len(self))


class ImageFiles(Samples):
    """Images that are files below one folder.

    Args:
        name: what messages call it.
        root: the folder.
        paths: files relative to it, in order.
        labels: ``[N]``.
        classes: class names.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        paths: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
    ) -> None:
        super().__init__(name, labels, classes)
        self.root = root
        self.paths = list(paths)

    def __getitem__(self, index: int) -> Image.Image:
        """The image at a position, decoded, with 8-bit pixels.

        Raises:
            DataError: the file cannot be read; the message names it. See ``images.decode``.
        """
        path = self.root / self.paths[index]
        return decode(path, f"{self.name}: the image {path}")

    def undecorated(self, index: int) -> Image.Image:
        """The same, with the pixels that the file has; for masks, where they are no brightness."""
        path = self.root / self.paths[index]
        return decode(path, f"{self.name}: the image {path}", raw=True)

    @property
    def digests_are_cheap(self) -> bool:
        """Whether they are remembered from another time, or the files are few megabytes."""
        if super().digests_are_cheap:
            return True
        try:
            memo, _, size = self._memo()
        except OSError:
            return False
        return size <= _FEW_BYTES or memo.is_file()

    def _digests(self) -> np.ndarray:
        try:
            return self._remembered_digests()
        except (FileNotFoundError, PermissionError) as error:
            raise DataError(
                f"{self.name}: cannot read {error.filename} ({error.strerror}). "
                "Was it moved since the folder was listed, or is it somebody else's?"
            ) from error

    def _memo(self) -> tuple[Path, float, int]:
        """Where the digests are remembered, when the newest file changed, and all files' bytes."""
        stats = hashlib.sha256(os.fsencode(self.root.resolve()))
        newest, size = 0.0, 0
        for path in self.paths:
            stat = (self.root / path).stat()
            newest = max(newest, stat.st_ctime)
            size += stat.st_size
            identity = (path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            stats.update(repr(identity).encode())
        return files.cache_dir() / "fingerprints" / f"{stats.hexdigest()}.npy", newest, size

    def _remembered_digests(self) -> np.ndarray:
        memo, newest, _ = self._memo()
        known = digests.remembered(memo, len(self), np.uint64)
        if known is not None:
            return known
        began = time.time()
        known = np.fromiter(
            (content_digest((self.root / path).read_bytes()) for path in self.paths),
            dtype=np.uint64,
            count=len(self),
        )
        # A file written within the clock's grain of our look could change without changing its
        # time stamps, so a fresh folder is read again next time.
        if began - newest > _RACY_SECONDS:
            digests.remember(memo, known)
        return known


class Subset(Samples):
    """Some rows of other samples; nothing is copied, and a row's digest is the one it had.

    Args:
        samples: the whole.
        rows: positions in it, in the order that they shall have.
        name: what messages call it; the whole's name if None.
    """

    def __init__(
        self, samples: Samples, rows: Sequence[int] | np.ndarray, name: str | None = None
    ) -> None:
        self.samples = samples
        self.rows = np.asarray(rows, dtype=np.int64)
        super().__init__(name or samples.name, samples.labels[self.rows], samples.classes)

    @property
    def in_memory(self) -> bool:
        """Whether the samples that this is a part of are in memory."""
        return self.samples.in_memory

    @property
    def digests_are_cheap(self) -> bool:
        """Whether digests of the samples that this is a part of are cheap."""
        return super().digests_are_cheap or self.samples.digests_are_cheap

    def __getitem__(self, index: int) -> Image.Image:
        """The image at a position."""
        return self.samples[int(self.rows[index])]

    def _digests(self) -> np.ndarray:
        return self.samples.digests[self.rows]


def positions(samples: Samples, within: Samples) -> np.ndarray:
    """``[N]``: where each of some samples is among others, by content; -1 where it is not."""
    order = np.argsort(within.digests, kind="stable")
    ordered = within.digests[order]
    places = np.searchsorted(ordered, samples.digests).clip(max=len(order) - 1)
    return np.where(ordered[places] == samples.digests, order[places], -1)


def image_folder(name: str, root: Path) -> ImageFiles:
    """Images below a folder: one subfolder per class, or all images in the folder itself.

    Images are files with one of the suffixes of ``images.SUFFIXES``, and those without a suffix
    that begin as an image does. Hidden folders and files, and those of operating systems, are no
    data. Links are followed, and each folder is entered once per class. Class names are compared
    and sorted in Unicode's composed form. What was passed over is told in a warning: files that are
    no images that are read, links that lead nowhere, images beside class folders, further frames.

    Raises:
        MissingDataError: there is no such folder.
        DataError: it holds no image, a class folder is empty, or it has both class folders and as
            many images that are in none.
    """
    if not root.is_dir():
        raise MissingDataError(f"{name}: there is no folder {root}.")
    classes = class_folders(name, root)
    passed = {identity(folder) for folder in (root, *map(root.joinpath, classes.values()))}
    paths: list[str] = []
    labels: list[int] = []
    whole = Listing()
    for label, folder in enumerate(classes.values() or ["."]):
        listed = list_images(name, root, folder, passed)
        if not listed.images:
            raise DataError(
                f"{name}: the {'class ' if classes else ''}folder {root / folder} holds no images "
                f"({', '.join(sorted(SUFFIXES))}). Fill it, or remove it. "
                + " ".join(passed_over(root, listed.others, listed.broken))
            )
        paths += listed.images
        labels += [label] * len(listed.images)
        whole.others += listed.others
        whole.broken += listed.broken
    texts = passed_over(root, whole.others, whole.broken)
    if classes:
        texts += loose_images(name, root, list(classes.values()), len(paths))
    texts += [text for text in [several_frames(root, paths)] if text]
    if texts:
        warnings.warn(f"{name}: {' '.join(texts)}", OODBenchWarning, stacklevel=2)
    return ImageFiles(name, root, paths, labels, list(classes) or ["all"])
