"""Written and spoken digits: MNIST images and recordings of the Free Spoken Digit Dataset.

ID: a digit 0-4, seen and heard. Near-OOD: a digit 5-9, seen and heard. Far-OOD, which only several
modalities can have: an image and a recording of different digits 0-4 (mismatch), a recording with a
piece of a photograph in the image's place, an image with chords in the recording's. Shifted: the
ID test images with recordings by two speakers of whom nothing is in training. Trains on a CPU in
minutes.

An image of a digit is paired with a random recording of the same digit. The recordings are split by
number: 0-9 of a digit by a speaker are for test, 10-19 for validation, the rest for training, and
each of four speakers is in all three; so are they in the near-OOD and far-OOD sets, which differ
from ID in what is seen or heard, and not in who says it. From MNIST's training images come the
first 1,000 of each digit for training and the last 200 (a fifth, if there are fewer) for
validation, from its test images the first 200 of each. There are 40 test recordings of a digit (100
in the shifted set), so that about five pairs share one: intervals, which count each pair as
independent, are too narrow.

Five ID classes are few for what A2D spreads over the other ones, but no fewer than where it was
published: MultiOOD's EPIC-Kitchens 4/4 has four. Near-OOD takes the other digits, and no second
label of these data (who speaks, odd or even) is both seen and heard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from oodbench import files
from oodbench.benchmark import Benchmark
from oodbench.data.audio import AudioFile, Waveform
from oodbench.data.samples import MultimodalSamples, Samples, content_digest
from oodbench.data.spectrograms import LogMel
from oodbench.data.transforms import MultimodalPreprocess, Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import DataError, MissingDataError, OptionError

from .images import MNIST
from .multiood.benchmarks import posthoc_preset

ID_CLASSES = tuple(str(digit) for digit in range(5))
OOD_CLASSES = tuple(str(digit) for digit in range(5, 10))
SPEAKERS = ("george", "jackson", "lucas", "nicolas")
"""Heard in training, validation and test."""

OTHER_SPEAKERS = ("theo", "yweweler")
"""Heard in the shifted set alone."""

SPLITS = ("train", "val", "test")
NUMBERS = {"test": range(10), "val": range(10, 20)}
"""Of each speaker's recordings of a digit, by split; all others are for training."""

RATE = 8000
"""Of the recordings, in Hz."""

FSDD = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
"""Commit of github.com/Jakobovski/free-spoken-digit-dataset with 3,000 recordings."""

WHOLE = "81b734dd8186c00d4d19c6af362f3120dae83dbabfb5e8493c970c99d65b2500"
"""sha256 over names and sha256 of those recordings."""

PREPROCESS = MultimodalPreprocess(
    {
        "image": Preprocess(28, (0.1307,), (0.3081,), mode="L", flip=False),
        "audio": LogMel(rate=RATE, seconds=1.0, mels=40),
    }
)


@dataclass(frozen=True)
class Recording:
    """A recording of a digit.

    Args:
        path: the file.
        digit: that is said.
        speaker: who says it.
        number: which of the speaker's recordings of the digit it is.
    """

    path: Path
    digit: int
    speaker: str
    number: int


def recordings() -> list[Recording]:
    """All recordings below the data folder, by name.

    Raises:
        MissingDataError: there are none.
        DataError: all are there, but not as published.
    """
    looked = [files.data_dir() / "fsdd" / "recordings", files.data_dir() / "fsdd"]
    for folder in looked:
        clips = [
            Recording(path, int(match[1]), match[2], int(match[3]))
            for path in sorted(folder.glob("*.wav"))
            if (match := re.fullmatch(r"(\d)_([a-z]+)_(\d+)\.wav", path.name))
        ]
        if clips:
            _check(folder, clips)
            return clips
    raise MissingDataError(
        f"no recordings <digit>_<speaker>_<number>.wav in {looked[0]}. Get it: "
        f"git clone https://github.com/Jakobovski/free-spoken-digit-dataset {looked[1]}, or set "
        "OODBENCH_DATA to the folder that has it."
    )


def _check(folder: Path, clips: Sequence[Recording]) -> None:
    if len(clips) != 3000:
        return
    sums = [(one.path.name, _sha256(one.path, one.path.stat().st_mtime_ns)) for one in clips]
    if files.digest(sums) != WHOLE:
        raise DataError(
            f"the 3,000 recordings in {folder} are not those of commit {FSDD[:7]} of "
            "github.com/Jakobovski/free-spoken-digit-dataset. Get them again."
        )


@cache
def _sha256(path: Path, _: int) -> str:
    return files.sha256(path)


class AVDigits(MultimodalSamples):
    """Pairs of an image and a recording.

    Args:
        name: what messages call it.
        images: what is seen, N images.
        audio: what is heard, N recordings.
        labels: ``[N]``.
        classes: class names.
    """

    def __init__(
        self,
        name: str,
        images: Sequence[Any],
        audio: Sequence[AudioFile | Waveform],
        labels: np.ndarray,
        classes: Sequence[str],
    ) -> None:
        super().__init__(name, labels, classes, ("image", "audio"))
        self.images, self.audio = images, audio

    def __getitem__(self, index: int) -> Any:
        """``image``, of PIL, and ``audio``, that is read when it is needed."""
        return {"image": self.images[index], "audio": self.audio[index]}

    def _digests(self) -> np.ndarray:
        digests = []
        for image, audio in zip(self.images, self.audio, strict=True):
            if isinstance(audio, AudioFile):
                path = Path(audio.path)
                heard = _sha256(path, path.stat().st_mtime_ns).encode()
            else:
                heard = audio.samples.tobytes()
            digests.append(content_digest(np.asarray(image).tobytes() + heard))
        return np.array(digests, dtype=np.uint64)


class _Chosen(Sequence[Image.Image]):
    """Some images of samples, read when they are needed."""

    def __init__(self, samples: Samples, rows: np.ndarray) -> None:
        self.samples, self.rows = samples, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.samples[int(self.rows[index])]


def _images(split: str, digits: Sequence[int]) -> tuple[_Chosen, np.ndarray]:
    """Images of digits and which they are, by digit."""
    samples = MNIST.load("test" if split == "test" else "train")
    rows = []
    for digit in digits:
        positions = np.flatnonzero(samples.labels == digit)
        held_out = min(200, len(positions) // 5)
        parts = {
            "train": positions[: -held_out or None][:1000],
            "val": positions[len(positions) - held_out :],
        }
        rows.append(positions[:200] if split == "test" else parts[split])
    whole = np.concatenate(rows)
    return _Chosen(samples, whole), samples.labels[whole]


def _split(one: Recording) -> str:
    if one.speaker in OTHER_SPEAKERS:
        return "test"
    return next((split for split, numbers in NUMBERS.items() if one.number in numbers), "train")


def _audio(split: str, speakers: Sequence[str]) -> dict[int, list[AudioFile]]:
    """Recordings of a split by some speakers, by digit."""
    by_digit: dict[int, list[AudioFile]] = {digit: [] for digit in range(10)}
    for one in recordings():
        if one.speaker in speakers and _split(one) == split:
            by_digit[one.digit].append(AudioFile(one.path))
    empty = [str(digit) for digit, audio in by_digit.items() if not audio]
    if empty:
        raise DataError(
            f"avdigits/{split}: no recordings of the digits {', '.join(empty)} by "
            f"{', '.join(speakers)}. Get the Free Spoken Digit Dataset again."
        )
    return by_digit


def _paired(
    split: str,
    digits: Sequence[int],
    shift: bool = False,
    speakers: Sequence[str] = SPEAKERS,
) -> tuple[Any, Any, np.ndarray]:
    """Images, recordings of the same digits (of others of these digits with ``shift``), digits."""
    images, image_digits = _images(split, digits)
    rng = np.random.default_rng([SPLITS.index(split), digits[0], int(shift)])
    spoken_digits = image_digits
    if shift:
        spoken_digits = digits[0] + (
            image_digits - digits[0] + rng.integers(1, len(digits), len(image_digits))
        ) % len(digits)
    by_digit = _audio(split, speakers)
    audio = [by_digit[int(d)][int(rng.integers(len(by_digit[int(d)])))] for d in spoken_digits]
    return images, audio, image_digits


def _load(
    name: str, splits: tuple[str, ...], make: Callable[[str], AVDigits], split: str
) -> AVDigits:
    if split not in splits:
        raise OptionError(f"{name} has the splits {', '.join(splits)}, not {split!r}.")
    try:
        samples = make(split)
    except MissingDataError as error:
        raise MissingDataError(f"{name}/{split}: {error}") from error
    samples.name = f"{name}/{split}"
    return samples


def _id(split: str) -> AVDigits:
    images, audio, digits = _paired(split, range(5))
    return AVDigits("", images, audio, digits, ID_CLASSES)


def _near(split: str) -> AVDigits:
    images, audio, digits = _paired(split, range(5, 10))
    return AVDigits("", images, audio, digits - 5, OOD_CLASSES)


def _other_speakers(split: str) -> AVDigits:
    images, audio, digits = _paired(split, range(5), speakers=OTHER_SPEAKERS)
    return AVDigits("", images, audio, digits, ID_CLASSES)


def _mismatch(split: str) -> AVDigits:
    images, audio, digits = _paired(split, range(5), shift=True)
    return AVDigits("", images, audio, digits, ID_CLASSES)


def _image_replaced(split: str) -> AVDigits:
    images, audio, digits = _paired(split, range(5))
    rng = np.random.default_rng(0)
    greys = [np.asarray(Image.fromarray(p).convert("L")) for p in load_sample_images().images]
    pieces = [_piece(rng, greys) for _ in range(len(images))]
    return AVDigits("", pieces, audio, digits, ID_CLASSES)


def _piece(rng: np.random.Generator, greys: Sequence[np.ndarray]) -> Image.Image:
    whole = greys[int(rng.integers(len(greys)))]
    top, left = (int(rng.integers(0, side - 56)) for side in whole.shape)
    return Image.fromarray(whole[top : top + 56, left : left + 56]).resize((28, 28))


def _audio_replaced(split: str) -> AVDigits:
    images, _, digits = _paired(split, range(5))
    rng = np.random.default_rng(1)
    return AVDigits("", images, [_chord(rng) for _ in range(len(images))], digits, ID_CLASSES)


def _chord(rng: np.random.Generator) -> Waveform:
    """Three notes of the equal-tempered scale with four harmonics each, struck and fading."""
    seconds = float(rng.uniform(0.3, 0.9))
    t = np.arange(int(seconds * RATE)) / RATE
    notes = 110 * 2 ** (rng.integers(0, 37, 3) / 12)
    wave = sum(np.sin(2 * np.pi * k * note * t) / k for note in notes for k in range(1, 5))
    faded = wave * np.exp(-t / seconds * 3)
    return Waveform((0.5 * faded / np.abs(faded).max()).astype(np.float32), RATE)


def _spec(
    name: str,
    make: Callable[[str], AVDigits],
    splits: tuple[str, ...] = ("test",),
    *,
    description: str,
) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        load=partial(_load, name, splits, make),
        splits=splits,
        description=description,
        source="MNIST and https://github.com/Jakobovski/free-spoken-digit-dataset",
        licence="CC BY-SA 3.0 (MNIST), CC BY-SA 4.0 (FSDD)",
        citation="LeCun et al. 1998; Jackson et al., DOI 10.5281/zenodo.1342401",
    )


AVDIGITS = _spec("avdigits", _id, SPLITS, description="digits 0-4, seen and heard")
AVDIGITS_5_9 = _spec("avdigits-5-9", _near, description="digits 5-9, seen and heard")
SPEAKERS_SHIFTED = _spec(
    "avdigits-speakers",
    _other_speakers,
    description="digits 0-4, seen and heard, by other speakers",
)
MISMATCH = _spec(
    "avdigits-mismatch", _mismatch, description="a digit 0-4 is seen, another one heard"
)
IMAGE_REPLACED = _spec(
    "avdigits-image-replaced", _image_replaced, description="digits 0-4 are heard, photographs seen"
)
AUDIO_REPLACED = _spec(
    "avdigits-audio-replaced", _audio_replaced, description="digits 0-4 are seen, chords heard"
)


REMARKS = (
    "Pairs of the ID, near and far sets are of four speakers who are in training, with other "
    "recordings; about five pairs share a recording, so that intervals, which count pairs as "
    "independent, are too narrow.",
    "Seen alone, avdigits-mismatch, avdigits-audio-replaced and avdigits-speakers have the images "
    "of the ID test set, heard alone avdigits-image-replaced has its recordings: there AUROC is 50 "
    "by construction in rows of that modality.",
    "What A2D and NP-Mix do here, over five seeds of the recipe warm, in the order multimodal-ce, "
    "a2d, npmix, a2d-npmix. The discrepancy of the modalities' predictions tells near-OOD better, "
    "as A2D intends: modality-discrepancy has a near AUROC of 88.7 ± 7.3, 94.7 ± 3.2, 89.1 ± 8.4, "
    "93.3 ± 4.0, and a far one of 92.0, 89.4, 91.7, 90.2. The detectors of the joint prediction "
    "gain nothing: msp has 98.1, 97.5, 98.0, 97.7 near, and knn (k=50) 99.3, 98.8, 99.3, 99.0, "
    "ahead of the discrepancy with every method. The joint accuracy stays at 99.7, 99.6, 99.6, "
    "99.6; the heads of one modality lose: 98.3, 96.7, 98.2, 97.9 of the image's, 91.2, 86.0, "
    "90.3, 87.8 of the recording's. With seeds apart by up to 20 points, five tell a trend and no "
    "more.",
)


def avdigits() -> Benchmark:
    """Digits 0-4 seen and heard, against 5-9 (near), mismatches and a replaced modality (far).

    Beside them, digits 0-4 by other speakers (shifted). The preset ``multiood`` leaves ViM as it
    is: its 256 dimensions are more than the joint embeddings have.
    """
    preset = posthoc_preset(len(ID_CLASSES))
    del preset["vim"]
    return Benchmark(
        name="avdigits",
        id=AVDIGITS,
        near=(AVDIGITS_5_9,),
        far=(MISMATCH, IMAGE_REPLACED, AUDIO_REPLACED),
        shifted=(SPEAKERS_SHIFTED,),
        preprocess=PREPROCESS,
        backbone="avdigits-cnn",
        citation="oodbench",
        presets={"multiood": preset},
        remarks=REMARKS,
    )
