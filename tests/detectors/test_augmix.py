"""AugMix: the divergence beside its definition, and three views of one crop."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from oodbench import Preprocess
from oodbench.data.transforms import CropFlip
from oodbench.detectors.augmix import AugMixRecipe, AugMixViews, divergence
from oodbench.errors import OptionError


def test_divergence_equals_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    total = 0.0
    for b in range(5):
        p = [[math.exp(v) for v in logits[k, b].tolist()] for k in range(3)]
        p = [[v / sum(row) for v in row] for row in p]
        m = [sum(row[c] for row in p) / 3 for c in range(4)]
        total += sum(v * math.log(v / m[c]) for row in p for c, v in enumerate(row)) / 3
    assert divergence(logits).item() == pytest.approx(total / 5, abs=1e-9)
    assert divergence(logits[:1].repeat(3, 1, 1)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_views_are_of_one_crop(mode: str) -> None:
    channels = 3 if mode == "RGB" else 1
    preprocess = Preprocess(16, (0.5,) * channels, (0.5,) * channels, mode=mode, flip=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    views = AugMixViews(preprocess, 3)(image, random.Random(0))
    assert views.shape == (3, channels, 16, 16)
    assert not views[1].equal(views[2])
    crop = random.Random(random.Random(0).getrandbits(63))
    assert views[0].equal(CropFlip(preprocess)(image, crop))
    assert views.equal(AugMixViews(preprocess, 3)(image, random.Random(0)))


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(OptionError, match="severity"):
        AugMixRecipe(severity=0)
