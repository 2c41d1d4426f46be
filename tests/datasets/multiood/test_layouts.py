"""Where the files of a clip are, in each of MultiOOD's datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.datasets.multiood.layouts import LAYOUTS
from oodbench.datasets.multiood.splits import Clip

EPIC_CLIP = Clip("P22_04", 1, 11, 15, 0.5, 1.5)


@pytest.mark.parametrize(
    ("layout", "clip", "modality", "paths"),
    [
        ("hmdb51", Clip("sit/a.b.avi", 0), "video", ["HMDB51/video/sit/a.b.avi"]),
        (
            "hmdb51",
            Clip("sit/a.b.avi", 0),
            "flow",
            ["HMDB51/flow/a_flow_x.mp4", "HMDB51/flow/a_flow_y.mp4"],
        ),
        ("ucf101", Clip("v_A_g01_c02.avi", 0), "video", ["UCF101/video/v_A_g01_c02.avi"]),
        (
            "ucf101",
            Clip("v_A_g01_c02.avi", 0),
            "flow",
            ["UCF101/flow/v_A_g01_c02_flow_x.mp4", "UCF101/flow/v_A_g01_c02_flow_y.mp4"],
        ),
        ("kinetics600", Clip("a b/c.mp4", 0), "video", ["Kinetics-600/video/a b/c.mp4"]),
        ("kinetics600", Clip("a b/c.mp4", 0), "audio", ["Kinetics-600/video/a b/c.wav"]),
        (
            "kinetics600",
            Clip("a b/c.mp4", 0),
            "flow",
            ["Kinetics-600/flow/a b/c_flow_x.mp4", "Kinetics-600/flow/a b/c_flow_y.mp4"],
        ),
        ("hac", Clip("cartoon/d_54 .mp4", 3), "video", ["HAC/cartoon/videos/d_54 .mp4"]),
        (
            "hac",
            Clip("cartoon/d_54 .mp4", 3),
            "flow",
            ["HAC/cartoon/flow/d_54 _flow_x.mp4", "HAC/cartoon/flow/d_54 _flow_y.mp4"],
        ),
        (
            "epic",
            EPIC_CLIP,
            "video",
            [f"EPIC-KITCHENS/rgb/test/D3/P22_04/frame_{i:010d}.jpg" for i in range(11, 15)],
        ),
        (
            "epic",
            EPIC_CLIP,
            "flow",
            [
                f"EPIC-KITCHENS/flow/test/D3/P22_04/{part}/frame_{i:010d}.jpg"
                for part in "uv"
                for i in (6, 7)
            ],
        ),
        ("epic", EPIC_CLIP, "audio", ["EPIC-KITCHENS/rgb/test/D3/P22_04.wav"]),
        (
            "epic",
            Clip("P22_05", 0, 2, 3),
            "video",
            ["EPIC-KITCHENS/rgb/train/D3/P22_05/frame_0000000002.jpg"],
        ),
    ],
)
def test_layouts(base: Path, layout: str, clip: Clip, modality: str, paths: list[str]) -> None:
    assert list(LAYOUTS[layout].paths(base, clip, modality)) == paths


def test_kinetics_folders_of_three_modalities(base: Path) -> None:
    place, clip = LAYOUTS["kinetics600"], Clip("a b/c.mp4", 0)
    (base / "Kinetics-600/Kinetics-600-train").mkdir(parents=True)
    (base / "Kinetics-600/Kinetics-600-train-flow").mkdir()
    other = "Kinetics-600/Kinetics-600-train"
    assert place.paths(base, clip, "audio") == (f"{other}/a b/c.wav",)
    assert place.paths(base, clip, "flow")[0] == f"{other}-flow/a b/c_flow_x.mp4"
    (base / "Kinetics-600/video").mkdir()
    assert place.paths(base, clip, "video") == ("Kinetics-600/video/a b/c.mp4",)
