"""Pictures of what was scored: their colours, their bounds, and files that are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oodbench import Outputs
from oodbench.data.samples import OOD, VOID
from oodbench.tasks.pictures import (
    MOST_BYTES,
    SCALE,
    SIDE,
    class_colours,
    heat,
    save_picture,
    with_scale,
)
from oodbench.tasks.pixels import PixelOutputs, picture
from tests.helpers.pixels import evaluate


def test_heat_by_hand() -> None:
    scores = np.array([[-3.0, -1.0, 1.0, 5.0], [-2.0, 3.0, -3.0, 5.0]])
    found = heat(scores)
    assert found.shape == (2, 4, 3)
    assert found.dtype == np.uint8
    assert found[0].tolist() == [[0, 0, 4], [87, 16, 110], [188, 55, 84], [252, 255, 164]]
    assert found[1].tolist() == [[33, 12, 74], [249, 140, 10], [0, 0, 4], [252, 255, 164]]
    assert np.array_equal(heat(1e12 * scores - 7e12), found), "scale and origin do not matter"
    assert np.array_equal(heat(np.full((2, 3), 4.2)), np.full((2, 3, 3), [0, 0, 4]))


def test_heat_is_inferno() -> None:
    """Which is perceptually uniform; between the colours that are given it is off by 7 of 255."""
    colours = pytest.importorskip("matplotlib").colormaps["inferno"](np.arange(256))[:, :3]
    found = heat(np.arange(256.0)[None])[0]
    assert np.abs(found - 255 * colours).max() < 7


def test_the_scale_says_what_the_colours_are_of() -> None:
    row = Image.new("RGB", (400, 30), "red")
    found = np.asarray(with_scale(row, 150, 250, -1.5, 12.25))
    assert found.shape == (30 + SCALE, 400, 3)
    assert (found[:30] == (255, 0, 0)).all()
    bar = found[40, 150:250]
    assert bar[0].tolist() == [0, 0, 4]
    assert bar[-1].tolist() == [252, 255, 164]
    assert np.array_equal(bar, heat(np.linspace(-1.5, 12.25, 100)[None])[0])
    ink = (found[30:] < 128).all(axis=2).any(axis=0)  # of the numbers, beside the bar
    assert ink[80:150].any()
    assert ink[250:300].any()
    assert not ink[300:].any()
    other = np.asarray(with_scale(row, 150, 250, -1.5, 99.0))
    assert not np.array_equal(found[30:, 250:], other[30:, 250:])
    assert np.array_equal(found[30:, :250], other[30:, :250])


def test_colours_tell_classes_apart() -> None:
    classes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = class_colours(classes)
    assert found.shape == (16, 16, 3)
    assert found.dtype == np.uint8
    table = found.reshape(256, 3).astype(int)
    assert table[0].tolist() == [0, 0, 0]
    assert table[OOD].tolist() == [255, 255, 255]
    assert table[VOID].tolist() == [128, 128, 128]
    shown = table[[*range(20), OOD, VOID]]
    apart = np.abs(shown[:, None] - shown[None]).sum(axis=2) + 999 * np.eye(len(shown), dtype=int)
    assert apart.min() > 30


@pytest.mark.parametrize(
    ("height", "width"),
    [(1024, 2048), (2048, 1024), (1500, 2000), (10, 4000), (700, 3), (513, 513)],
)
def test_pictures_are_bounded(height: int, width: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2] = OOD
    found = PixelOutputs(0, Outputs(logits=torch.rand(height * width, 3)), mask)
    whole = picture(image, found, rng.normal(size=mask.shape))
    assert max(whole.height - SCALE, (whole.width - 24) // 4) <= SIDE
    assert whole.width == 4 * round(width * SIDE / max(height, width)) + 24
    path = save_picture(whole, tmp_path / "0.png")
    assert path.stat().st_size <= MOST_BYTES, "noise is the worst there is"
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as stored:
        assert stored.size == whole.size
        assert stored.format == ("PNG" if path.suffix == ".png" else "JPEG")


def test_a_picture_that_was_large_leaves_no_other(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 2000, 3), dtype=np.uint8)
    assert save_picture(Image.fromarray(noise), tmp_path / "0.png").suffix == ".jpg"
    assert save_picture(Image.new("RGB", (2000, 512)), tmp_path / "0.png").suffix == ".png"
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]


def test_the_bound_on_pictures_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    evaluate(["msp", "energy"], pictures=tmp_path, report=told.append)
    (line,) = [line for line in told if line.startswith("pictures: ")]
    assert "at most 8 of each set for each detector, 32 in all" in line
    assert "512 KiB (16 MiB)" in line


def test_pictures_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "0.png"
    save_picture(Image.new("RGB", (4, 3), "red"), path)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    class Full(Image.Image):
        def save(self, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002
            fp.write(b"\x89PNG half of it")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        save_picture(Full(), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
