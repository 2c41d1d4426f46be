"""What tests of videos and of their sound share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.video import scene, write_video


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same scene in several containers and codecs, with key frames and B-frames."""
    root = tmp_path_factory.mktemp("videos")
    frames = scene(70)
    return {
        # key frames every ten frames, and nowhere else
        "mp4": write_video(root / "a.mp4", frames, options={"sc_threshold": "0"}),
        "open": write_video(root / "open.mp4", frames, options={"x264-params": "open-gop=1"}),
        "fragments": write_video(
            root / "fragments.mp4",
            frames,
            container_options={"movflags": "frag_keyframe+empty_moov"},
        ),
        "mkv": write_video(root / "a.mkv", frames),
        "avi": write_video(root / "a.avi", frames),
        "xvid": write_video(root / "xvid.avi", frames, b_frames=0, options={"qmin": "2"}),
        "mpeg": write_video(root / "a.mpg", frames, "mpeg1video"),
        "one key": write_video(root / "one.mp4", frames, gop=250),
    }
