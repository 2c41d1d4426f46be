"""Logits of a head on features that are kept: in memory, or in a file without a name."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench import Outputs, files
from oodbench.caching import trunks
from oodbench.errors import StorageError
from oodbench.outputs import Head

PARTS = [np.arange(6, dtype=np.float32).reshape(3, 2), np.full((2, 2), 7.5)]
WHOLE = np.concatenate(PARTS).astype(np.float32)


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is put together counts as large."""
    monkeypatch.setattr(trunks, "math", type("M", (), {"prod": staticmethod(Size.of)}))


class Size(int):
    """A number that is beyond every limit."""

    @classmethod
    def of(cls, size: tuple[int, int]) -> Size:
        return cls(math.prod(size))

    def __le__(self, other: object) -> bool:
        return False


def test_a_head_on_kept_features() -> None:
    head = Head(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.5, -1.0]))
    outputs = Outputs(features=torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    found = trunks.headed(outputs, head)
    assert found.logits.tolist() == [[1.5, 2.0], [2.5, 3.0], [3.5, 6.0]]
    assert found.head is head
    assert trunks.headed(outputs, None) is outputs


@pytest.mark.parametrize("is_read_only", [False, True])
def test_many_logits_lie_in_a_file_that_nobody_has_to_remove(
    is_read_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch)
    folder = files.cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    make, asked = trunks.tempfile.TemporaryFile, []

    def temporary(**options: Any) -> Any:
        asked.append(options.get("dir"))
        if is_read_only and options.get("dir"):
            raise OSError(errno.EROFS, "Read-only file system")
        return make(**options)

    monkeypatch.setattr(trunks.tempfile, "TemporaryFile", temporary)
    found = trunks._gathered(iter(PARTS), (5, 2))
    assert isinstance(found, np.memmap)
    assert asked == ([folder, None] if is_read_only else [folder])
    np.testing.assert_array_equal(found, WHOLE)
    found[0] = 9  # whoever changes it has a copy
    assert list(folder.iterdir()) == []


def test_a_disk_that_fills_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    large(monkeypatch)
    files.cache_dir().mkdir(parents=True, exist_ok=True)

    def fills(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def pieces() -> Iterator[np.ndarray]:
        yield from PARTS

    monkeypatch.setattr(trunks.full, "write_all", fills)
    with pytest.raises(StorageError, match="40 bytes are wanted"):
        trunks._gathered(pieces(), (5, 2))
    assert list(Path(files.cache_dir()).iterdir()) == []
