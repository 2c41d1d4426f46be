"""A folder is whole or not there, and what was changed in it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from oodbench import files
from oodbench.deploy import folder
from oodbench.errors import FittedError, StorageError

TENSORS = {"a": {"x": torch.arange(8.0)}, "b": {"y": torch.ones(2, 2, dtype=torch.bool)}}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder.write(tmp_path / "it", {"words": "as they are"}, TENSORS)
    return tmp_path / "it"


def test_what_is_written_is_read(written: Path) -> None:
    about = folder.read_about(written)
    assert about["words"] == "as they are"
    for part, tensors in TENSORS.items():
        read = folder.read_part(written, about, part)
        assert {name: value.tolist() for name, value in read.items()} == {
            name: value.tolist() for name, value in tensors.items()
        }
    assert sorted(path.name for path in written.iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "detector.json",
    ]
    assert [path.name for path in written.parent.iterdir()] == ["it"]


def cut_tensors(path: Path) -> None:
    file = path / "a.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def change_tensors(path: Path) -> None:
    file = path / "a.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def swap(path: Path) -> None:
    other = path.with_name("other")
    folder.write(other, {}, {"a": {"x": torch.zeros(8)}})
    shutil.copy(other / "a.safetensors", path / "a.safetensors")


def lose(path: Path) -> None:
    (path / "a.safetensors").unlink()


def edit(path: Path) -> None:
    file = path / "detector.json"
    file.write_text(file.read_text().replace("as they are", "as I like"))


def cut_json(path: Path) -> None:
    file = path / "detector.json"
    file.write_text(file.read_text()[:-20])


def other_json(path: Path) -> None:
    (path / "detector.json").write_text('[{"format": 1}]')


@pytest.mark.parametrize(
    "change", [cut_tensors, change_tensors, swap, lose, edit, cut_json, other_json]
)
def test_a_changed_folder_is_refused(written: Path, change: Callable[[Path], None]) -> None:
    change(written)
    with pytest.raises(FittedError, match="is damaged"):
        folder.read_part(written, folder.read_about(written), "a")


def test_a_later_format_is_told(written: Path) -> None:
    file = written / "detector.json"
    content = json.loads(file.read_text())
    del content["sha256"]
    content["format"] = folder.FORMAT + 1
    file.write_text(json.dumps({**content, "sha256": files.digest(content)}))
    with pytest.raises(FittedError, match="later version"):
        folder.read_about(written)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FittedError, match="no fitted detector in"):
        folder.read_about(tmp_path)


def test_nothing_is_lost(written: Path) -> None:
    with pytest.raises(StorageError, match="already"):
        folder.write(written, {}, {})
    folder.write(written, {"words": "new"}, {}, replace=True)
    assert folder.read_about(written)["words"] == "new"
    assert [path.name for path in written.iterdir()] == ["detector.json"]
    mine = written.with_name("thesis")
    mine.mkdir()
    (mine / "chapter.txt").write_text("years")
    with pytest.raises(StorageError, match="no fitted detector"):
        folder.write(mine, {}, {}, replace=True)
    assert (mine / "chapter.txt").read_text() == "years"


def test_a_failure_leaves_the_old_one(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "save_file", full)
    with pytest.raises(StorageError):
        folder.write(written, {}, TENSORS, replace=True)
    assert folder.read_about(written)["words"] == "as they are"
    assert [path.name for path in written.parent.iterdir()] == ["it"]
