"""Small networks, what counts their samples, and samples that break."""

from __future__ import annotations

from PIL import Image
from torch import nn

from oodbench.data.samples import ImageArrays
from tests.helpers.images import arrays


def flat_model() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))


class Counter:
    """Counts the samples that went through a network."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, n: int) -> None:
        self.n += n


class Breaks(ImageArrays):
    """Cannot read one image, once."""

    def __init__(self, at: int) -> None:
        base = arrays(40)
        super().__init__("brittle/test", base.images, base.labels, base.classes)
        self.at: int | None = at
        self.read: list[int] = []

    def __getitem__(self, index: int) -> Image.Image:
        if index == self.at:
            self.at = None
            raise OSError("the disk was pulled out")
        self.read.append(index)
        return super().__getitem__(index)
