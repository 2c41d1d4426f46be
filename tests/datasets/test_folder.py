"""Image folders of any path as OOD sets and as ID sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench import get_benchmark
from oodbench.dataset import resolve_dataset
from oodbench.errors import MissingDataError, OptionError
from tests.conftest import write_images
from tests.helpers.datasets import names, toy

# folder:PATH


def test_folder_as_ood(tmp_path: Path) -> None:
    write_images(tmp_path / "birds", {"jay": 2, "owl": 1})
    chosen = toy().choose([f"folder:{tmp_path}/birds", f"near=folder:{tmp_path}/birds/owl", "f1"])
    assert names(chosen) == [
        (f"folder:{tmp_path}/birds", "far"),
        (f"folder:{tmp_path}/birds/owl", "near"),
        ("f1", "far"),
    ]
    assert [len(one.spec.load("test")) for one in chosen[:2]] == [3, 1]


def test_folder_with_a_test_split_is_that_split(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"jay": 5})
    write_images(tmp_path / "test", {"jay": 2})
    assert len(resolve_dataset(f"folder:{tmp_path}").load("test")) == 2


def test_a_path_may_have_any_sign(tmp_path: Path) -> None:
    root = write_images(tmp_path / "size=8: new", {"a": 1})
    assert names(toy().choose([f"folder:{root}"])) == [(f"folder:{root}", "far")]
    assert names(toy().choose([f"near=folder:{root}"])) == [(f"folder:{root}", "near")]


def test_relative_path_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "birds", {"jay": 2})
    monkeypatch.chdir(tmp_path)
    found = resolve_dataset("folder:birds")
    monkeypatch.chdir("/")
    assert len(found.load("test")) == 2, "the folder is where it was when it was named"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(resolve_dataset("folder:~/birds").load("test")) == 2


def test_folder_as_id(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"jay": 3, "owl": 3})
    write_images(tmp_path / "test", {"jay": 1, "owl": 2})
    found = get_benchmark(f"folder:{tmp_path}")
    assert found.name == f"folder:{tmp_path}"
    assert found.ood == ()
    assert found.preprocess.size == 32
    assert [len(found.id.load(split)) for split in ("train", "test")] == [6, 3]
    assert found.id.load("test").classes == ("jay", "owl")
    assert names(found.choose(["mnist"])) == [("mnist", "far")]
    assert get_benchmark(f"folder:{tmp_path}@64").preprocess.size == 64
    assert len(get_benchmark(f"folder:{tmp_path}@64").id.load("test")) == 3


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_id_folder_without_one_of_its_splits(tmp_path: Path, split: str) -> None:
    """Its other folders must not be taken for the missing split's classes."""
    for there in {"train", "val", "test"} - {split}:
        write_images(tmp_path / there, {"jay": 2, "owl": 2})
    with pytest.raises(MissingDataError) as error:
        get_benchmark(f"folder:{tmp_path}").id.load(split)
    assert str(tmp_path / split) in str(error.value)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    for named in (f"folder:{tmp_path}/none", f"folder:{tmp_path}/none@64"):
        with pytest.raises(MissingDataError, match="none"):
            get_benchmark(named)
    with pytest.raises(OptionError, match="folder:PATH"):
        get_benchmark("folder:")
    write_images(tmp_path / "train", {"a": 1})
    with pytest.raises(OptionError, match="size"):
        get_benchmark(f"folder:{tmp_path}@0")
