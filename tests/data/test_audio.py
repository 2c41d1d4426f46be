"""Sound: recordings, the tracks of videos, and spectrograms."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal

from oodbench.data.audio import AudioFile, LogMel, LogSpectrogram, Waveform, mel_filters
from oodbench.data.video import VideoFile
from oodbench.errors import DataError, OptionError
from tests.helpers.video import scene, write_video

soundfile = pytest.importorskip("soundfile")


# Recordings


def tone(seconds: float, rate: int, hertz: float = 440.0, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f4")


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


# Spectrograms


def test_a_tone_is_heard_where_it_is() -> None:
    transform = LogMel(16000, 1.0, mels=40)
    for hertz in (300, 1000, 4000):
        found = transform(Waveform(tone(1, 16000, hertz), 16000))
        assert found.shape == (1, 40, 101)
        assert found.dtype == torch.float32
        mel = 2595 * np.log10(1 + hertz / 700)
        centres = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42)[1:-1]
        assert int(found[0].mean(dim=1).argmax()) == np.abs(centres - mel).argmin()
        assert abs(float(found.mean())) < 1e-5
        assert float(found.std()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_the_rate_of_a_recording_does_not_matter(rate: int) -> None:
    transform = LogMel(8000, 1.0, mels=24)
    wanted = transform(Waveform(tone(2, 8000), 8000))
    found = transform(Waveform(tone(2, rate), rate))
    loud = wanted > 1  # of the rest there is little but noise
    assert torch.allclose(found[loud], wanted[loud], atol=0.3)


def test_what_is_not_seen_is_not_heard() -> None:
    rng = np.random.default_rng(0)
    for rate in (7350, 44100):
        wave = rng.normal(0, 0.1, 3 * rate).astype(np.float32)
        divisor = np.gcd(rate, 16000)
        whole = signal.resample_poly(wave, 16000 // divisor, rate // divisor)[:16000]
        assert np.allclose(LogMel(16000, 1.0)._wave(Waveform(wave, rate)), whole, atol=1e-7)


def test_short_recordings_are_filled_up() -> None:
    wave = tone(0.3, 16000)
    zero = LogMel(16000, 1.0)._wave(Waveform(wave, 16000))
    tile = LogMel(16000, 1.0, pad="tile")._wave(Waveform(wave, 16000))
    assert np.array_equal(zero, np.concatenate([wave, np.zeros(11200)]))
    assert np.array_equal(tile, np.tile(wave, 4)[:16000])
    long = LogMel(16000, 1.0)._wave(Waveform(tone(5, 16000), 16000))
    assert np.array_equal(long, tone(1, 16000))


@pytest.mark.parametrize("transform", [LogMel(16000, 1.0), LogSpectrogram(seconds=1.0)])
def test_silence_is_zeros(transform: LogMel | LogSpectrogram) -> None:
    silence = Waveform(np.zeros(500, np.float32), 22050)
    assert float(transform(silence).abs().max()) < 1e-4
    assert bool(transform.augment(silence, random.Random(0)).isfinite().all())
    assert transform.channels == 1


@pytest.mark.parametrize("transform", [LogMel(16000, 1.0), LogSpectrogram(seconds=1.0)])
def test_augmented_recordings(transform: LogMel | LogSpectrogram) -> None:
    noise = Waveform(np.random.default_rng(0).normal(0, 0.1, 20000).astype("f4"), 16000)
    plain = transform(noise)
    assert torch.equal(plain, transform(noise))
    views = [transform.augment(noise, random.Random(seed)) for seed in range(12)]
    assert torch.equal(views[3], transform.augment(noise, random.Random(3)))
    assert all(view.shape == plain.shape and view.dtype == plain.dtype for view in views)
    assert len({view.numpy().tobytes() for view in views}) == 12
    masked = [int((view[0] == 0).all(dim=1).sum()) for view in views]
    if isinstance(transform, LogSpectrogram):
        assert set(masked) == {9}
        kept = views[0][0] != 0
        assert float((views[0][0] - plain[0])[kept].abs().max()) <= 0.05 + 1e-5
    else:
        assert max(masked) <= 16
        assert len(set(masked)) > 3


def test_a_shift_moves_and_leaves_silence() -> None:
    wave = np.arange(1, 11, dtype=np.float32)
    shifted = LogMel(10, 1.0, window=0.4, hop=0.2)._shifted
    assert shifted(wave, 0).tolist() == wave.tolist()
    assert shifted(wave, 2).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert shifted(wave, -3).tolist() == [4, 5, 6, 7, 8, 9, 10, 0, 0, 0]


def test_mel_filters_are_triangles() -> None:
    filters = mel_filters(20, 512, 16000).numpy()
    assert filters.shape == (20, 257)
    assert filters.min() == 0
    assert filters.max() <= 1
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 22) / 2595) - 1)
    assert np.abs(filters.argmax(axis=1) * 16000 / 512 - centres[1:-1]).max() < 32
    # between the first and the last centre, neighbours add up to one
    hertz = np.arange(257) * 16000 / 512
    between = (hertz > centres[1]) & (hertz < centres[-2])
    assert np.allclose(filters.sum(axis=0)[between], 1, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.7, 10.0, 12.5])
def test_log_spectrograms_are_those_of_multiood(seconds: float) -> None:
    wave = np.random.default_rng(0).normal(0, 0.3, round(seconds * 16000)).astype(np.float32)
    piece = wave[:160000].astype(np.float64)  # the reference's steps, for evaluation
    while len(piece) < 160000:
        piece = np.tile(piece, 10)[:160000]
    piece[piece > 1.0] = 1.0
    piece[piece < -1.0] = -1.0
    _, _, power = signal.spectrogram(piece, 16000, nperseg=512, noverlap=353)
    wanted = np.log(power + 1e-7)
    wanted = np.divide(wanted - np.mean(wanted), np.std(wanted) + 1e-9)
    found = LogSpectrogram()(Waveform(wave, 16000))
    assert found.shape == (1, 257, 1004)
    assert np.allclose(found[0].numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogMel(0, 1.0),
        lambda: LogMel(16000, float("inf")),
        lambda: LogMel(16000, 1.0, mels=0),
        lambda: LogMel(16000, 0.01),
        lambda: LogMel(16000, 1.0, hop=1e-6),
        lambda: LogMel(16000, 1.0, pad="loop"),  # type: ignore[arg-type]
        lambda: LogSpectrogram(overlap=512),
        lambda: LogSpectrogram(seconds=0.01),
        lambda: LogSpectrogram(noise=-1.0),
        lambda: LogSpectrogram(band=300),
        lambda: LogSpectrogram(pad="loop"),  # type: ignore[arg-type]
    ],
)
def test_spectrogram_options_are_checked(make) -> None:
    with pytest.raises(OptionError, match="Log"):
        make()


def test_spectrograms_of_broken_files_name_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.wav"):
        LogMel(16000, 1.0)(AudioFile(tmp_path / "gone.wav"))
