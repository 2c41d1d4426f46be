"""Spectrograms of recordings: what a network sees of them."""

from __future__ import annotations

import math
import random
from abc import ABC
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from oodbench.data.audio import Audio
from oodbench.errors import OptionError
from oodbench.options import check_choices


@dataclass(frozen=True)
class _Spectrogram(ABC):
    """What the spectrograms share: the piece of the recording that is seen."""

    rate: int
    seconds: float
    pad: Literal["zero", "tile"] = field(default="zero", kw_only=True)

    def _check(self, *others: float) -> None:
        values = (self.rate, self.seconds, *others)
        if not all(0 < value < math.inf for value in values):
            raise OptionError(
                f"{type(self).__name__}: all settings must be positive, not {values}."
            )
        check_choices(self, type(self).__name__)

    @property
    def channels(self) -> int:
        """1: a spectrogram has one channel."""
        return 1

    @property
    def length(self) -> int:
        """The number of samples of a waveform that the network takes."""
        return round(self.rate * self.seconds)

    def _wave(self, audio: Any) -> np.ndarray:
        """``[length]`` float32 in [-1, 1]: resampled, then cut or filled up at its end."""
        wave, rate = audio.read()
        if rate != self.rate:
            from scipy.signal import resample_poly

            # What is not seen need not be resampled; the filter reaches ten samples of the lower
            # rate, so a margin leaves what is seen unchanged.
            wave = wave[: math.ceil(self.length * rate / self.rate) + 20 * (rate // self.rate + 1)]
            divisor = math.gcd(rate, self.rate)
            wave = resample_poly(wave, self.rate // divisor, rate // divisor)
            wave = wave.astype(np.float32).clip(-1, 1)
        wave = wave[: self.length]
        if self.pad == "tile":
            return np.resize(wave, self.length)
        return np.pad(wave, (0, self.length - len(wave)))

    def _shifted(self, wave: np.ndarray, by: int) -> np.ndarray:
        """``[length]``, ``by`` samples later, with silence where nothing is known."""
        moved = np.zeros_like(wave)
        moved[max(by, 0) : len(wave) + min(by, 0)] = wave[max(-by, 0) : len(wave) - max(by, 0)]
        return moved


@dataclass(frozen=True)
class LogMel(_Spectrogram):
    """A log-mel spectrogram of a recording, of mean 0 and deviation 1.

    One channel; resampled (polyphase); cut, or filled up at its end; power in Hann windows, the
    first centred at the first sample; triangular filters, evenly spaced in mel (HTK's
    ``2595 log10(1 + f / 700)``) from 0 to half the rate, of height 1; ``log(x + 1e-7)``;
    standardised over the whole spectrogram (silence is all zeros).

    Args:
        rate: that the recording is brought to, in Hz.
        seconds: length that the network sees.
        mels: filters.
        window: seconds of a window.
        hop: seconds between windows.
        pad: how a short recording is filled up: ``"zero"`` with silence, ``"tile"`` with itself.
    """

    mels: int = 64
    window: float = 0.025
    hop: float = 0.01

    def __post_init__(self) -> None:
        self._check(self.mels, self.window, self.hop)
        if self.window > self.seconds or round(self.rate * min(self.window, self.hop)) < 1:
            raise OptionError(
                f"LogMel: a window of {self.window} s and a hop of {self.hop} s must not be longer "
                f"than the {self.seconds} s seen, nor shorter than a sample at {self.rate} Hz."
            )

    def __call__(self, audio: Audio) -> Tensor:
        """``[1, mels, frames]`` float32, frames being ``1 + length // hop``, hop in samples.

        Raises:
            DataError: the recording is missing, damaged or empty; the message names it.
        """
        return self._spectrogram(self._wave(audio))

    def augment(self, audio: Audio, rng: random.Random) -> Tensor:
        """The same, shifted by up to a tenth of its length, with a band of filters silenced.

        The band is at most a quarter of them wide, as in SpecAugment (arXiv:1904.08779).
        """
        reach = self.length // 10
        spectrogram = self._spectrogram(
            self._shifted(self._wave(audio), rng.randint(-reach, reach))
        )
        width = rng.randint(0, self.mels // 4)
        start = rng.randint(0, self.mels - width)
        spectrogram[:, start : start + width] = 0
        return spectrogram

    def _spectrogram(self, wave: np.ndarray) -> Tensor:
        window = round(self.rate * self.window)
        size = 2 ** math.ceil(math.log2(window))
        spectrum = torch.stft(
            torch.from_numpy(wave),
            size,
            round(self.rate * self.hop),
            window,
            torch.hann_window(window, dtype=torch.float32),
            pad_mode="constant",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        # in double precision: in single, the rounded mean of silence is 1e-6 off, and the small
        # deviation would blow that up
        log = (mel_filters(self.mels, size, self.rate) @ power + 1e-7).log().double()
        return ((log - log.mean()) / log.std().clamp(min=1e-5)).float()[None]


@cache
def mel_filters(mels: int, size: int, rate: int) -> Tensor:
    """Triangular filters ``[mels, size / 2 + 1]``: each rises from its neighbour's centre to 1."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, size // 2 + 1)
    rise = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return torch.from_numpy(np.maximum(0, np.minimum(rise, fall)).astype(np.float32))


@dataclass(frozen=True)
class LogSpectrogram(_Spectrogram):
    """The log spectrogram that VGGSound's and MultiOOD's audio networks see.

    ``scipy.signal.spectrogram`` as they call it (a Tukey window of shape 0.25, each window's mean
    removed, a power density of one side); ``log(x + 1e-7)``; standardised over the whole (silence
    is all zeros). Unlike there, a recording of another rate is resampled.

    Args:
        rate: that the recording is brought to, in Hz.
        seconds: length that the network sees.
        window: samples of a window.
        overlap: samples that a window shares with the next.
        pad: how a short recording is filled up: ``"zero"`` with silence, ``"tile"`` with itself.
        noise: half the range of the uniform noise that is added; for training only.
        band: rows that are set to zero; for training only.
    """

    rate: int = 16000
    seconds: float = 10.0
    window: int = 512
    overlap: int = 353
    pad: Literal["zero", "tile"] = field(default="tile", kw_only=True)
    noise: float = 0.05
    band: int = 9

    def __post_init__(self) -> None:
        self._check(self.window)
        if not 0 <= self.overlap < self.window <= self.length:
            raise OptionError(
                f"LogSpectrogram: overlap {self.overlap} < window {self.window} <= length "
                f"{self.length} must hold, in samples."
            )
        if not 0 <= self.noise < math.inf or not 0 <= self.band <= self.window // 2:
            raise OptionError(
                f"LogSpectrogram: noise must not be negative, nor the band more than "
                f"{self.window // 2} rows wide, not {self.noise} and {self.band}."
            )

    def __call__(self, audio: Audio) -> Tensor:
        """``[1, window // 2 + 1, frames]`` float32, 257 x 1004 as in MultiOOD.

        Raises:
            DataError: the recording is missing, damaged or empty; the message names it.
        """
        return torch.from_numpy(self._spectrogram(audio).astype(np.float32))[None]

    def augment(self, audio: Audio, rng: random.Random) -> Tensor:
        """The same with noise, and a band of rows set to zero; ``rng`` alone is random.

        The band lies anywhere below the two highest rows.
        """
        spectrogram = self._spectrogram(audio)
        generator = np.random.default_rng(rng.getrandbits(63))
        spectrogram += generator.uniform(-self.noise, self.noise, spectrogram.shape)
        start = rng.randint(0, self.window // 2 - self.band - 1)
        spectrogram[start : start + self.band] = 0
        return torch.from_numpy(spectrogram.astype(np.float32))[None]

    def _spectrogram(self, audio: Audio) -> np.ndarray:
        from scipy.signal import spectrogram

        wave = self._wave(audio).astype(np.float64)
        power = spectrogram(wave, self.rate, nperseg=self.window, noverlap=self.overlap)[2]
        log = np.log(power + 1e-7)
        normalised: np.ndarray = (log - log.mean()) / (log.std() + 1e-9)
        return normalised
