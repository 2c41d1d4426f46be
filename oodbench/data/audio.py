"""Recordings: read when they are needed, and what a network sees of them."""

from __future__ import annotations

import math
import random
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from oodbench.data.media import ADVICE, best_stream, existing, is_cut_off, library, opened
from oodbench.errors import DataError, OODBenchWarning, OptionError
from oodbench.options import check_choices

SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".aif", ".aiff", ".au"})
"""Suffixes of the files that soundfile reads; the sound of all others is read by PyAV."""


class Audio(ABC):
    """A recording that is read when it is asked for."""

    @abstractmethod
    def read(self) -> tuple[np.ndarray, int]:
        """``[n]`` float32 in [-1, 1], n >= 1, the mean of all channels; and the rate in Hz.

        Raises:
            DataError: the recording is missing, damaged or empty; the message names it.
            OODBenchError: the library that reads it is not installed.
        """


def _checked(samples: np.ndarray, rate: int, name: str) -> tuple[np.ndarray, int]:
    """Samples ``[n]`` or ``[n, channels]`` as :meth:`Audio.read` promises them."""
    if not len(samples):
        raise DataError(f"{name} has no samples. Get it again, or leave it out.")
    if rate < 1:
        raise DataError(f"{name} has a rate of {rate} Hz. Get it again, or leave it out.")
    samples = _scaled(samples, name)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if not np.isfinite(samples).all():
        raise DataError(f"{name} has samples that are no numbers. Get it again, or leave it out.")
    return _cut(samples, name), int(rate)


def _scaled(samples: np.ndarray, name: str) -> np.ndarray:
    """Float32 samples; whole numbers of 8 to 32 bits are divided by half their range.

    Those without a sign have silence in the middle, as in WAV files of 8 bits.
    """
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == "f":
        return samples.astype(np.float32, copy=False)
    if kind not in "iu" or bits > 32:
        raise DataError(
            f"{name} has samples of {samples.dtype}, whose range is not known. Give floats in "
            "[-1, 1], or whole numbers of 8, 16 or 32 bits, which are scaled by their range."
        )
    half = 2.0 ** (bits - 1)
    return ((samples.astype(np.float64) - (half if kind == "u" else 0)) / half).astype(np.float32)


_SCALE = 100
"""Floats this large are no overshoot: they are whole numbers' values (int8's reach 128)."""


def _cut(samples: np.ndarray, name: str) -> np.ndarray:
    """Samples in [-1, 1]; says so where it cuts more than a decoder's overshoot.

    Raises:
        DataError: they are of another scale.
    """
    peak = max(float(samples.max()), -float(samples.min()))
    if peak <= 1:
        return samples
    if peak >= _SCALE:
        raise DataError(
            f"{name} has floats of up to {peak:.4g}, where they should be in [-1, 1]. Divide them "
            "by the largest value of their format (32768 for 16 bits), or give whole numbers."
        )
    share = float(np.mean(np.abs(samples) > 1))
    if share > 0.01 or peak > 2:  # decoders overshoot a little, and files of floats have no limit
        warnings.warn(
            f"{name} has floats of up to {peak:.4g}; {share:.1%} of its samples are outside of "
            "[-1, 1] and are cut. Scale it down if that is not meant.",
            OODBenchWarning,
            stacklevel=4,
        )
    return samples.clip(-1, 1)


@dataclass(frozen=True)
class AudioFile(Audio):
    """A recording in a file, or the sound of a video.

    WAV, FLAC, Ogg and AIFF are read by soundfile, all others by PyAV.

    Args:
        path: the file.
        start: where it begins, in seconds; None for the file's begin.
        stop: where it ends, in seconds; None, or past the file's end, for the file's end.
    """

    path: Path | str
    start: float | None = None
    stop: float | None = None

    def __post_init__(self) -> None:
        start, stop = self.start or 0.0, math.inf if self.stop is None else self.stop
        if not 0 <= start < stop:
            raise OptionError(f"{self.path}: cannot read from {self.start} to {self.stop} seconds.")

    def read(self) -> tuple[np.ndarray, int]:
        """``[n]`` float32 in [-1, 1], the mean of all channels, and the rate in Hz.

        Raises:
            DataError: the file is missing, damaged or cut off, has no sound, or none between
                ``start`` and ``stop``; the message names it.
            OODBenchError: the library that reads it is not installed.
        """
        known = Path(self.path).suffix.lower() in SOUND_SUFFIXES
        samples, rate = self._read_sound() if known else self._read_container()
        part = "" if self.start is self.stop is None else f", {self.start} to {self.stop} seconds,"
        return _checked(samples, rate, f"the recording {self.path}{part}")

    def _span(self, rate: int) -> tuple[int, int | None]:
        """First sample, and the one after the last."""
        stop = None if self.stop is None or self.stop == math.inf else round(self.stop * rate)
        return round((self.start or 0) * rate), stop

    def _read_sound(self) -> tuple[np.ndarray, int]:
        soundfile = library("soundfile", "audio")
        path = existing(self.path, "recording")
        try:
            with soundfile.SoundFile(str(path)) as file:
                first, stop = self._span(file.samplerate)
                if (stop is None or stop > file.frames) and is_cut_off(path):
                    raise self._cut_off()
                file.seek(min(first, file.frames))
                wanted = -1 if stop is None else max(stop - first, 0)
                return file.read(wanted, dtype="float32", always_2d=True), file.samplerate
        except (OSError, RuntimeError, ValueError) as error:  # soundfile's own are RuntimeErrors
            raise DataError(
                f"cannot read the recording {path} ({error}). {ADVICE.format(what='recording')}"
            ) from error

    def _read_container(self) -> tuple[np.ndarray, int]:
        av = library("av", "video")
        with opened(self.path, "recording") as container:
            stream = best_stream(container, "audio", self.path, "recording")
            rate = stream.codec_context.sample_rate
            first, stop = self._span(rate)
            # decoded from the start: a seek in sound lands where a packet begins, not a sample
            resampler = av.AudioResampler(format="fltp", rate=rate)
            pieces, length, packets = [np.zeros((0, 1), np.float32)], 0, 0
            for packet in container.demux(stream):
                packets += packet.size > 0
                for frame in (*packet.decode(), *([] if packet.size else [None])):
                    for piece in resampler.resample(frame):
                        pieces.append(piece.to_ndarray().mean(axis=0)[:, None])
                        length += len(pieces[-1])
                if stop is not None and length >= stop:
                    break
            else:
                if stream.frames > packets and is_cut_off(self.path):
                    raise self._cut_off()
        return np.concatenate(pieces)[first:stop], rate

    def _cut_off(self) -> DataError:
        return DataError(f"the recording {self.path} is cut off. Get it again, or leave it out.")


@dataclass(frozen=True, eq=False)
class Waveform(Audio):
    """A recording in memory.

    Args:
        samples: ``[n]`` or ``[n, channels]``: floats in [-1, 1], those beyond are cut, with a
            warning where it is more than an overshoot; or whole numbers of 8, 16 or 32 bits, which
            are scaled by their range (uint8 has silence at 128).
        rate: in Hz.
    """

    samples: np.ndarray
    rate: int

    def read(self) -> tuple[np.ndarray, int]:
        """``[n]`` float32 in [-1, 1], the mean of all channels, and the rate in Hz.

        Raises:
            DataError: there are no samples, or some are no numbers.
        """
        return _checked(self.samples, self.rate, "the waveform")


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
