"""A cache that is warm and cannot be written to: everything is read from it, nothing is written."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import oodbench
from oodbench import Hardware, files
from tests.conftest import write_images
from tests.helpers.attempts import Server


class Own(nn.Module):
    """A network with a user's code, which is looked at again before the cache is believed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(64, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.flatten(1))


def figures(folder: Path) -> list[float]:
    """A given network, one that is trained, and one on images that are files."""
    hardware = Hardware(accelerator="cpu")
    torch.manual_seed(0)
    known = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, 2))
    results = oodbench.evaluate(
        Own(), "digits", ["msp", "knn"], hardware=hardware, preprocess="benchmark"
    )
    results += oodbench.evaluate(
        None, "digits", ["msp"], recipe_options={"epochs": 1}, hardware=hardware
    )
    results += oodbench.evaluate(
        known,
        f"folder:{folder}/id",
        ["knn"],
        ood=[f"folder:{folder}/ood"],
        hardware=hardware,
        preprocess="benchmark",
    )
    assert not results.failures
    return [row["auroc"] for row in results]


def read_only(root: Path) -> None:
    """From now on this process can write nothing below a folder, whoever it belongs to."""

    def hook(event: str, args: tuple[object, ...]) -> None:
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.truncate")
        if event == "open" and isinstance(args[2], int):
            writes = bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        below = any(isinstance(a, str | os.PathLike) and str(root) in os.fspath(a) for a in args)
        if writes and below:
            raise OSError(errno.EROFS, "Read-only file system", str(args[0]))

    sys.addaudithook(hook)


def again(folder: str, expected: str) -> None:
    """What the other process does."""
    read_only(files.cache_dir())
    with pytest.raises(OSError, match="Read-only"):
        (files.cache_dir() / "x").touch()
    assert repr(figures(Path(folder))) == expected


def test_a_warm_cache_is_enough(server: Server, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / "id" / split, {"a": 60, "b": 60}, seed=len(split))
    write_images(tmp_path / "ood", {"c": 20}, seed=9)
    expected = figures(tmp_path)
    server.run(f"{__name__}:again", str(tmp_path), repr(expected), cache=files.cache_dir())
