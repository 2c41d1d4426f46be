"""Recordings as grey pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from oodbench import files
from oodbench.errors import MissingDataError
from tests.helpers.transfer import load


def record(name: str, *tones: tuple[float, float], rate: int = 8000) -> Path:
    """0.6 seconds of tones, each a frequency and how loud it is."""
    path = files.data_dir() / "fsdd" / "recordings" / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(0, 0.6, 1 / rate)
    soundfile.write(path, sum(loud * np.sin(2 * np.pi * hertz * t) for hertz, loud in tones), rate)
    return path


def test_spectrograms_are_grey_pictures() -> None:
    record("0_theo_0", (150, 0.8), (3000, 0.008))
    record("3_theo_0", (150, 0.008), (3000, 0.8), rate=16000)
    record("7_theo_1", (440, 0))
    samples = load("fsdd-spectrograms")
    assert (samples.name, samples.classes) == ("fsdd-spectrograms/test", tuple("0123456789"))
    assert samples.labels.tolist() == [0, 3, 7]
    for i in range(3):
        assert (samples[i].mode, samples[i].size) == ("L", (101, 64))
        assert samples[i].tobytes() == load("fsdd-spectrograms")[i].tobytes()
    low, high, silence = (np.asarray(samples[i]) for i in range(3))
    assert low[48:, :60].max() > low[:16, :60].max() > low[24:40, :60].max()
    assert high[:16, :60].max() > high[48:, :60].max()
    assert low[48:, :60].mean() > low[48:, 65:].mean(), "after the tone there is silence"
    assert len(np.unique(silence)) == 1


def test_recordings_are_part_of_the_fingerprint_of_spectrograms() -> None:
    record("0_theo_0", (200, 0.5))
    record("1_theo_0", (200, 0.5))
    before, again = load("fsdd-spectrograms"), load("fsdd-spectrograms")
    assert again.fingerprint == before.fingerprint
    record("1_theo_0", (200, 0.6))
    after = load("fsdd-spectrograms")
    assert (after.digests == before.digests).tolist() == [True, False]


def test_recordings_that_are_missing_are_named() -> None:
    record("theo", (200, 0.5))
    with pytest.raises(MissingDataError, match=r"fsdd-spectrograms.*no recordings.*git clone"):
        load("fsdd-spectrograms")
