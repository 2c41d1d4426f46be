"""Surveillance clips: splits by the video that they were cut from, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from oodbench import files
from oodbench.benchmark import get_benchmark
from oodbench.data.recordings import VIDEO
from oodbench.datasets.surveillance import SURVEILLANCE, WEIZMANN, splits_of
from oodbench.errors import DataError, MissingDataError, OptionError

LISTING = "\n".join(
    [
        "https://videos/0", "fi001: 0.13 - 0.15", "nofi001: 1.00 - 1.02",
        "https://videos/1", "fi002: 0.10 - 0.12",
        "https://videos/2", "fi003: 0.1 - 0.3", "nofi002: 0.20 - 0.22",
        "https://videos/3", "", "fi004: 0.1 - 0.3",
        "https://videos/4", "nofi003: 0.1 - 0.3", "fi005: 0.1 - 0.3",
        "nofi062 - nofi076 : another dataset",
    ]
)  # fmt: skip


@pytest.fixture
def root() -> Iterator[Path]:
    """The publishers' layout, with empty files: a clip is opened when it is seen."""
    root = files.data_dir() / "fight-detection-surv-dataset"
    for name, stem in (("fight", "fi"), ("noFight", "nofi")):
        (root / name).mkdir(parents=True)
        for number in range(1, 151):
            (root / name / f"{stem}{number:03d}.mp4").touch()
    (root / "videos.txt").write_text(LISTING, encoding="utf-8")
    yield root
    shutil.rmtree(root)


def test_no_video_is_in_two_splits() -> None:
    assert splits_of(LISTING) == {
        "fi001": "train", "nofi001": "train", "fi002": "train", "fi003": "test",
        "nofi002": "test", "fi004": "train", "nofi003": "val", "fi005": "val",
    }  # fmt: skip


def test_splits_hold_each_clip_once(root: Path) -> None:
    splits = {split: SURVEILLANCE.load(split) for split in SURVEILLANCE.splits}
    assert {split: len(samples) for split, samples in splits.items()} == {
        "train": 296, "val": 2, "test": 2,
    }  # fmt: skip
    assert splits["test"].paths == ["fight/fi003.mp4", "noFight/nofi002.mp4"]  # type: ignore[attr-defined]
    assert splits["test"].labels.tolist() == [0, 1]
    assert list(splits["val"].classes) == ["fight", "noFight"]
    assert set(splits["test"][0]) == {VIDEO}


def test_what_is_missing_or_not_whole(root: Path) -> None:
    (root / "fight" / "fi001.mp4").unlink()
    with pytest.raises(DataError, match=r"300 clips, and .* has 299"):
        SURVEILLANCE.load("train")
    (root / "videos.txt").unlink()
    with pytest.raises(DataError, match="which clips are of one video"):
        SURVEILLANCE.load("train")
    with pytest.raises(OptionError, match="train, val and test"):
        SURVEILLANCE.load("all")
    with pytest.raises(MissingDataError, match="weizmann4"):
        WEIZMANN.load("test")
    with pytest.raises(OptionError, match="split test"):
        WEIZMANN.load("train")


def test_nothing_there_says_where_to_get_it() -> None:
    with pytest.raises(MissingDataError, match=r"git clone https://github\.com/seymanurakti"):
        SURVEILLANCE.load("train")


def test_actions_by_folder(tmp_path: Path) -> None:
    root = files.data_dir() / "weizmann4"
    for action in ("bend", "jumping_jack"):
        (root / action).mkdir(parents=True)
        (root / action / "00000006.mp4").touch()
    assert len(WEIZMANN.load("test")) == 2
    shutil.rmtree(root)


def test_benchmark() -> None:
    benchmark = get_benchmark("surveillance")
    assert benchmark.task == "multimodal"
    assert [spec.name for spec in benchmark.far] == ["weizmann-actions"]
    assert any("36 OOD clips" in text for text in benchmark.remarks)
