"""Datasets by their names, and image folders as datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oodbench import DatasetSpec, files
from oodbench.data.content import Content
from oodbench.data.samples import ImageArrays
from oodbench.dataset import folder_spec, name_is_there, names_a_folder, resolve_dataset
from oodbench.errors import MissingDataError, UnknownNameError
from oodbench.registry import DATASETS
from tests.conftest import write_images
from tests.helpers.datasets import images_of, spec


@pytest.fixture
def birds() -> Path:
    return write_images(files.data_dir() / "birds", {"jay": 2, "owl": 1})


# By their names


def test_a_registered_name_goes_before_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    one = spec("birds")
    write_images(files.data_dir() / "birds", {"jay": 2})
    assert resolve_dataset("birds") is not one
    monkeypatch.setattr(DATASETS, "_objects", {**DATASETS._objects, "birds": one})
    assert resolve_dataset("birds") is one


def test_a_folder_below_the_data_folder(birds: Path) -> None:
    found = resolve_dataset("birds")
    assert (found.name, found.source) == ("birds", str(birds))
    assert len(found.load("test")) == 3


@pytest.mark.parametrize("name", ["", ".", "..", "birds/jay", "../data/birds", "x:birds"])
def test_no_path_is_a_name(birds: Path, name: str) -> None:
    with pytest.raises(UnknownNameError, match="folder:PATH"):
        resolve_dataset(name)


def test_the_nearest_name_is_told() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'mnist'"):
        resolve_dataset("mnsit")
    with pytest.raises(UnknownNameError, match="Did you mean 'birds'"):
        resolve_dataset("brids", known=["birds", "fish"])
    with pytest.raises(UnknownNameError, match="The benchmark's own are 'birds', 'fish'"):
        resolve_dataset("qqqqqq", known=["birds", "fish"])


def test_a_name_that_wants_an_argument() -> None:
    with pytest.raises(UnknownNameError, match=r"wants an argument: folder:PATH\."):
        resolve_dataset("folder")


# Whether a name is that of a folder


def test_names_of_folders(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names_a_folder("birds")
    assert names_a_folder(f"folder:{birds}")
    assert names_a_folder(f"without:folder:{birds}/jay")  # a name may have another as argument
    for name in ("", "fish", "birds/jay", str(birds), f"folder:{birds}/crow", "folder:", "birds:x"):
        assert not names_a_folder(name), name
    assert not names_a_folder(f"no name:{birds}")
    monkeypatch.setenv("HOME", str(birds.parent))
    monkeypatch.setenv("USERPROFILE", str(birds.parent))
    assert names_a_folder("folder:~/birds")


def test_names_with_a_group(birds: Path) -> None:
    assert name_is_there("birds")
    assert name_is_there("near=birds")
    assert name_is_there(f"near=folder:{birds}")
    assert not name_is_there("near=fish")
    assert not name_is_there("mnist,near=birds")  # two names
    odd = write_images(files.data_dir() / "a=b", {"jay": 1})
    assert name_is_there(odd.name)
    assert name_is_there(f"folder:{odd}")


# Image folders


def test_all_below_a_flat_folder_is_the_test_split(birds: Path) -> None:
    found = folder_spec("mine", birds)
    assert found.splits == ("train", "test")
    samples = found.load("test")
    assert (samples.name, samples.classes, len(samples)) == ("mine/test", ("jay", "owl"), 3)
    with pytest.raises(MissingDataError, match=r"no folder .*train.*one folder per class"):
        found.load("train")


def test_a_test_folder_is_the_test_split(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"jay": 5})
    write_images(tmp_path / "test", {"jay": 2})
    found = folder_spec("mine", tmp_path)
    assert [len(found.load(split)) for split in found.splits] == [5, 2]


def test_an_id_set_is_never_tested_on_its_training_images(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"jay": 5})
    found = folder_spec("mine", tmp_path, flat=False)
    assert found.splits == ("train", "val", "test")
    with pytest.raises(MissingDataError, match="Put the test images there"):
        found.load("test")
    with pytest.raises(MissingDataError, match="hyper-parameters are chosen on its images") as told:
        found.load("val")
    assert f"from {tmp_path / 'train'} to {tmp_path / 'val'}" in str(told.value)
    write_images(tmp_path / "val", {"jay": 1})
    assert len(found.load("val")) == 1


# What was published


def test_what_is_other_than_was_published() -> None:
    samples = ImageArrays("three/test", images_of(3), np.zeros(3, int), ["a"])
    published = DatasetSpec("three", lambda _: samples, contents={"test": Content(3)})
    assert published.difference("test", samples) is None
    assert published.difference("train", samples) is None  # nothing is known of it
    other = DatasetSpec("three", lambda _: samples, contents={"test": Content(1234)})
    told = other.difference("test", samples)
    assert told is not None
    assert "1,234 images expected, found 3" in told


def test_specs_can_be_hashed_and_compared() -> None:
    """They are keys; what maps splits to contents is left out of the hash."""
    one, same = (DatasetSpec("x", len, contents={"test": Content(n)}) for n in (3, 3))
    assert one == same
    assert hash(one) == hash(same)
    assert one != DatasetSpec("x", len, contents={"test": Content(4)})
