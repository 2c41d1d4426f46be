"""Finding a dataset below the data folder: image folders, torchvision downloads, parquet files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oodbench import files
from oodbench.errors import DataError, MissingDataError
from oodbench.samples import ImageArrays, Samples, content_digest, image_folder

Reader = Callable[[Path, str, str], Samples | None]
"""``reader(root, name, split)``: the samples, or None where its layout is not there."""


def folders(*layouts: str) -> Reader:
    """Image folders below the data folder; ``{split}`` stands for the split's name."""

    def read(root: Path, name: str, split: str) -> Samples | None:
        for layout in layouts:
            folder = root / layout.format(split=split)
            if folder.is_dir():
                return image_folder(f"{name}/{split}", folder)
        return None

    read.looked_for = layouts  # type: ignore[attr-defined]
    return read


def torchvision_arrays(
    marker: str, build: Callable[[Path, str], Any], splits: Sequence[str] = ("train", "test")
) -> Reader:
    """A torchvision download, whose checksums are verified before it is read.

    Args:
        marker: the file or folder that shows that the download is there.
        build: ``build(root, split)`` makes the torchvision dataset with ``download=False``; it has
            ``data`` and ``targets`` or ``labels``. It verifies the checksums (torchvision does for
            CIFAR and SVHN, not for MNIST).
        splits: the splits that it has.
    """

    def read(root: Path, name: str, split: str) -> Samples | None:
        for base in (root, root / name):
            if split not in splits or not (base / marker).exists():
                continue
            try:
                dataset = build(base, split)
            except (RuntimeError, OSError, ValueError, AssertionError) as error:
                raise DataError(
                    f"{name}: the torchvision download {base / marker} is incomplete or changed "
                    f"({error}). Download it again."
                ) from error
            images = np.asarray(dataset.data)
            if images.ndim == 4 and images.shape[1] == 3:  # SVHN has channels first
                images = images.transpose(0, 2, 3, 1)
            labels = np.asarray(getattr(dataset, "targets", getattr(dataset, "labels", None)))
            classes = getattr(dataset, "classes", None) or [str(c) for c in range(labels.max() + 1)]
            return ImageArrays(f"{name}/{split}", np.ascontiguousarray(images), labels, classes)
        return None

    read.looked_for = (marker,)  # type: ignore[attr-defined]
    return read


class ParquetImages(Samples):
    """Encoded images from Hugging Face parquet files (a column of ``{bytes, path}`` records)."""

    def __init__(
        self, name: str, encoded: list[bytes], labels: Sequence[int], classes: Sequence[str]
    ) -> None:
        super().__init__(name, labels, classes)
        self.encoded = encoded

    def __getitem__(self, index: int) -> Image.Image:
        """The image at a position, decoded; DataError if it is damaged."""
        try:
            image = Image.open(io.BytesIO(self.encoded[index]))
            image.load()
        except Exception as error:  # each of PIL's readers has its own for a damaged file
            raise DataError(f"{self.name}: image {index} is damaged ({error}).") from error
        return image

    def _digests(self) -> np.ndarray:
        return np.fromiter(map(content_digest, self.encoded), dtype=np.uint64, count=len(self))


def parquet(image: str = "image", label: str | None = "label") -> Reader:
    """A snapshot of parquet files as the Hugging Face hub has them: ``**/<split>-*.parquet``.

    Class names come from the snapshot's feature metadata, else the labels are numbered.
    """

    def read(root: Path, name: str, split: str) -> Samples | None:
        shards = sorted((root / name).rglob(f"{split}-*.parquet")) if (root / name).is_dir() else []
        if not shards:
            return None
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingDataError(
                f"{name}: found parquet files, but pyarrow is not installed: "
                "pip install 'oodbench[parquet]'."
            ) from error
        encoded: list[bytes] = []
        labels: list[int] = []
        classes: list[str] = []
        for shard in shards:
            try:
                table = pq.read_table(shard)
            except (OSError, ValueError) as error:
                raise DataError(f"{name}: {shard} is damaged ({error}). Get it again.") from error
            column = image if image in table.column_names else "img"
            if column not in table.column_names:
                raise DataError(f"{name}: {shard} has no column {image!r} ({table.column_names}).")
            encoded += [record["bytes"] for record in table[column].to_pylist()]
            known = label is not None and label in table.column_names
            labels += table[label].to_pylist() if known else [0] * table.num_rows
            classes = _class_names(table.schema.metadata or {}, label)
        numbered = [str(c) for c in range(max(labels, default=0) + 1)]
        return ParquetImages(f"{name}/{split}", encoded, labels, classes or numbered)

    read.looked_for = ("{name}/**/{split}-*.parquet",)  # type: ignore[attr-defined]
    return read


def _class_names(metadata: dict[bytes, bytes], label: str | None) -> list[str]:
    """The names of a Hugging Face ``ClassLabel`` column, as its parquet files carry them."""
    info = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})
    return list(info.get("features", {}).get(label, {}).get("names") or [])


def find(name: str, split: str, readers: Sequence[Reader], how_to_get: str) -> Samples:
    """The first layout of a dataset that is there.

    Raises:
        MissingDataError: none is; the message names what was looked for and how to get it.
    """
    root = files.data_dir()
    for reader in readers:
        found = reader(root, name, split)
        if found is not None:
            return found
    looked = []
    for reader in readers:
        layouts = getattr(reader, "looked_for", ())
        layouts = layouts(split) if callable(layouts) else layouts
        looked += [layout.format(name=name, split=split) for layout in layouts]
    raise MissingDataError(
        f"{name}: no {split} images in {root} (looked for {', '.join(looked)}). "
        f"Get it: {how_to_get}, or set OODBENCH_DATA to the folder that has it."
    )
