"""What a sample's digest is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oodbench.data.audio import AudioFile
from oodbench.data.described import content_of
from oodbench.data.samples import Samples
from oodbench.errors import DataError


def test_other_samples_have_other_contents(tmp_path: Path) -> None:
    zeros = np.zeros((2, 3), np.float32)
    one, two = tmp_path / "one.wav", tmp_path / "two.wav"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    samples: list[Any] = [
        zeros, zeros.T, zeros.astype(np.int32), zeros + 1,
        0, 0.0, False, None, "0", b"0", "", [], {},
        Image.new("L", (2, 3)), Image.new("L", (3, 2)), Image.new("RGB", (2, 3)), one, two,
        {"a": 1}, {"b": 1}, {"a": 2}, {"a": {"a": 1}}, ["ab", "c"], ["a", "bc"], [["a"], "bc"],
        AudioFile(one), AudioFile(two), AudioFile(one, 0.5),
    ]  # fmt: skip
    contents = [content_of(sample) for sample in samples]
    assert len(set(contents)) == len(contents)


def test_the_same_samples_have_the_same(tmp_path: Path) -> None:
    a = {"x": np.arange(6).reshape(2, 3)[:, ::-1], "y": Image.new("L", (2, 2))}
    b = {"y": Image.new("L", (2, 2)), "x": np.arange(6).reshape(2, 3)[:, ::-1].copy()}
    assert content_of(a) == content_of(b)
    assert content_of(torch.arange(3)) == content_of(np.arange(3))
    for name in ("one.wav", "two.wav"):
        (tmp_path / name).write_bytes(b"same")
    assert content_of(AudioFile(tmp_path / "one.wav")) == content_of(
        AudioFile(tmp_path / "two.wav")
    )


@pytest.mark.parametrize("sample", [object(), np.array([object()]), Path("nowhere.png")])
def test_what_says_nothing_is_refused(sample: Any) -> None:
    with pytest.raises(DataError):
        content_of({"it": sample})


class Mine(Samples):
    def __init__(self, values: list[Any]) -> None:
        super().__init__("mine", [0] * len(values), ["all"])
        self.values = values

    def __getitem__(self, index: int) -> Any:
        return self.values[index]


def test_samples_of_ones_own_need_no_more() -> None:
    samples = Mine([np.zeros(2), np.ones(2), np.zeros(2)])
    assert samples.digests.dtype == np.uint64
    assert samples.digests[0] == samples.digests[2] != samples.digests[1]
    assert samples.fingerprint == Mine([np.zeros(2), np.ones(2), np.zeros(2)]).fingerprint
    with pytest.raises(DataError, match=r"Override content\(index\)"):
        _ = Mine([object()]).digests
