"""The preparation of MultiOOD: lists are fetched, what is missing is told, and it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from oodbench import files
from oodbench.datasets.multiood import prepare as preparing
from oodbench.datasets.multiood.prepare import prepare
from oodbench.datasets.multiood.splits import SPLIT_FILES, read_split, split_path, split_url
from oodbench.download.prepare import prepare as prepare_sets
from oodbench.download.wanted import of_dataset
from oodbench.errors import (
    DownloadError,
    MissingDataError,
    NoNetworkError,
    OptionError,
    StorageError,
)
from oodbench.needed import obtainable
from tests.helpers.downloads import QUICK
from tests.helpers.multiood import ALL_SETS, Shift, address, fill
from tests.helpers.publisher import Publisher
from tests.helpers.video import write_clip

pytest.importorskip("av")
pytest.importorskip("soundfile")


def asked_for(publisher: Publisher) -> list[str]:
    """What it was asked for since the last time."""
    paths = sorted(one.path for one in publisher.asked)
    publisher.asked.clear()
    return paths


def test_lists_are_fetched_once(base: Path, published: Publisher) -> None:
    lines: list[str] = []
    counts = prepare(files.data_dir(), lines.append)
    assert asked_for(published) == sorted(map(address, SPLIT_FILES))
    assert len(read_split(base, "HAC_test_only_human.csv")) == 1
    assert lines[0] == "split files: 34 fetched"
    assert counts["HMDB51 video"] == 1
    assert counts["EPIC-KITCHENS flow"] == 2
    changed = base / split_path("HMDB_val.txt")
    changed.write_bytes(b"other")
    prepare(files.data_dir())
    assert asked_for(published) == [address("HMDB_val.txt")]
    prepare(files.data_dir(), lines.append)
    assert asked_for(published) == []
    assert "split files: all 34 are there" in lines


def test_offline(base: Path, published: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(SPLIT_FILES)[3:]:
        del published.files[address(name)]
    with pytest.raises(DownloadError) as error:
        prepare(files.data_dir(), patience=QUICK)
    message = str(error.value)
    assert "404" in message
    assert "put these 31 files there" in message
    there = [name for name in SPLIT_FILES if (base / split_path(name)).exists()]
    assert len(there) == 3
    for name in SPLIT_FILES:
        assert (f"{base / split_path(name)}\n" in message) == (name not in there)
        assert (f"from {split_url(name)}" in message) == (name not in there)
    monkeypatch.setenv("OODBENCH_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(NoNetworkError, match="put these 31 files there"):
        prepare(files.data_dir(), patience=QUICK)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"<html>log in</html>", "a web page"), (b"other", "not the published file")],
)
def test_what_is_fetched_is_verified(
    base: Path, published: Publisher, content: bytes, told: str
) -> None:
    for name in SPLIT_FILES:
        published.put(address(name), content)
    with pytest.raises(DownloadError, match=told):
        prepare(files.data_dir(), patience=QUICK)
    assert [path for path in base.rglob("*.*") if path.is_file() and "lock" not in path.name] == []


def test_what_a_person_has_to_get_is_told(published: Publisher) -> None:
    """By the names of the sets as well, and never as something that could be fetched."""
    with pytest.raises(MissingDataError) as error:
        prepare_sets("multiood-hmdb51", report=lambda _: None)
    message = str(error.value)
    assert f"has to be got by hand, below {files.data_dir()}. 1. Run `oodbench data" in message
    assert "2. Get multiood/HMDB51/video/<class>/*.avi from hmdb51_org.rar of https" in message
    assert not obtainable(of_dataset(ALL_SETS["multiood-hmdb51"]))
    assert asked_for(published) == []


def test_what_is_missing_is_listed(base: Path, published: Publisher) -> None:
    fill(base, "HMDB51/video/sit/a.b.avi", "HMDB51/flow/a_flow_x.mp4")
    fill(base, "EPIC-KITCHENS/rgb/train/D3/P22_05/frame_0000000001.jpg")
    lines: list[str] = []
    counts = prepare(files.data_dir(), lines.append, audio=False)
    assert counts == {
        "HMDB51 video": 0,
        "HMDB51 flow": 1,
        "UCF101 video": 1,
        "UCF101 flow": 2,
        "Kinetics-600 video": 2,
        "Kinetics-600 audio": 2,
        "Kinetics-600 flow": 4,
        "HAC video": 3,
        "HAC flow": 6,
        "EPIC-KITCHENS video": 1,
        "EPIC-KITCHENS audio": 1,
        "EPIC-KITCHENS flow": 2,
    }
    text = "\n".join(lines)
    assert "HMDB51 video: complete" in text
    assert "HMDB51 flow: 1 of 2 files missing: HMDB51/flow/a_flow_y.mp4" in text
    assert "UCF101.rar" in text
    assert "kinetics600_flow_mp4_part_*" in text
    listed = (base / preparing.MISSING).read_text().splitlines()
    assert "HMDB51/flow/a_flow_y.mp4" in listed
    assert "EPIC-KITCHENS/rgb/train/D3/P22_05/frame_0000000002.jpg" in listed
    assert "UCF101/ (flow, 2 files)" in listed


def test_sound_is_taken_from_videos(base: Path, published: Publisher) -> None:
    folder = base / "Kinetics-600/video/a b"
    write_clip(folder / "loud.mp4", channels=2)
    write_clip(folder / "silent.mp4")
    lines: list[str] = []
    counts = prepare(files.data_dir(), lines.append)
    assert counts["Kinetics-600 audio"] == 1
    text = "\n".join(lines)
    assert "Kinetics-600: 1 recordings taken from videos" in text
    assert f"{folder / 'silent.mp4'} has no sound" in text
    made = (folder / "loud.wav").stat().st_mtime_ns
    prepare(files.data_dir())
    assert (folder / "loud.wav").stat().st_mtime_ns == made


def test_preparation_goes_on_where_it_was(base: Path, published: Publisher) -> None:
    write_clip(base / "HMDB51/video/sit/a.b.avi")
    write_clip(base / "UCF101/video/v_YoYo_g01_c01.avi")
    fill(base, "UCF101/flow/v_YoYo_g01_c01_flow_x.mp4")
    write_clip(base / "HAC/cartoon/videos/drinking_54 .mp4")
    fill(base, "HAC/human/videos/drinking_54 .mp4")
    root = files.data_dir()
    with pytest.raises(KeyboardInterrupt):
        prepare(root, flow=Shift(1, 1, after=1), batch=4)
    flows = lambda: sorted(p.relative_to(base).as_posix() for p in base.rglob("*flow_*"))
    hmdb = ["HMDB51/flow/a_flow_x.mp4", "HMDB51/flow/a_flow_y.mp4"]
    assert flows() == [*hmdb, "UCF101/flow/v_YoYo_g01_c01_flow_x.mp4"], "no part of a file is left"
    network, lines = Shift(1, 1), []
    counts = prepare(root, lines.append, flow=network, batch=4)
    assert len(network.sizes) == 2, "what was there was not made again"
    assert flows() == [
        "HAC/cartoon/flow/drinking_54 _flow_x.mp4",
        "HAC/cartoon/flow/drinking_54 _flow_y.mp4",
        *hmdb,
        "UCF101/flow/v_YoYo_g01_c01_flow_x.mp4",
        "UCF101/flow/v_YoYo_g01_c01_flow_y.mp4",
    ]
    assert (counts["HMDB51 flow"], counts["UCF101 flow"], counts["HAC flow"]) == (0, 0, 4)
    text = "\n".join(lines)
    assert "not the published one" in text
    assert "HAC: no flow of 1 videos; the first: cannot read the video" in text


def test_raft_only_where_asked_for(published: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import optical_flow

    asked = []

    def build(weights: Any) -> nn.Module:
        asked.append(weights)
        return Shift(0, 0)

    monkeypatch.setattr(optical_flow, "raft_small", build)
    prepare(files.data_dir())
    assert asked == []
    prepare(files.data_dir(), flow="small")
    assert asked == ["DEFAULT"]
    with pytest.raises(OptionError, match="'small', 'large' or a network"):
        prepare(files.data_dir(), flow="huge")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="batch"):
        prepare(files.data_dir(), batch=0)


def test_a_folder_that_cannot_be_written(base: Path) -> None:
    base.parent.mkdir(parents=True)
    base.write_text("a file in the folder's place")
    with pytest.raises(StorageError, match="OODBENCH_DATA"):
        prepare(files.data_dir())
