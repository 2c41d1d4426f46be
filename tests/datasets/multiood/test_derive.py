"""What is made of MultiOOD's videos: their sound, and their flow as grey videos."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.data.flow import FlowFiles
from oodbench.datasets.multiood.derive import compute_flow, encode_flow, extract_audio, write_flow
from oodbench.errors import DataError
from tests.helpers.multiood import Shift
from tests.helpers.video import write_clip

av = pytest.importorskip("av")
pytest.importorskip("soundfile")


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_is_mono_of_16_khz(tmp_path: Path, channels: int) -> None:
    target = tmp_path / "sound.wav"
    video = write_clip(tmp_path / "video.mp4", channels=channels)
    assert extract_audio(video, target)
    with wave.open(str(target)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 16000)
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16) / 2**15
    assert len(samples) == pytest.approx(16000, abs=1200)
    middle = samples[4000:12000]
    assert np.abs(np.fft.rfft(middle)).argmax() * 2 == 440
    assert middle.std() == pytest.approx(0.5 / np.sqrt(2), abs=0.03)
    assert not extract_audio(video, target)


def test_no_sound_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"silent\.mp4 has no sound"):
        extract_audio(write_clip(tmp_path / "silent.mp4"), tmp_path / "a.wav")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"broken\.mp4"):
        extract_audio(broken, tmp_path / "a.wav")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    video = write_clip(tmp_path / "loud.mp4", channels=1)
    with monkeypatch.context() as patch:
        patch.setattr(wave.Wave_write, "writeframes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract_audio(video, tmp_path / "a.wav")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.mp4", "loud.mp4", "silent.mp4"]
    assert extract_audio(video, tmp_path / "a.wav")


def test_levels_of_flow() -> None:
    flow = np.array([-np.inf, -25, -20, -0.1, 0, 0.1, 10, 20, 99, np.nan])
    assert encode_flow(flow).tolist() == [0, 0, 0, 127, 128, 128, 191, 255, 255, 128]


def test_flow_is_of_the_size_of_the_frames() -> None:
    """The network sees multiples of 8 from 128 on; flow is scaled back to the frames' pixels."""
    frames = np.zeros((21, 50, 3), np.uint8)
    network = Shift(12.8, 6.4)
    flow = compute_flow(network, [(frames, frames)] * 2)
    assert network.sizes == [(2, 3, 128, 128)]
    assert flow.shape == (2, 2, 21, 50)
    np.testing.assert_allclose(flow[:, 0], 12.8 * 50 / 128, rtol=1e-5)
    np.testing.assert_allclose(flow[:, 1], 6.4 * 21 / 128, rtol=1e-5)


def test_raft_is_such_a_network() -> None:
    from torchvision.models.optical_flow import raft_small

    frame = np.random.default_rng(0).integers(0, 256, (136, 130, 3), dtype=np.uint8)
    flow = compute_flow(raft_small(weights=None).eval(), [(frame, frame)])
    assert flow.shape == (1, 2, 136, 130)
    assert np.isfinite(flow).all()


@pytest.mark.parametrize("size", [(48, 32), (131, 133)])
def test_flow_in_two_grey_videos(tmp_path: Path, size: tuple[int, int]) -> None:
    if size[0] % 2:  # as published, frames may have odd sides; x264 in colour takes none
        video = tmp_path / "odd.avi"
        with av.open(str(video), "w") as container:
            stream = container.add_stream("ffv1", rate=24)
            stream.width, stream.height, stream.pix_fmt = *size, "gray"
            for level in range(0, 100, 20):
                pixels = np.full(size[::-1], level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray")))
            container.mux(stream.encode(None))
    else:
        video = write_clip(tmp_path / "even.mp4", 5, size)
    scale = max(128, 8 * round(size[0] / 8)) / size[0], max(128, 8 * round(size[1] / 8)) / size[1]
    network = Shift(5 * scale[0], -30 * scale[1])
    x, y = tmp_path / "flow/a_flow_x.mp4", tmp_path / "flow/a_flow_y.mp4"
    assert write_flow(video, x, y, network, batch=3)
    assert [shape[0] for shape in network.sizes] == [3, 1]
    flow = FlowFiles(x, y)
    assert flow.frame_count == 4
    pixels = flow.frames(range(4))
    assert pixels.shape == (4, size[1], size[0], 2)
    np.testing.assert_allclose(pixels[..., 0], encode_flow(np.array(5.0)), atol=2)
    np.testing.assert_allclose(pixels[..., 1], 0, atol=2)
    assert not write_flow(video, x, y, network)


def test_videos_without_flow(tmp_path: Path) -> None:
    x, y = tmp_path / "x.mp4", tmp_path / "y.mp4"
    with pytest.raises(DataError, match="fewer than two frames"):
        write_flow(write_clip(tmp_path / "one.mp4", 1), x, y, Shift(0, 0))
    assert not x.exists()
    assert not y.exists()
