"""Sets of images on disk: the layouts in which they are found, and what is said of the absent."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import oodbench
from oodbench import files
from oodbench.dataset import resolve_dataset
from oodbench.errors import DataError, MissingDataError
from oodbench.registry import DATASETS
from tests.conftest import write_images
from tests.helpers.datasets import images_of

FACTORIES = {"folder", "imagenet-without", "imagenet500-without", "synthetic"}
"""Datasets that are made of what stands behind a colon."""


# Datasets in the data folder


def test_any_image_folder_in_the_data_folder_is_a_dataset() -> None:
    root = files.data_dir() / "textures10"
    write_images(root / "test", {"banded": 2, "dotted": 1})
    found = resolve_dataset("textures10")
    assert found.name == "textures10"
    assert len(found.load("test")) == 3
    flat = files.data_dir() / "scenes"
    write_images(flat, {"forest": 2})
    assert len(resolve_dataset("scenes").load("test")) == 2


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "svhn"])
@pytest.mark.parametrize("layout", ["{name}/test", "images_classic/{name}/test"])
def test_image_folder_layout(name: str, layout: str) -> None:
    write_images(files.data_dir() / layout.format(name=name), {"a": 2, "b": 1})
    samples = DATASETS.get(name).load("test")
    assert samples.name == f"{name}/test"
    assert samples.classes == ("a", "b")
    assert samples.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("textures", "textures"),
        ("textures", "dtd/dtd/images"),
        ("textures", "images_classic/texture"),
        ("places365", "places365"),
        ("places365", "val_256"),
        ("tin", "tiny-imagenet-200/val/images"),
        ("tin", "images_classic/tin/val"),
        ("lsun-c", "LSUN"),
        ("isun", "iSUN"),
    ],
)
def test_ood_layouts(name: str, layout: str) -> None:
    write_images(files.data_dir() / layout, {".": 3})
    assert len(DATASETS.get(name).load("test")) == 3


@pytest.mark.parametrize("name", sorted(set(oodbench.list_datasets()) - FACTORIES))
def test_missing_data_says_where_it_looked_and_how_to_get_it(name: str) -> None:
    found = DATASETS.get(name)
    for split in found.splits:
        if name in ("digits", "digits-6-9", "photo-patches"):
            assert len(found.load(split)), "embedded: nothing to download"
            continue
        with pytest.raises(MissingDataError) as error:
            found.load(split)
        message = str(error.value)
        assert str(files.data_dir()) in message
        assert "Get it:" in message
        assert "OODBENCH_DATA" in message
        assert name in message
        assert split in message
        assert "{" not in message, "a layout's placeholder was left in"


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def _write_mnist(root: Path) -> dict[str, np.ndarray]:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = {}
    for seed, (split, prefix) in enumerate((("train", "train"), ("test", "t10k"))):
        images[split] = images_of(3, (28, 28), seed)
        labels = np.array([0, 9, 4], np.uint8)
        for kind, array in (("images-idx3", images[split]), ("labels-idx1", labels)):
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(_idx(array))
            (raw / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(_idx(array)))
    return images


def test_torchvisions_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[DATASETS.get("mnist").load.__module__]
    images = _write_mnist(files.data_dir())
    raw = files.data_dir() / "MNIST" / "raw"
    sums = {name: files.sha256(raw / name) for name in module._MNIST_SHA256}
    monkeypatch.setattr(module, "_MNIST_SHA256", sums)
    for split in ("train", "test"):
        samples = DATASETS.get("mnist").load(split)
        assert len(samples.classes) == 10
        assert samples.labels.tolist() == [0, 9, 4]
        assert np.array_equal(np.asarray(samples[1]), images[split][1])
        assert samples[1].mode == "L"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", ["another", "truncated", "gone"])
def test_an_mnist_that_is_not_mnist(split: str, damage: str) -> None:
    _write_mnist(files.data_dir())
    raw = files.data_dir() / "MNIST" / "raw"
    for path in raw.glob("*-images-*ubyte"):
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:100])
        elif damage == "gone":
            path.unlink()
    with pytest.raises(DataError, match=r"mnist.*incomplete or changed") as error:
        DATASETS.get("mnist").load(split)
    assert str(raw) in str(error.value)
    assert "Download it again" in str(error.value)


def test_torchvisions_svhn(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    images = images_of(4)
    files.data_dir().mkdir(parents=True)
    path = files.data_dir() / "test_32x32.mat"
    # SVHN writes its zeros as 10
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array([[1], [10], [3], [2]])})
    with pytest.raises(DataError, match=r"svhn.*incomplete or changed"):
        DATASETS.get("svhn").load("test")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(SVHN, "split_list", {"test": ["", path.name, md5]})
    samples = DATASETS.get("svhn").load("test")
    assert samples.labels.tolist() == [1, 0, 3, 2]
    for i in range(4):
        assert np.array_equal(np.asarray(samples[i]), images[i])
