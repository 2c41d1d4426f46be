"""Recordings, and what a network sees of them: log-mel spectrograms."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from oodbench.errors import DataError, OODBenchError, OptionError


class Audio(Protocol):
    """A recording that is read when it is needed."""

    def read(self) -> tuple[np.ndarray, int]:
        """``[n]`` float32 in [-1, 1], one channel, and the rate in Hz."""


@dataclass(frozen=True)
class AudioFile:
    """A recording in a file (WAV, FLAC, Ogg).

    Args:
        path: the file.
    """

    path: Path

    def read(self) -> tuple[np.ndarray, int]:
        """``[n]`` float32 in [-1, 1], the mean of all channels, and the rate in Hz.

        Raises:
            DataError: the file is damaged, no recording, or empty; the message names it.
            OODBenchError: the library that reads it is not installed.
        """
        try:
            import soundfile
        except ImportError as error:
            raise OODBenchError(
                "recordings are read by soundfile: pip install 'oodbench[audio]'."
            ) from error
        try:
            wave, rate = soundfile.read(str(self.path), dtype="float32", always_2d=True)
        except (OSError, RuntimeError, ValueError) as error:  # soundfile's own are RuntimeErrors
            raise DataError(
                f"cannot read the recording {self.path} ({error}). It is damaged, missing or no "
                "recording: get it again."
            ) from error
        if len(wave) == 0:
            raise DataError(f"the recording {self.path} is empty. Get it again, or leave it out.")
        return wave.mean(axis=1), int(rate)


@dataclass(frozen=True)
class Waveform:
    """A recording in memory.

    Args:
        samples: ``[n]`` float32 in [-1, 1].
        rate: in Hz.
    """

    samples: np.ndarray
    rate: int

    def read(self) -> tuple[np.ndarray, int]:
        """The samples and the rate."""
        return self.samples, self.rate


@dataclass(frozen=True)
class LogMel:
    """A log-mel spectrogram of a recording, of mean 0 and deviation 1.

    One channel; resampled; cut or padded with silence at its end; power in Hann windows; triangular
    filters, evenly spaced in mel (``2595 log10(1 + f / 700)``) from 0 to half the rate; logarithm;
    standardised over the whole spectrogram (silence is all zeros).

    Args:
        rate: that the recording is brought to, in Hz.
        seconds: length that the network sees.
        mels: filters.
        window: seconds of a window.
        hop: seconds between windows.
    """

    rate: int
    seconds: float
    mels: int = 64
    window: float = 0.025
    hop: float = 0.01

    def __post_init__(self) -> None:
        values = (self.rate, self.seconds, self.mels, self.window, self.hop)
        if not all(0 < value < math.inf for value in values):
            raise OptionError(f"LogMel: all settings must be positive, not {values}.")
        if self.window > self.seconds:
            raise OptionError(
                f"LogMel: a window of {self.window} s is longer than the {self.seconds} s seen."
            )

    @property
    def channels(self) -> int:
        """One."""
        return 1

    @property
    def length(self) -> int:
        """Samples that the network sees."""
        return round(self.rate * self.seconds)

    def __call__(self, audio: Audio) -> Tensor:
        """``[1, mels, frames]`` float32, frames being ``1 + length // hop``."""
        return self._spectrogram(self._wave(audio))

    def augment(self, audio: Audio, rng: random.Random) -> Tensor:
        """The same, shifted by up to a tenth of its length, with a band of filters silenced.

        The band is at most a quarter of them wide, as in SpecAugment (arXiv:1904.08779).
        """
        wave, reach = self._wave(audio), self.length // 10
        by = rng.randint(-reach, reach)
        shifted = np.zeros_like(wave)
        shifted[max(by, 0) : self.length + min(by, 0)] = wave[
            max(-by, 0) : self.length - max(by, 0)
        ]
        found = self._spectrogram(shifted)
        width = rng.randint(0, self.mels // 4)
        start = rng.randint(0, self.mels - width)
        found[:, start : start + width] = 0
        return found

    def _wave(self, audio: Audio) -> np.ndarray:
        """``[length]`` float32."""
        wave, rate = audio.read()
        if rate != self.rate:
            from scipy.signal import resample_poly

            divisor = math.gcd(rate, self.rate)
            wave = resample_poly(wave, self.rate // divisor, rate // divisor).astype(np.float32)
        whole = np.zeros(self.length, np.float32)
        seen = wave[: self.length]
        whole[: len(seen)] = seen
        return whole

    def _spectrogram(self, wave: np.ndarray) -> Tensor:
        window = round(self.rate * self.window)
        size = 2 ** math.ceil(math.log2(window))
        spectrum = torch.stft(
            torch.from_numpy(wave),
            size,
            round(self.rate * self.hop),
            window,
            torch.hann_window(window),
            pad_mode="constant",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        log = (mel_filters(self.mels, size, self.rate) @ power + 1e-7).log()
        return ((log - log.mean()) / log.std().clamp(min=1e-5))[None]


@cache
def mel_filters(mels: int, size: int, rate: int) -> Tensor:
    """Triangular filters ``[mels, size / 2 + 1]``: each rises from its neighbour's centre to 1."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, size // 2 + 1)
    rise = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return torch.from_numpy(np.maximum(0, np.minimum(rise, fall)).astype(np.float32))
