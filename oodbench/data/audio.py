"""Recordings: files and waveforms, read when they are needed."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodbench.data.media import ADVICE, best_stream, existing, is_cut_off, library, opened
from oodbench.errors import DataError, OODBenchWarning, OptionError

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
