"""Augmentations against torchvision's, which define what is meant."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import functional as tvf

from oodbench.data import augmentation as augmentations
from oodbench.data.augmentation import SimCLR
from oodbench.data.transforms import Preprocess, to_tensor
from tests.helpers.images import photograph

RGB = Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
# what a view is, before it is normalised
PLAIN = Preprocess(32, (0.0,) * 3, (1.0,) * 3)
PLAIN_GREY = Preprocess(8, (0.0,), (1.0,), mode="L", flip=False)

factors = st.floats(-0.9, 0.9)


@settings(max_examples=40, deadline=None)
@given(change=factors, seed=st.integers(0, 20), grey=st.booleans())
def test_brightness_and_contrast_are_torchvisions(change: float, seed: int, grey: bool) -> None:
    image = photograph(seed=seed)
    image = image.convert("L") if grey else image
    for ours, theirs in (
        (augmentations._brightness, tvf.adjust_brightness),
        (augmentations._contrast, tvf.adjust_contrast),
    ):
        found = np.asarray(ours(image, change)).astype(int)
        expected = np.asarray(theirs(image, 1 + change)).astype(int)
        # the mean grey level that contrast is about is rounded
        assert np.abs(found - expected).max() <= 1


@settings(max_examples=40, deadline=None)
@given(change=factors, seed=st.integers(0, 20))
def test_saturation_is_torchvisions(change: float, seed: int) -> None:
    image = photograph(seed=seed)
    found = augmentations._saturation(image, change)
    assert np.array_equal(np.asarray(found), np.asarray(tvf.adjust_saturation(image, 1 + change)))


@settings(max_examples=200, deadline=None)
@given(change=st.floats(-0.5, 0.5), seed=st.integers(0, 20))
def test_hue_is_torchvisions(change: float, seed: int) -> None:
    image = photograph(seed=seed)
    found = augmentations._hue(image, change)
    assert np.array_equal(np.asarray(found), np.asarray(tvf.adjust_hue(image, change)))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(8, 80),
    height=st.integers(8, 80),
    seed=st.integers(0, 1000),
    min_scale=st.floats(0.1, 1.0),
)
def test_the_crop_of_a_view_is_within_bounds(
    width: int, height: int, seed: int, min_scale: float
) -> None:
    box = SimCLR(RGB, min_scale=min_scale)._box(width, height, random.Random(seed))
    left, top, right, bottom = box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    square = w == h == min(width, height)  # what is taken where nothing else fits
    slack = (w + 1) * (h + 1) - w * h  # sides are whole pixels
    assert square or w * h >= min_scale * width * height - slack
    assert square or (w - 0.5) / (h + 0.5) <= 4 / 3
    assert square or (w + 0.5) / (h - 0.5) >= 3 / 4


def test_crops_have_torchvisions_distribution() -> None:
    rng = random.Random(0)
    ours = [SimCLR(RGB)._box(32, 32, rng) for _ in range(3000)]
    image = photograph(32, 32)
    torch.manual_seed(0)
    theirs = [
        tv.RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)
    ]
    moments = [
        np.array([(r - left, b - top, left, top) for left, top, r, b in ours]),
        np.array([(w, h, left, top) for top, left, h, w in theirs]),
    ]
    means = [m.mean(axis=0) for m in moments]
    errors = [m.std(axis=0) / math.sqrt(3000) for m in moments]
    assert (np.abs(means[0] - means[1]) < 4 * np.hypot(*errors)).all()
    assert np.allclose(moments[0].std(axis=0), moments[1].std(axis=0), rtol=0.08)


@pytest.mark.parametrize("sides", [(32, 32), (17, 40), (200, 150)])
def test_a_views_crop_is_torchvisions(sides: tuple[int, int]) -> None:
    """Nothing of what is around it comes into its border."""
    image = photograph(*sides)
    for seed in range(20):
        view = SimCLR(PLAIN_GREY, min_scale=0.2, colour=0.0)
        left, top, right, bottom = view._box(*image.size, random.Random(seed))
        area = (top, left, bottom - top, right - left)
        grey = image.convert("L")
        expected = tvf.resized_crop(grey, *area, [8, 8], tvf.InterpolationMode.BILINEAR)
        assert torch.equal(view(image, random.Random(seed)), to_tensor(expected))


def test_photographs_are_augmented_as_torchvisions_preset() -> None:
    """Crop, flip and erasing; the operation between them is torchvision's own."""
    preprocess = Preprocess(32, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    augmentation = augmentations.TrivialResizedCrop(preprocess, erase=0.0)
    augmentation.operation = lambda image: image
    image = photograph(48, 40)
    for seed in range(20):
        rng = random.Random(seed)
        box = augmentations.random_box(48, 40, rng, 0.08)
        left, top, right, bottom = box
        sides = (top, left, bottom - top, right - left)
        crop = tvf.resized_crop(image, *sides, [32, 32], tvf.InterpolationMode.BILINEAR)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        expected = preprocess.normalize(to_tensor(crop))
        assert torch.equal(augmentation(image, random.Random(seed)), expected)


def test_erased_rectangles_have_torchvisions_distribution() -> None:
    """Value 0 after normalisation, area 0.02 to 0.33, aspect 0.3 to 3.3."""
    rng = random.Random(0)
    ones = torch.ones(3, 64, 64)
    ours, theirs = [], []
    torch.manual_seed(0)
    for _ in range(1500):
        pixels = ones.clone()
        augmentations.TrivialResizedCrop._erase(pixels, rng)
        erased = pixels[0] == 0
        assert torch.equal(pixels[0], pixels[2])
        top, left = (int(axis.nonzero()[0]) for axis in (erased.any(1), erased.any(0)))
        h, w = int(erased.any(1).sum()), int(erased.any(0).sum())
        assert int(erased.sum()) == h * w, "a rectangle"
        ours.append((h, w, top, left))
        top, left, h, w, _ = tv.RandomErasing.get_params(ones, (0.02, 0.33), [0.3, 3.3])
        theirs.append((h, w, top, left))
    moments = [np.array(found) for found in (ours, theirs)]
    errors = [m.std(axis=0) / math.sqrt(1500) for m in moments]
    assert (np.abs(moments[0].mean(0) - moments[1].mean(0)) < 4 * np.hypot(*errors)).all()
    assert np.allclose(moments[0].std(axis=0), moments[1].std(axis=0), rtol=0.1)


def test_as_often_erased_as_was_asked_for() -> None:
    preprocess = Preprocess(32, (0.0,) * 3, (1.0,) * 3)
    augmentation = augmentations.TrivialResizedCrop(preprocess, erase=0.1)
    augmentation.operation = lambda image: image
    white = Image.new("RGB", (40, 40), (255, 255, 255))
    n = sum(bool((augmentation(white, random.Random(s)) == 0).any()) for s in range(1000))
    assert 70 <= n <= 130


def test_a_view_without_colour_and_scale_is_the_image_itself() -> None:
    image = photograph(32, 32)
    preprocess = replace(PLAIN, flip=False)
    expected = {
        to_tensor(image).numpy().tobytes(),
        to_tensor(image.convert("L").convert("RGB")).numpy().tobytes(),
    }
    # an area of 1 leaves no room for another aspect than 1; else the square falls back to itself
    views = [
        SimCLR(preprocess, min_scale=1.0, colour=0.0)(image, random.Random(seed))
        for seed in range(60)
    ]
    assert {view.numpy().tobytes() for view in views} == expected


def test_a_fifth_of_colour_views_is_grey() -> None:
    rng = random.Random(0)
    views = [SimCLR(PLAIN)(photograph(), rng) for _ in range(500)]
    grey = sum(bool((view[0] == view[1]).all() and (view[1] == view[2]).all()) for view in views)
    assert 65 <= grey <= 140
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)
