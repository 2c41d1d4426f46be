"""What was counted is told again as long as nothing in the data folder has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from oodbench import files, stock
from oodbench.registry import DATASETS
from oodbench.stock import SplitStock, Stock, look, remember, remembered
from tests.helpers.datasets import spec

BIRDS = Stock(
    "birds",
    "dataset",
    (
        SplitStock("birds", "train", "ID", to_fetch=9, command="oodbench data prepare birds"),
        SplitStock("birds", "test", "ID", 3, 4, "ab", "cd", "not as published", 300),
    ),
    "oodbench data prepare birds",
    9,
)


@pytest.fixture
def folder() -> Path:
    """A folder of a few files, and another of many."""
    few = files.data_dir() / "birds"
    many = files.data_dir() / "fish" / "test"
    for place, count in ((few, 3), (many, 65)):
        place.mkdir(parents=True)
        for number in range(count):
            (place / f"{number}.png").write_bytes(b"image")
    old = 1_000_000_000_000_000_000  # so that a change is later, however coarse the clock
    for path in (*files.data_dir().rglob("*"), files.data_dir()):
        os.utime(path, ns=(old, old))
    return few


@pytest.fixture
def kept(folder: Path) -> Path:
    remember(BIRDS, look(), is_checked=False)
    assert remembered("birds", is_checked=False) == BIRDS
    return folder


def test_nothing_is_remembered_at_first() -> None:
    assert remembered("birds", is_checked=False) is None


def test_what_was_counted_is_told_again(kept: Path) -> None:
    assert remembered("fish", is_checked=False) is None
    assert remembered("birds", is_checked=True) is None, "contents were not compared"
    checked = Stock("birds", "dataset")
    remember(checked, look(), is_checked=True)
    assert remembered("birds", is_checked=True) == checked
    assert remembered("birds", is_checked=False) == BIRDS


def test_folders_and_the_files_of_small_ones_are_looked_at(folder: Path) -> None:
    seen = look()
    root = files.data_dir()
    assert set(seen["folders"]) == {
        str(path) for path in (root, folder, root / "fish", root / "fish" / "test")
    }
    assert set(seen["looked_at"]) == {str(folder / f"{number}.png") for number in range(3)}
    assert seen["looked_at"][str(folder / "0.png")] == [5, 1_000_000_000_000_000_000]


def test_there_need_be_no_data_folder() -> None:
    seen = look()
    assert seen == {"folders": {}, "looked_at": {}}
    assert not files.data_dir().exists()


def grow(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"image")


def shrink(folder: Path) -> None:
    (folder / "0.png").unlink()


def rename(folder: Path) -> None:
    (folder / "0.png").rename(folder / "9.png")


def write(folder: Path) -> None:
    (folder / "0.png").write_bytes(b"other")


def write_with_its_time(folder: Path) -> None:
    """A copy that keeps times: its size tells."""
    path = folder / "0.png"
    time = path.stat().st_mtime_ns
    path.write_bytes(b"longer")
    os.utime(path, ns=(time, time))


def remove_from_many(folder: Path) -> None:
    (folder.parent / "fish" / "test" / "7.png").unlink()


def another_set(folder: Path) -> None:
    (folder.parent / "cats").mkdir()


def deeper(folder: Path) -> None:
    (folder / "new").mkdir()


@pytest.mark.parametrize(
    "change",
    [grow, shrink, rename, write, write_with_its_time, remove_from_many, another_set, deeper],
    ids=lambda change: change.__name__,
)
def test_a_change_is_noticed(kept: Path, change) -> None:
    change(kept)
    assert remembered("birds", is_checked=False) is None


def test_a_data_folder_that_is_gone_is_noticed(kept: Path) -> None:
    files.data_dir().rename(files.data_dir().with_name("elsewhere"))
    assert remembered("birds", is_checked=False) is None


def test_another_data_folder_is_another(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_DATA", str(kept))
    assert remembered("birds", is_checked=False) is None


def test_another_set_of_known_names_is_noticed(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that was installed may bring the dataset that could not be read."""
    monkeypatch.setattr(DATASETS, "_objects", {**DATASETS._objects, "brought": spec("brought")})
    assert remembered("birds", is_checked=False) is None


def test_another_version_counts_anew(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "VERSION", stock.VERSION + 1)
    assert remembered("birds", is_checked=False) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: {},
        lambda kept: [],
        lambda kept: {**kept, "stock": {}},
        lambda kept: {**kept, "stock": {**kept["stock"], "odd": 1}},
        lambda kept: {**kept, "stock": {**kept["stock"], "splits": [{"odd": 1}]}},
        lambda kept: {**kept, "seen": 3},
        lambda kept: {**kept, "seen": {"folders": []}},
        lambda kept: {**kept, "seen": {}},
    ],
)
def test_a_damaged_memory_is_none(kept: Path, damage) -> None:
    (memo,) = (files.cache_dir() / "stock").glob("*.json")
    memo.write_text(json.dumps(damage(json.loads(memo.read_text()))))
    assert remembered("birds", is_checked=False) is None
    memo.write_text("{")
    assert remembered("birds", is_checked=False) is None


def test_for_json() -> None:
    told = json.loads(json.dumps(BIRDS.to_dict()))
    assert told["name"] == "birds"
    assert told["splits"][1]["count"] == 3
    assert told["splits"][0]["count"] is None
