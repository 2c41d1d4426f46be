"""MultiOOD's split files and their quirks, which are read as they were published."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from oodbench.datasets.multiood.layouts import LAYOUTS
from oodbench.datasets.multiood.samples import ListedClips
from oodbench.datasets.multiood.splits import SPLIT_FILES, Clip, read_split, split_path, split_url
from oodbench.errors import DataError, MissingDataError
from tests.helpers.multiood import ALL_SETS


def test_all_lists_are_pinned() -> None:
    named = set()
    for spec in ALL_SETS.values():
        load = spec.load
        assert isinstance(load, ListedClips)
        names = {name for listed in load.lists.values() for name in listed}
        assert names <= set(LAYOUTS[load.layout].listed_in())
        named |= names
    assert named == set(SPLIT_FILES)
    each = [name for place in LAYOUTS.values() for name in place.listed_in()]
    assert sorted(each) == sorted(SPLIT_FILES), "a split file is of one dataset"
    assert all(len(found) == 64 and int(found, 16) for found in SPLIT_FILES.values())
    assert split_url("D3_test.pkl") == (
        "https://raw.githubusercontent.com/donghao51/MultiOOD/"
        "ab7b221e42a598dada7fb702c08dcb4292610d8e/EPIC-rgb-flow/splits/D3_test.pkl"
    )
    assert split_path("HAC_test_only_human.csv") == "HMDB-rgb-flow/splits/HAC_test_only_human.csv"


@pytest.mark.parametrize("end", ["", "\n"])
def test_text_is_parted_at_the_last_space(base: Path, put: Any, end: str) -> None:
    put("Kinetics_test.txt", f"acting in play/a b_1.mp4 0\nyoga/it's #1!.mp4 227{end}".encode())
    assert read_split(base, "Kinetics_test.txt") == [
        Clip("acting in play/a b_1.mp4", 0),
        Clip("yoga/it's #1!.mp4", 227),
    ]


def test_csv_has_dos_lines_and_spaces_in_names(base: Path, put: Any) -> None:
    put("HAC_train_only_cartoon.csv", b"drinking_54 .mp4,3\r\nrunning_1.mp4,5\r\n")
    assert read_split(base, "HAC_train_only_cartoon.csv") == [
        Clip("cartoon/drinking_54 .mp4", 3),
        Clip("cartoon/running_1.mp4", 5),
    ]


def test_pickle_of_plain_values(base: Path, put: Any) -> None:
    rows = [("P22_10", 18940, 19042, "00:05:15.67", "01:05:17.37", 0)]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        put("D3_test.pkl", pickle.dumps(rows, protocol))
        found = read_split(base, "D3_test.pkl")
        assert found == [Clip("P22_10", 0, 18940, 19042, 315.67, pytest.approx(3917.37))]


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_runs_no_code(base: Path, put: Any, tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "ran"
    put("D3_test.pkl", pickle.dumps([Malicious(trace)], protocol))
    with pytest.raises(DataError, match=r"D3_test\.pkl is refused: it names .* would run code"):
        read_split(base, "D3_test.pkl")
    assert not trace.exists()


def test_changed_lists_are_not_read(base: Path, put: Any, tmp_path: Path) -> None:
    path = put("D3_test.pkl", pickle.dumps([]))
    path.write_bytes(pickle.dumps([Malicious(tmp_path / "ran")]))
    with pytest.raises(DataError, match=r"not the file of MultiOOD's commit ab7b221.*https://"):
        read_split(base, "D3_test.pkl")
    path.unlink()
    with pytest.raises(MissingDataError, match="there is no"):
        read_split(base, "D3_test.pkl")
    path.mkdir()
    with pytest.raises(DataError, match="cannot read"):
        read_split(base, "D3_test.pkl")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("HMDB_val.txt", b"no_label.avi"),
        ("HMDB_val.txt", b"a/b.avi one"),
        ("HMDB_val.txt", b"\xff 1"),
        ("HAC_test_only_human.csv", b"a.mp4,1,2"),
        ("D3_val.pkl", b""),
        ("D3_val.pkl", pickle.dumps([("P22_10", 1, 2)])),
        ("D3_val.pkl", pickle.dumps([("P22_10", 1, 2, 3, 4, 0)])),
        ("D3_val.pkl", pickle.dumps(7)),
        ("D3_val.pkl", b"rubbish"),
    ],
)
def test_rubbish_in_lists(base: Path, put: Any, name: str, content: bytes) -> None:
    put(name, content)
    with pytest.raises(DataError, match=name):
        read_split(base, name)
