"""Spoken digits as pictures: log-mel spectrograms of the Free Spoken Digit Dataset.

Images that no photographer took: ordinary OOD for networks that were pre-trained on photographs.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from oodbench.data.audio import AudioFile
from oodbench.data.samples import Samples, content_digest
from oodbench.data.spectrograms import LogMel
from oodbench.dataset import DatasetSpec
from oodbench.errors import MissingDataError

from .avdigits import RATE, Recording, recordings

SPECTROGRAM = LogMel(rate=RATE, seconds=1.0, mels=64)
REACH = 3.0
"""Deviations from the mean that are black and white."""


class Spectrograms(Samples):
    """Recordings as grey pictures, low frequencies at the bottom, loud is bright.

    Args:
        name: what messages call it.
        clips: the recordings; their labels are the digits.
    """

    def __init__(self, name: str, clips: list[Recording]) -> None:
        super().__init__(name, [clip.digit for clip in clips], [str(digit) for digit in range(10)])
        self.clips = clips

    def __getitem__(self, index: int) -> Image.Image:
        """The picture of the recording at a position, 64 pixels high and 101 wide."""
        values = SPECTROGRAM(AudioFile(self.clips[index].path))[0].flip(0)
        levels = ((values / REACH).clamp(-1, 1) + 1) / 2 * 255
        return Image.fromarray(levels.round().byte().numpy())

    def _digests(self) -> np.ndarray:
        how = repr((SPECTROGRAM, REACH)).encode()
        contents = (content_digest(how + clip.path.read_bytes()) for clip in self.clips)
        return np.fromiter(contents, dtype=np.uint64, count=len(self))


def _load(split: str) -> Samples:
    try:
        clips = recordings()
    except MissingDataError as error:
        raise MissingDataError(f"fsdd-spectrograms/{split}: {error}") from error
    return Spectrograms(f"fsdd-spectrograms/{split}", clips)


FSDD_SPECTROGRAMS = DatasetSpec(
    "fsdd-spectrograms",
    _load,
    description="log-mel spectrograms of spoken digits, grey, 101x64",
    source="https://github.com/Jakobovski/free-spoken-digit-dataset",
    licence="CC BY-SA 4.0",
    citation="Jackson et al. 2019, Free Spoken Digit Dataset, doi 10.5281/zenodo.1342401",
)
