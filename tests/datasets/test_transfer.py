"""Sets of transfer learning: their lists, their splits, class folders and parquet files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench import files, get_benchmark
from oodbench.data.samples import content_digest
from oodbench.dataset import resolve_dataset
from oodbench.datasets.transfer import TEN
from oodbench.errors import DataError, MissingDataError, OptionError
from tests.conftest import write_images
from tests.helpers.datasets import images_of, write_parquet
from tests.helpers.transfer import load, picture, reorder, splits, textures

# ID sets: where torchvision unpacks them, a line of a list and its image, lists by split
SPLITS = ("train", "val", "test")

FOOD = {"train": "meta/train.txt", "test": "meta/test.txt"}

PET = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}

LISTS = {
    "dtd": ("dtd/dtd", "{c}/{i}.jpg", "{c}/{i}.jpg", {s: f"labels/{s}1.txt" for s in SPLITS}),
    "food101": ("food-101", "{c}/{i}", "{c}/{i}.jpg", FOOD),
    "pets": ("oxford-iiit-pet", "{c}_{i} 7 1 2", "{c}_{i}.jpg", PET),
}


def unpack(name: str, place: str | None = None) -> Path:
    """As torchvision leaves it: lists, the images in them, and one that is in none."""
    usual, line, image, lists = LISTS[name]
    base = files.data_dir() / (place or usual)
    picture(base / "images" / image.format(c="A_b", i="unlisted"))
    for split, path in lists.items():
        listed = [(c, f"{split}{i}") for i in range(2) for c in ("c-d", "A_b")]
        for c, i in listed:
            picture(base / "images" / image.format(c=c, i=i))
        (base / path).parent.mkdir(exist_ok=True)
        (base / path).write_text("\n".join(line.format(c=c, i=i) for c, i in listed) + "\n\n")
    return base


@pytest.mark.parametrize(
    ("name", "place"), [*((name, LISTS[name][0]) for name in LISTS), ("dtd", "dtd"),
    ("food101", "food101/food-101"), ("pets", "pets/oxford-iiit-pet")],
)  # fmt: skip
def test_lists_say_what_is_in_a_split(name: str, place: str) -> None:
    base, (_, _, image, lists) = unpack(name, place), LISTS[name]
    assert resolve_dataset(name).splits == tuple(lists)
    for split in lists:
        samples = load(name, split)
        assert (samples.name, samples.classes) == (f"{name}/{split}", ("A_b", "c-d"))
        assert samples.labels.tolist() == [1, 0, 1, 0]
        for i, label in enumerate(samples.labels):
            path = image.format(c=samples.classes[label], i=f"{split}{i // 2}")
            assert samples[i].tobytes() == Image.open(base / "images" / path).tobytes()


@pytest.mark.parametrize(
    ("name", "published"), [("dtd", "test"), ("pets", "test"), ("caltech101", "test"),
    ("food101", "validation")],  # ethz/food101 calls the test images so
)  # fmt: skip
def test_class_folders_and_parquet_files(name: str, published: str) -> None:
    root = files.data_dir() / name
    write_images(root / "train", {"b": 3, "A": 1}, size=8)
    shard = root / "data" / f"{published}-00000-of-00001.parquet"
    write_parquet(shard, images_of(2), "image", "label", [1, 0], ["A", "b"])
    for split, labels in (("train", [0, 1, 1, 1]), ("test", [1, 0])):
        samples = load(name, split)
        assert (samples.name, samples.classes) == (f"{name}/{split}", ("A", "b"))
        assert samples.labels.tolist() == labels
    assert samples[1].tobytes() == images_of(2)[1].tobytes()


@pytest.mark.parametrize(
    ("name", "content"), [("dtd", b"A_b/11.jpg\nbanded\n"), ("dtd", b"A_b/\n"), ("dtd", b"\n \n"),
    ("dtd", b"/11.jpg\n"), ("dtd", b"\xff\xfe\x00"), ("food101", b"apple_pie\n"),
    ("pets", b"Abyssinian 1 1 1\n"), ("pets", b"_10 1 1 1\n"), ("pets", b"# Image CLASS-ID\n")],
)  # fmt: skip
def test_a_list_that_is_none_is_named(name: str, content: bytes) -> None:
    path = unpack(name) / LISTS[name][-1]["test"]
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load(name)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("name", "split"), [(n, split) for n in LISTS for split in LISTS[n][-1]])
def test_the_list_that_is_missing_is_named(name: str, split: str) -> None:
    path = LISTS[name][-1][split]
    (unpack(name) / path).unlink()
    with pytest.raises(MissingDataError, match=f"{name}: no {split} images.*download") as error:
        load(name, split)
    assert f"{LISTS[name][0]}/{path}" in str(error.value)


def caltech(place: str = "caltech101") -> Path:
    counts = {"BACKGROUND_Google": 3, "Faces": 34, "accordion": 31}
    return write_images(files.data_dir() / place / "101_ObjectCategories", counts, size=8)


@pytest.mark.parametrize("place", ["caltech101", "caltech-101", "."])
def test_thirty_images_of_each_class_of_caltech_are_for_training(place: str) -> None:
    with pytest.raises(MissingDataError, match="caltech101/101_ObjectCategories"):
        load("caltech101")
    root, counts = caltech(place), {"train": [30, 30], "test": [4, 1]}
    before = splits("caltech101", counts)
    classes = load("caltech101").classes
    assert classes == load("caltech101", "train").classes == ("Faces", "accordion")
    shown = [(i, path) for i, c in enumerate(classes) for path in (root / c).iterdir()]
    assert set.union(*before.values()) == {(i, Image.open(path).tobytes()) for i, path in shown}
    reorder(root)
    assert splits("caltech101", counts) == before


def test_an_image_that_caltech_has_twice_is_in_one_split() -> None:
    """The last training image and the first test image, by digest, are made the same."""
    faces = (caltech() / "Faces").iterdir()
    order = sorted(faces, key=lambda path: content_digest(path.read_bytes()))
    order[30].write_bytes(order[29].read_bytes())
    assert not np.isin(load("caltech101", "train").digests, load("caltech101").digests).any()


def test_half_of_textures10_is_for_training_whatever_the_files() -> None:
    root, counts = textures(), {"train": [20] * 10, "test": [20] * 10}
    before = splits("textures10-halves", counts)
    assert load("textures10-halves").classes == TEN
    assert len(set.union(*before.values())) == 400
    reorder(root)
    assert splits("textures10-halves", counts) == before
    moved = root.rename(files.data_dir() / "moved")
    root.parent.rmdir()
    root = moved.rename(root.parent)  # textures10/<class>, without test
    assert splits("textures10-halves", counts) == before
    (root / "banded").rename(root / "dotted")
    with pytest.raises(DataError, match=r"has the classes banded, blotchy.*not blotchy"):
        load("textures10-halves")


@pytest.mark.parametrize(
    ("name", "make"), [("caltech101", caltech), ("textures10-halves", textures)]
)
def test_there_is_no_val_split_made_of_others(name: str, make: Callable[[], Path]) -> None:
    make()  # what is chosen on must not be tested on, nor unknowingly trained on
    with pytest.raises((DataError, OptionError), match="val"):
        get_benchmark(f"ptood/{name.removesuffix('-halves')}").without_test().id.load("val")
