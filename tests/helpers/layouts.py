"""Images in the layouts in which their publishers pack them: the hub's, torchvision's, OpenOOD's.

What a layout is made of is known from the publishers' files; the images are whoever calls this's.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from oodbench.download.described import Download


@dataclass
class Part:
    """A split.

    Args:
        images: ``[N]`` encoded images, as files have them.
        labels: ``[N]``.
        classes: names of the classes.
        names: ``[N]`` files' names; numbers for None.
    """

    images: Sequence[bytes]
    labels: Sequence[int]
    classes: Sequence[str]
    names: Sequence[str] | None = None

    def pixels(self, mode: str = "RGB") -> np.ndarray:
        """``[N, H, W, 3]`` or ``[N, H, W]``."""
        decoded = (Image.open(io.BytesIO(one)).convert(mode) for one in self.images)
        return np.stack([np.asarray(image) for image in decoded])


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind)
    return stream.getvalue()


def parquet(part: Part, image: str, label: str, coarse: bool = False) -> bytes:
    """A shard as ``datasets`` writes it: a struct column of images, and the names of the classes.

    Args:
        part: what is in it.
        image: the images' column.
        label: the labels'.
        coarse: whether a second column of labels stands beside it, as in CIFAR-100.
    """
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    names = part.names or [None] * len(part.images)
    rows = [{"bytes": one, "path": name} for one, name in zip(part.images, names, strict=True)]
    struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {image: pa.array(rows, struct_type), label: pa.array(part.labels, pa.int64())}
    features: dict[str, object] = {
        image: {"_type": "Image"},
        label: {"names": list(part.classes), "_type": "ClassLabel"},
    }
    if coarse:
        columns["coarse_label"] = pa.array([one % 20 for one in part.labels], pa.int64())
        features["coarse_label"] = {"names": [str(i) for i in range(20)], "_type": "ClassLabel"}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    stream = io.BytesIO()
    table = pa.table(columns).replace_schema_metadata(about)
    pq.write_table(table, stream, row_group_size=100)
    return stream.getvalue()


def tarred(members: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def cifar10_archive(train: Part, test: Part) -> dict[str, bytes]:
    """The members of ``cifar-10-python.tar.gz``: five batches, one of tests, and the names."""
    made = {}
    shares = [*np.array_split(np.arange(len(train.images)), 5), np.arange(len(test.images))]
    titles = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for title, rows in zip(titles, shares, strict=True):
        part = test if title == "test_batch" else train
        flat = part.pixels()[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1)
        batch = {
            "batch_label": title,
            "labels": [int(part.labels[i]) for i in rows],
            "data": flat,
            "filenames": [f"{i}.png" for i in rows],
        }
        made[f"cifar-10-batches-py/{title}"] = pickle.dumps(batch, 2)
    meta = {"num_cases_per_batch": 10000, "label_names": list(test.classes), "num_vis": 3072}
    made["cifar-10-batches-py/batches.meta"] = pickle.dumps(meta, 2)
    return made


def cifar100_archive(train: Part, test: Part) -> dict[str, bytes]:
    """The members of ``cifar-100-python.tar.gz``."""
    made = {}
    for title, part in (("train", train), ("test", test)):
        flat = part.pixels().transpose(0, 3, 1, 2).reshape(len(part.images), -1)
        batch = {
            "batch_label": title,
            "fine_labels": [int(one) for one in part.labels],
            "coarse_labels": [int(one) % 20 for one in part.labels],
            "data": flat,
            "filenames": [f"{i}.png" for i in range(len(flat))],
        }
        made[f"cifar-100-python/{title}"] = pickle.dumps(batch, 2)
    meta = {
        "fine_label_names": list(test.classes),
        "coarse_label_names": [str(i) for i in range(20)],
    }
    made["cifar-100-python/meta"] = pickle.dumps(meta, 2)
    return made


def mnist_files(train: Part, test: Part) -> dict[str, bytes]:
    """MNIST's four files, ``*-ubyte``: a header in big-endian words, then the values."""
    made = {}
    for title, part in (("train", train), ("t10k", test)):
        pixels = part.pixels("L")
        header = struct.pack(">4i", 2051, *pixels.shape)
        made[f"{title}-images-idx3-ubyte"] = header + pixels.tobytes()
        labels = np.asarray(part.labels, np.uint8)
        made[f"{title}-labels-idx1-ubyte"] = (
            struct.pack(">2i", 2049, len(labels)) + labels.tobytes()
        )
    return made


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def known_to_torchvision(
    patch: pytest.MonkeyPatch, archive: Mapping[str, bytes], dataset: str
) -> None:
    """Has torchvision take these members of a CIFAR archive for the published ones."""
    from torchvision import datasets

    cls = getattr(datasets, dataset)
    sums = {
        name.rpartition("/")[2]: hashlib.md5(content).hexdigest()
        for name, content in archive.items()
    }
    for attribute in ("train_list", "test_list"):
        known = [[name, sums[name]] for name, _ in getattr(cls, attribute)]
        patch.setattr(cls, attribute, known)
    meta = {**cls.meta, "md5": sums[cls.meta["filename"]]}
    patch.setattr(cls, "meta", meta)


def patches(count: int, size: int, seed: int) -> np.ndarray:
    """``[N, size, size, 3]``: pieces of two photographs, in other places for each seed."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        y, x = (rng.integers(0, side - size) for side in photograph.shape[:2])
        made.append(photograph[y : y + size, x : x + size])
    return np.stack(made)


def as_published(patch: pytest.MonkeyPatch, download: Download, contents: Sequence[bytes]) -> None:
    """Has the digests and sizes of some bytes be those that a publisher gives for its files."""
    for file, content in zip(download.files, contents, strict=True):
        values = {"md5": hashlib.md5(content).hexdigest(), "size": len(content)}
        for name, value in values.items():
            patch.setitem(vars(file), name, value)
