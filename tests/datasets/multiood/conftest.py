"""MultiOOD's folder, and split files in it or on a mirror."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oodbench import files
from oodbench.datasets.multiood.layouts import FOLDER
from oodbench.datasets.multiood.splits import SPLIT_FILES, split_path
from tests.helpers.multiood import publish
from tests.helpers.publisher import Publisher, publishing


@pytest.fixture
def base() -> Path:
    """MultiOOD's folder in the data folder; it is not made."""
    return files.data_dir() / FOLDER


@pytest.fixture
def put(base: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes | list[str]], Path]:
    """Writes a split file, and has its sum taken for the published one."""

    def write(name: str, content: bytes | list[str]) -> Path:
        if isinstance(content, list):
            content = "\n".join(content).encode()
        monkeypatch.setitem(SPLIT_FILES, name, hashlib.sha256(content).hexdigest())
        path = base / split_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """Small split files under all names, on a mirror."""
    with publishing() as publisher:
        monkeypatch.setenv("OODBENCH_MIRROR", publisher.base)
        for name in SPLIT_FILES:
            if name.startswith("D3"):
                content = pickle.dumps([("P22_05", 1, 3, "00:00:00.0", "00:00:01.0", 0)])
            elif name.startswith("HAC"):
                content = b"drinking_54 .mp4,3\r\n"
            elif "UCF" in name.partition("OOD")[2] or name.startswith("UCF"):
                content = b"v_YoYo_g01_c01.avi 0\n"
            elif "HMDB" in name.partition("OOD")[2] or name.startswith("HMDB"):
                content = b"sit/a.b.avi 0\n"
            else:
                content = b"a b/loud.mp4 0\na b/silent.mp4 0\n"
            publish(publisher, monkeypatch, name, content)
        yield publisher
