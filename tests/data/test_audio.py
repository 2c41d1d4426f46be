"""Sound: recordings, and the tracks of videos."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from oodbench.data.audio import AudioFile, Waveform
from oodbench.data.video import VideoFile
from oodbench.errors import DataError, OptionError
from tests.helpers.sound import tone
from tests.helpers.video import scene, write_video

soundfile = pytest.importorskip("soundfile")


# Recordings


def test_files_of_sound(tmp_path: Path) -> None:
    left, right = tone(0.5, 8000), tone(0.5, 8000, 1000)
    for name, subtype in (("a.wav", "PCM_16"), ("a.flac", "PCM_16"), ("b.WAV", "FLOAT")):
        soundfile.write(tmp_path / name, np.stack([left, right], axis=1), 8000, subtype)
        samples, rate = AudioFile(tmp_path / name).read()
        assert (samples.dtype, rate) == (np.float32, 8000)
        assert np.abs(samples - (left + right) / 2).max() < 1e-4  # of both channels the mean
        assert np.array_equal(
            AudioFile(str(tmp_path / name), 0.1, 0.3).read()[0], samples[800:2400]
        )
        assert np.array_equal(AudioFile(tmp_path / name, 0.4).read()[0], samples[3200:])
        assert np.array_equal(AudioFile(tmp_path / name, stop=9).read()[0], samples)


def test_samples_are_within_one(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", 3 * tone(0.1, 8000), 8000, "FLOAT")
    samples, _ = AudioFile(tmp_path / "loud.wav").read()
    assert (samples.min(), samples.max()) == (-1, 1)
    assert Waveform(np.array([[2.0, 4.0], [0.0, 0.5]]), 9).read()[0].tolist() == [1.0, 0.25]


def test_silence_is_a_recording(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(900), 8000)
    samples, _ = AudioFile(tmp_path / "silent.wav").read()
    assert len(samples) == 900
    assert not samples.any()


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_recordings_that_are_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(DataError, match=rf"no recording .*{name}"):
        AudioFile(path).read()
    path.write_bytes(b"nothing of sound" * 9)
    with pytest.raises(DataError, match=rf"{name}.*damaged"):
        AudioFile(path).read()
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{name}.*damaged"):
        AudioFile(path).read()
    soundfile.write(path, np.zeros(0), 8000)
    # an empty FLAC file cannot even be opened
    with pytest.raises(DataError, match=rf"{name} (has no samples|.*damaged)"):
        AudioFile(path).read()
    soundfile.write(path, tone(1, 8000), 8000)
    with pytest.raises(DataError, match=rf"{name}, 2\.0 to None seconds, has no samples"):
        AudioFile(path, 2.0).read()


def test_a_wav_that_is_cut_off(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1, 8000), 8000)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.wav is cut off"):
        AudioFile(tmp_path / "a.wav").read()
    assert len(AudioFile(tmp_path / "a.wav", 0, 0.25).read()[0]) == 2000  # what is there, is
    # a file that was written as a stream does not know its length
    unknown = content[:4] + b"\xff\xff\xff\xff" + content[8:]
    (tmp_path / "a.wav").write_bytes(unknown)
    assert len(AudioFile(tmp_path / "a.wav").read()[0]) == 8000


def test_samples_that_are_no_numbers(tmp_path: Path) -> None:
    wave = tone(0.1, 8000)
    wave[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, 8000, "FLOAT")
    with pytest.raises(DataError, match=r"nan\.wav has samples that are no numbers"):
        AudioFile(tmp_path / "nan.wav").read()
    with pytest.raises(DataError, match="no samples"):
        Waveform(np.zeros(0, np.float32), 8000).read()
    with pytest.raises(DataError, match="rate of 0 Hz"):
        Waveform(np.zeros(4, np.float32), 0).read()


@pytest.mark.parametrize(
    ("start", "stop"), [(1.0, 1.0), (2.0, 1.0), (-1.0, None), (float("nan"), 1)]
)
def test_a_span_must_be_one(start: float, stop: float | None) -> None:
    with pytest.raises(OptionError, match=r"a\.wav: cannot read from"):
        AudioFile("a.wav", start, stop)


def test_the_sound_of_a_video_is_exact(tmp_path: Path) -> None:
    sound = np.stack([tone(1.3, 16000), tone(1.3, 16000, 1000)])
    for suffix in (".avi", ".mkv"):
        path = write_video(
            tmp_path / f"a{suffix}", scene(10), "mpeg4", sound=sound, sound_codec="pcm_s16le"
        )
        samples, rate = AudioFile(path).read()
        assert (samples.shape, samples.dtype, rate) == ((20800,), np.float32, 16000)
        assert np.abs(samples - sound.mean(axis=0)).max() < 1e-4
        for start, stop in ((0.25, 0.75), (0.5, None), (None, 0.3), (1.2, 9.0)):
            first, last = (None if t is None else round(t * 16000) for t in (start, stop))
            assert np.array_equal(AudioFile(path, start, stop).read()[0], samples[first:last])
        assert VideoFile(path).frame_count == 10


def test_the_coded_sound_of_a_video(tmp_path: Path) -> None:
    sound = np.stack([tone(1.0, 44100), tone(1.0, 44100)])
    path = write_video(tmp_path / "a.mp4", scene(10), sound=sound, sound_rate=44100)
    samples, rate = AudioFile(path).read()
    assert rate == 44100
    assert abs(len(samples) - 44100) < 2048
    middle = slice(8192, 32768)
    assert np.corrcoef(samples[middle], sound[0, middle])[0, 1] > 0.99  # also in time
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.mp4"):
        AudioFile(path).read()


def test_videos_without_sound(videos: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.mp4 has no audio track"):
        AudioFile(videos["mp4"]).read()
    with pytest.raises(DataError, match=r"no recording .*gone\.mp4"):
        AudioFile(tmp_path / "gone.mp4").read()
    path = write_video(
        tmp_path / "mute.mkv", scene(5), sound=np.zeros((1, 0)), sound_codec="pcm_s16le"
    )
    with pytest.raises(DataError, match=r"mute\.mkv has no samples"):
        AudioFile(path).read()


def test_recordings_can_be_pickled(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.1, 8000), 8000)
    for audio in (AudioFile(tmp_path / "a.wav", 0.05), Waveform(tone(0.1, 8000), 8000)):
        copy = pickle.loads(pickle.dumps(audio))
        assert np.array_equal(copy.read()[0], audio.read()[0])
