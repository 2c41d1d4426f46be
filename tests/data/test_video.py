"""Videos: frames are those of decoding from the start, whatever the file."""

from __future__ import annotations

import contextlib
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.data import video as reading
from oodbench.data.flow import FlowFiles, FlowFolder
from oodbench.data.video import FrameFolder, Video, VideoFile
from oodbench.errors import DataError, OptionError
from tests.helpers.video import from_the_start, scene, write_video

av = pytest.importorskip("av")

KINDS = ("mp4", "open", "fragments", "mkv", "avi", "xvid", "mpeg", "one key")


# Videos


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_decoding_from_the_start(videos: dict[str, Path], kind: str) -> None:
    whole = from_the_start(videos[kind])
    video = VideoFile(videos[kind])
    assert video.frame_count == len(whole) == 70
    assert video.rate == pytest.approx(25)
    assert video.channels == 3
    for i in range(0, 70, 3):
        assert np.array_equal(video.frames([i])[0], whole[i]), i
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 9, 40):
        wanted = rng.integers(0, 70, size)  # any order, with repeats
        got = VideoFile(videos[kind]).frames(wanted)
        assert got.dtype == np.uint8
        assert np.array_equal(got, whole[wanted])
    assert np.array_equal(video.frames(range(70)), whole)


def test_a_scene_survives_its_coding(videos: dict[str, Path]) -> None:
    error = np.abs(VideoFile(videos["mp4"]).frames(range(70)).astype(int) - np.stack(scene(70)))
    assert error.mean() < 12


def test_far_frames_are_reached_by_seeking(
    videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    original = VideoFile._seek

    def seek(self, container, stream, positions, found):
        original(self, container, stream, positions, found)
        runs.append((positions, [position in found for position in positions]))

    monkeypatch.setattr(VideoFile, "_seek", seek)
    video = VideoFile(videos["mp4"])
    assert video._index.keys.tolist() == [0, 10, 20, 30, 40, 50, 60]
    video.frames([65, 3, 66, 12])
    # neighbouring groups of pictures are one run, and each run found what it sought
    assert runs == [([3, 12], [True, True]), ([65, 66], [True, True])]


@pytest.mark.parametrize("target", [0, -1])
def test_a_seek_that_lands_elsewhere_costs_time_but_not_frames(
    videos: dict[str, Path], target: int
) -> None:
    video = VideoFile(videos["mp4"])
    video._index.seeks[:] = [video._index.seeks[target]] * len(video._index.seeks)
    wanted = [3, 35, 69]
    assert np.array_equal(video.frames(wanted), from_the_start(videos["mp4"])[wanted])


def test_variable_and_odd_rates(tmp_path: Path) -> None:
    frames = scene(30)
    gaps = np.random.default_rng(0).integers(1, 9, 30)
    uneven = write_video(tmp_path / "v.mp4", frames, rate=90, times=np.cumsum(gaps).tolist())
    assert VideoFile(uneven).frame_count == 30
    assert 10 < VideoFile(uneven).rate < 40
    assert np.array_equal(VideoFile(uneven).frames([29, 11]), from_the_start(uneven)[[29, 11]])
    for rate in (Fraction(30000, 1001), Fraction(7, 3), Fraction(1, 2), 240):
        path = write_video(tmp_path / "odd.mp4", frames, rate=rate)
        assert VideoFile(path).rate == pytest.approx(float(rate), rel=1e-3)
        assert np.array_equal(VideoFile(path).frames([17])[0], from_the_start(path)[17])


@pytest.mark.parametrize("claimed", [0, 3, 69, 71, 99999])
def test_frame_counts_in_headers_are_not_believed(
    videos: dict[str, Path], tmp_path: Path, claimed: int
) -> None:
    content = bytearray(videos["avi"].read_bytes())
    main, stream = content.index(b"avih") + 24, content.index(b"strh") + 40
    for at in (main, stream):
        assert int.from_bytes(content[at : at + 4], "little") == 70
        content[at : at + 4] = claimed.to_bytes(4, "little")
    path = tmp_path / "wrong.avi"
    path.write_bytes(content)
    video = VideoFile(path)
    assert video.frame_count == 70
    wanted = [69, 0, 40]
    assert np.array_equal(video.frames(wanted), from_the_start(videos["avi"])[wanted])


@pytest.mark.parametrize(
    "name", ["приклад 視頻 é.mp4", "drinking_54 .mp4", "a:b%03d.mp4", "concat:x|y.mp4", "-i #1.avi"]
)
def test_names_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / f"plain{Path(name).suffix}", scene(5))
    path = path.rename(tmp_path / name)
    assert VideoFile(str(path)).frames([4]).shape == (1, 64, 80, 3)


def test_a_relative_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "r.mp4", scene(3))
    monkeypatch.chdir(tmp_path)
    assert VideoFile("r.mp4").frame_count == 3


def test_a_handle_is_cheap_and_can_be_pickled(videos: dict[str, Path]) -> None:
    VideoFile("/nowhere.mp4")  # nothing is opened
    for video in (VideoFile(videos["mp4"]), FlowFiles(videos["mp4"], videos["avi"])):
        before = pickle.loads(pickle.dumps(video))
        assert before.frame_count == video.frame_count == 70
        after = pickle.loads(pickle.dumps(video))
        assert after == video
        assert repr(after) == repr(video)
        assert np.array_equal(after.frames([40]), video.frames([40]))


def test_the_count_is_found_once(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    video = VideoFile(videos["avi"])
    assert video.frame_count == 70
    monkeypatch.setattr(reading, "opened", None)
    assert video.frame_count == 70
    assert video.rate == 25


@pytest.mark.parametrize("wanted", [[], [70], [0, -1], [10**9]])
def test_positions_outside_are_an_error(videos: dict[str, Path], wanted: list[int]) -> None:
    with pytest.raises(OptionError, match=r"a\.mp4.*asked for"):
        VideoFile(videos["mp4"]).frames(wanted)


# Broken videos


def faststart(path: Path, n: int = 40) -> Path:
    return write_video(path, scene(n), container_options={"movflags": "faststart"})


def test_a_missing_video(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no video .*gone\.mp4"):
        _ = VideoFile(tmp_path / "gone.mp4").frame_count
    with pytest.raises(DataError, match="no video"):
        _ = VideoFile(tmp_path).frame_count


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["mp4", "faststart", "avi"])
def test_a_video_that_is_cut_off(
    videos: dict[str, Path], tmp_path: Path, kind: str, share: float
) -> None:
    whole = faststart(tmp_path / "whole.mp4") if kind == "faststart" else videos[kind]
    content = whole.read_bytes()
    path = tmp_path / f"cut{whole.suffix}"
    path.write_bytes(content[: int(len(content) * share)])
    said = "get it again"
    if share >= 0.3 and kind != "mp4":  # the index of this one is at its end
        said = "is cut off"
    with pytest.raises(DataError, match=rf"cut{whole.suffix}.*(?i:{said})"):
        VideoFile(path).frames([0])


def test_an_avi_that_lost_its_index_has_all_frames(videos: dict[str, Path], tmp_path: Path) -> None:
    content = videos["avi"].read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(content[: content.rindex(b"idx1") + 40])
    assert np.array_equal(VideoFile(path).frames(range(70)), from_the_start(videos["avi"]))


def test_a_file_that_ends_within_a_frame(tmp_path: Path) -> None:
    content = faststart(tmp_path / "whole.mp4").read_bytes()
    path = tmp_path / "short.mp4"
    path.write_bytes(content[:-3])
    with pytest.raises(DataError, match="is cut off"):
        _ = VideoFile(path).frame_count


def test_a_cut_matroska_has_the_frames_that_are_there(
    videos: dict[str, Path], tmp_path: Path
) -> None:
    content = videos["mkv"].read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(content[: len(content) // 2])
    video = VideoFile(path)
    n = video.frame_count
    assert 10 < n < 70
    assert np.array_equal(video.frames(range(n)), from_the_start(path)[:n])


def test_rubbish_behind_a_whole_file_does_no_harm(videos: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("mp4", "avi"):
        path = tmp_path / f"long{videos[kind].suffix}"
        for rubbish in (bytes(99), b"\xffrubbish" * 9):
            path.write_bytes(videos[kind].read_bytes() + rubbish)
            assert VideoFile(path).frame_count == 70


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_a_video_without_frames(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"none{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    with pytest.raises(DataError, match=rf"none{suffix}"):
        _ = VideoFile(path).frame_count


def test_a_file_without_pictures(tmp_path: Path) -> None:
    path = write_video(tmp_path / "heard.mp4", [], sound=np.zeros((1, 4096)))
    with pytest.raises(DataError, match=r"heard\.mp4 has no video track"):
        VideoFile(path).frames([0])


def test_other_files_are_no_videos(tmp_path: Path) -> None:
    for name, content in {
        "text.mp4": b"not found" * 100,
        "list.mp4": b"#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/a.ts\n",
        "concat.avi": b"ffconcat version 1.0\nfile http://localhost:9/a.ts\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}.*get it again"):
            VideoFile(tmp_path / name).frames([0])


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "mpeg"])
def test_damage_is_frames_or_an_error(videos: dict[str, Path], tmp_path: Path, kind: str) -> None:
    content = videos[kind].read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / f"damaged{videos[kind].suffix}"
    for trial in range(25):
        damaged = np.frombuffer(content, np.uint8).copy()
        hits = rng.integers(0, min(len(content), 600) if trial % 2 else len(content), 8)
        damaged[hits] = rng.integers(0, 256, 8)
        path.write_bytes(damaged.tobytes())
        video = VideoFile(path)
        with contextlib.suppress(DataError):
            got = video.frames([0, video.frame_count // 2, video.frame_count - 1])
            assert got.shape[0] == 3


def test_frames_that_cannot_be_decoded_are_named(videos: dict[str, Path]) -> None:
    video = VideoFile(videos["mp4"])
    video._index.times[35] += 1  # as if the decoder gave other frames than the packets promise
    with pytest.raises(DataError, match=r"a\.mp4 has 70 frames, but 1 of the 2 .*get it again"):
        video.frames([35, 36])
    assert len(video.frames([36])) == 1


def test_frames_of_two_sizes() -> None:
    class Two(Video):
        frame_count = 2

        def _decode(self, positions: list[int]) -> list[np.ndarray]:
            return [np.zeros((4 + p, 6, 3), np.uint8) for p in positions]

    with pytest.raises(DataError, match="6 x 4, 6 x 5"):
        Two().frames([0, 1])


# Folders of frames


def test_folders_of_frames(tmp_path: Path) -> None:
    frames = scene(9)
    for part in ("", "u", "v"):
        (tmp_path / part).mkdir(exist_ok=True)
        for i, pixels in enumerate(frames, start=5):
            image = Image.fromarray(pixels)
            image = image.convert("L").rotate(90 if part == "v" else 0) if part else image
            image.save(tmp_path / part / f"frame_{i:010d}.jpg", quality=95)
    video = FrameFolder(tmp_path, 5, 13, frame_rate=60)
    assert (video.frame_count, video.rate, video.channels) == (9, 60, 3)
    assert np.abs(video.frames([8, 0, 8]).astype(int) - np.stack(frames)[[8, 0, 8]]).mean() < 8
    assert np.array_equal(FrameFolder(tmp_path, 7, 7).frames([0]), video.frames([2]))
    flow = FlowFolder(tmp_path, 5, 13)
    assert (flow.frame_count, flow.rate, flow.channels) == (9, None, 2)
    got = flow.frames([1, 4])
    assert got.shape == (2, 64, 80, 2)
    assert np.array_equal(got[1, ..., 0], np.array(Image.open(tmp_path / "u/frame_0000000009.jpg")))
    assert np.array_equal(got[1, ..., 1], np.array(Image.open(tmp_path / "v/frame_0000000009.jpg")))
    assert pickle.loads(pickle.dumps(flow)) == flow
    with pytest.raises(DataError, match=r"frame_0000000014\.jpg.*missing"):
        FrameFolder(tmp_path, 5, 14).frames([9])
    (tmp_path / "v" / "frame_0000000006.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"frame_0000000006\.jpg"):
        flow.frames([1])
    Image.new("L", (8, 8)).save(tmp_path / "v" / "frame_0000000006.jpg")
    with pytest.raises(DataError, match="80 x 64 of x, 8 x 8 of y"):
        flow.frames([1])
    for first, last in ((5, 4), (-1, 4)):
        with pytest.raises(DataError, match="are none"):
            _ = FrameFolder(tmp_path, first, last).frame_count
