"""Two small towers for images of digits and other small things: to try networks that read text.

The image tower pools three stages of convolutions, whose positions are its patches; the text tower
pools the vectors of words, of which it knows as many as it has rows (a word is found by a hash of
its letters).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oodbench.networks.towers import Towers
from oodbench.registry import register_backbone

WIDTH, WORDS, PADDING = 64, 4096, 0


class SmallImages(nn.Module):
    """Images to embeddings, with those of their positions.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, out in ((channels, 32), (32, 64)):
            layers += [nn.Conv2d(inside, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(64, WIDTH)

    def with_patches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of whole images ``[B, D]`` and of their positions ``[B, P, D]``."""
        maps = self.layers(images).flatten(2).transpose(1, 2)
        return self.last(maps.mean(dim=1)), self.last(maps)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``[B, D]``."""
        return self.with_patches(images)[0]


class SmallTexts(nn.Module):
    """Texts to embeddings ``[M, D]``, by the mean of their words' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(WORDS, WIDTH, PADDING)
        self.last = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts; letters' case and full stops do not count."""
        rows = [[_row(word) for word in text.lower().rstrip(".").split()] for text in texts]
        longest = max(map(len, rows), default=0)
        padded = [row + [PADDING] * (longest - len(row)) for row in rows]
        ids = torch.tensor(padded, device=self.tokens.weight.device).view(len(rows), longest)
        there = (ids != PADDING)[..., None]
        mean = (self.tokens(ids) * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
        embeddings: Tensor = self.last(mean)
        return embeddings


def _row(word: str) -> int:
    return 1 + zlib.crc32(word.encode()) % (WORDS - 1)


class SmallTowers(Towers):
    """The two of this module, with a scale of 20.

    Args:
        channels: of the images.
    """

    num_features = WIDTH

    def __init__(self, channels: int = 3) -> None:
        images, texts = SmallImages(channels), SmallTexts()
        super().__init__(images, texts, 20.0, texts, tokens=texts.tokens, before=0)


@register_backbone("digits-towers", takes="images", gives="towers")
def digits_towers(channels: int = 3) -> SmallTowers:
    """Small image and text towers for digits, to try networks that read text: 64 features."""
    return SmallTowers(channels)
