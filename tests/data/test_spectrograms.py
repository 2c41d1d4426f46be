"""Spectrograms: a tone is heard where it is, whatever the file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal

from oodbench.data.audio import AudioFile, Waveform
from oodbench.data.spectrograms import LogMel, LogSpectrogram, mel_filters
from oodbench.errors import DataError, OptionError
from tests.helpers.sound import tone

pytest.importorskip("soundfile")


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
