"""PixMix: both mixings pixel by pixel, the draws of their weights, and the set that is mixed in."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import autoaugment

import oodbench
from oodbench import Preprocess
from oodbench.data.samples import ImageArrays
from oodbench.detectors.pixmix import (
    OneOperation,
    PixMixed,
    PixMixRecipe,
    added,
    multiplied,
    weights,
)
from oodbench.errors import OptionError
from oodbench.training.run import plan


def test_mixings_equal_their_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    x, u = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    for a, b in ((0.8, 0.3), (1.2, -0.4)):
        sums, products = added(x, u, a, b), multiplied(x, u, a, b)
        for place in np.ndindex(3, 4, 4):
            one, two = float(x[place]), float(u[place])
            expected = ((a * (one * 2 - 1) + b * (two * 2 - 1)) + 1) / 2
            assert float(sums[place]) == pytest.approx(expected, abs=1e-12)
            expected = (one * 2) ** a * (two * 2) ** b / 2
            assert float(products[place]) == pytest.approx(expected, abs=1e-9)
    assert multiplied(torch.zeros(1), torch.zeros(1), 1.5, -0.5).isfinite().all()


def test_weights_have_their_means() -> None:
    rng = random.Random(0)
    drawn = [weights(3.0, rng) for _ in range(20_000)]
    first = [pair for pair in drawn if pair[1] >= 0]
    second = [pair for pair in drawn if pair[1] < 0]
    assert len(first) / len(drawn) == pytest.approx(0.5, abs=0.02)
    # the mean of Beta(3, 1) is 3/4, that of Beta(1, 3) 1/4
    for pairs, means in ((first, (0.75, 0.25)), (second, (1.25, -0.25))):
        for values, mean in zip(zip(*pairs, strict=True), means, strict=True):
            assert statistics.fmean(values) == pytest.approx(mean, abs=0.01)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_are_mixed_with_pictures(mode: str) -> None:
    channels = 3 if mode == "RGB" else 1
    preprocess = Preprocess(16, (0.0,) * channels, (1.0,) * channels, mode=mode, flip=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 20, 40, 3)).astype(np.uint8)
    pictures = ImageArrays("pictures", pixels, np.zeros(5), ["all"])
    image = ImageArrays("own", pixels[:1, :16, :16], [0], ["a"])[0]
    mixed = PixMixed(preprocess, pictures, PixMixRecipe())
    made = [mixed(image, random.Random(i)) for i in range(40)]
    assert {tuple(one.shape) for one in made} == {(channels, 16, 16)}
    assert all(0 <= one.min() <= one.max() <= 1 for one in made)
    assert made[3].equal(mixed(image, random.Random(3)))
    assert not made[3].equal(made[4])


def test_the_set_has_to_be_given() -> None:
    with pytest.raises(OptionError, match="mixing_set=folder:PATH"):
        plan(oodbench.get_benchmark("digits"), "pixmix")
    with pytest.raises(OptionError, match="beta"):
        PixMixRecipe(beta=0.0)


def test_an_augmented_copy_is_one_operation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the image as it was is mixed in: where the operation gives black, all is black."""
    monkeypatch.setattr(
        autoaugment, "_apply_op", lambda image, *_args, **_kept: torch.zeros_like(image)
    )
    one = OneOperation(3, 1, 1)
    for seed in range(10):
        torch.manual_seed(seed)
        changed = one(Image.new("RGB", (16, 16), (200, 40, 90)))
        assert np.asarray(changed).max() == 0
