"""Optical flow: two grey videos, or two folders of grey images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oodbench.data.flow import FlowFiles
from oodbench.data.video import VideoFile
from oodbench.errors import DataError, OptionError
from tests.helpers.video import from_the_start, grey, write_video

pytest.importorskip("av")


def test_flow_is_two_grey_videos(tmp_path: Path) -> None:
    x = write_video(tmp_path / "a_flow_x.mp4", grey(30))
    y = write_video(tmp_path / "a_flow_y.mp4", grey(25, seed=40), rate=5)
    flow = FlowFiles(x, y)
    assert flow.frame_count == 25  # the shorter's
    assert flow.rate == 25
    assert flow.channels == 2
    got = flow.frames([24, 3])
    assert got.shape == (2, 64, 80, 2)
    for channel, path in enumerate((x, y)):
        one = from_the_start(path, "gray")[[24, 3]]
        assert np.array_equal(got[..., channel], one)
        # the same levels as by way of RGB: the range of the coded levels is undone
        rgb = from_the_start(path)[[24, 3]].astype(int)
        assert np.abs(rgb - got[..., channel, None]).max() <= 2
    with pytest.raises(OptionError, match="it has 25"):
        flow.frames([25])
    assert VideoFile(x, mode="L").frames([1]).shape == (1, 64, 80, 1)
    assert VideoFile(x, mode="L").channels == 1


def test_flow_of_two_sizes(tmp_path: Path) -> None:
    x = write_video(tmp_path / "a_flow_x.mp4", grey(5))
    y = write_video(tmp_path / "a_flow_y.mp4", grey(5, height=48))
    with pytest.raises(DataError, match=r"flow_x\.mp4.*80 x 64 of x, 80 x 48 of y"):
        FlowFiles(x, y).frames([0])
    with pytest.raises(DataError, match=r"gone\.mp4"):
        FlowFiles(x, tmp_path / "gone.mp4").frames([0])
