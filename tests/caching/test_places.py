"""Folders of the cache that are out of use, also where the system keeps hold of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench import Outputs, Preprocess, files
from oodbench.caching.places import RETIRED, folder_of, retire, sweep
from oodbench.data.samples import ImageArrays
from oodbench.errors import OODBenchWarning, StorageError
from oodbench.extract import extract, extracted
from oodbench.hardware import Hardware

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
GREY = Preprocess(4, (0.0,), (1.0,), mode="L")


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Folders with arrays can be neither renamed nor their arrays removed, as if all were mapped.

    Names in the set that is given may be removed again.
    """
    let_go: set[str] = set()
    rename, unlink = Path.rename, Path.unlink

    def renamed(self: Path, target: Any) -> Path:
        if self.is_dir() and any(map(is_mapped, self.iterdir())):
            raise PermissionError(13, "Access is denied", str(self))
        return rename(self, target)

    def is_mapped(path: Path) -> bool:
        return path.suffix == ".npy" and path.parent.name not in let_go

    def unlinked(self: Path, missing_ok: bool = False) -> None:
        if is_mapped(self) and self.exists():
            raise PermissionError(13, "Access is denied", str(self))
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "unlink", unlinked)
    return let_go


def samples(n: int = 12) -> ImageArrays:
    pixels = np.arange(n * 16, dtype=np.uint8).reshape(n, 4, 4)
    return ImageArrays("few", pixels, np.arange(n) % 2, ("a", "b"))


class Reads(nn.Module):
    """Its outputs hang on a file, which no reading of its code tells."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.layer, self.file = nn.Linear(16, 2), str(file)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)) + float(Path(self.file).read_text())


def folders() -> list[str]:
    return sorted(p.name for p in (files.cache_dir() / "outputs").iterdir())


def test_outputs_that_changed_lie_beside_those_that_are_mapped(
    windows: set[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    file = tmp_path / "shift"
    file.write_text("0")
    network, seen = Reads(file), []
    first = extract(network, samples(), GREY, hardware=CPU)
    before = first.logits.clone()
    (key,) = folders()
    file.write_text("5")
    with pytest.warns(OODBenchWarning, match="gives other outputs"):
        second = extract(network, samples(), GREY, hardware=CPU, on_forward=seen.append)
    assert torch.allclose(second.logits, before + 5)
    assert torch.equal(first.logits, before), "who reads the old ones still does"
    assert folders() == [key, f"{key}-1"]
    assert not (files.cache_dir() / "outputs" / key / "outputs.json").exists()
    again = extract(network, samples(), GREY, hardware=CPU, on_forward=seen.append)
    assert torch.equal(again.logits, second.logits)
    assert seen == [12], "found where it was written"
    cached = extracted(network, samples(), GREY, hardware=CPU)
    assert cached is not None
    windows.add(key)
    sweep(key)
    assert [p.name for p in (files.cache_dir() / "outputs" / key).iterdir()] == [RETIRED]
    assert folder_of(key).name == f"{key}-1"


def test_damaged_outputs_that_are_mapped_are_made_again(windows: set[str]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    first = extract(network, samples(), GREY, hardware=CPU)
    (key,) = folders()
    path = files.cache_dir() / "outputs" / key / "labels.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(OODBenchWarning, match="made again"):
        again = extract(network, samples(), GREY, hardware=CPU)
    assert torch.equal(again.logits, first.logits)
    assert again.labels.tolist() == samples().labels.tolist()
    assert folders() == [key, f"{key}-1"]


def test_where_nothing_is_mapped_nothing_is_left(tmp_path: Path) -> None:
    folder = folder_of("some")
    Outputs(torch.zeros(3, 2)).save(folder)
    retire(folder)
    retire(folder)  # somebody was quicker
    assert folders() == []
    assert folder_of("some") == folder


def test_a_folder_that_cannot_be_written_to_is_told(
    windows: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of("some")
    Outputs(torch.zeros(3, 2)).save(folder)

    def refused(path: Path, content: bytes) -> None:
        raise StorageError(f"cannot write to {path}")

    monkeypatch.setattr(files, "write_bytes", refused)
    with pytest.raises(StorageError, match="cannot write to"):
        retire(folder)
    assert Outputs.load(folder).features.shape == (3, 2)


def test_a_folder_that_cannot_be_renamed_is_emptied_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "key"
    folder.mkdir()
    for name in ("outputs.json", "logits.npy", "labels.npy"):
        (folder / name).write_text("x")

    def refused(self: Path, target: Any) -> Path:
        raise PermissionError(13, "Access is denied", str(self))

    monkeypatch.setattr(Path, "rename", refused)
    monkeypatch.setattr(files, "write_bytes", lambda path, content: path.write_bytes(content))
    retire(folder)
    assert [path.name for path in folder.iterdir()] == [RETIRED]


def test_a_folder_that_is_gone_is_out_of_use(tmp_path: Path) -> None:
    retire(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []
