"""Preprocessing and augmentation: against PIL and torchvision, which define what is meant."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import functional as tvf
from torchvision.transforms import v2 as tv2

from oodbench.data.augmentation import SimCLR
from oodbench.data.transforms import (
    CropFlip,
    InMode,
    MultimodalPreprocess,
    Preprocess,
    as_shown,
    content_key,
    of_prepared,
    to_tensor,
)
from oodbench.errors import OptionError
from tests.helpers.images import photograph

RGB = Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
GREY = Preprocess(8, (0.3,), (0.4,), mode="L", flip=False)
# what a view is, before it is normalised
PLAIN = Preprocess(32, (0.0,) * 3, (1.0,) * 3)
PLAIN_GREY = Preprocess(8, (0.0,), (1.0,), mode="L", flip=False)

sides = st.integers(1, 80)


# Preprocess


@settings(max_examples=60, deadline=None)
@given(width=sides, height=sides, size=st.integers(1, 40))
def test_stretch_is_pils_bilinear_resize(width: int, height: int, size: int) -> None:
    image = photograph(width, height)
    preprocess = replace(RGB, size=size)
    expected = tv.Compose(
        [
            tv.Resize((size, size), tv.InterpolationMode.BILINEAR),
            tv.ToTensor(),
            tv.Normalize(RGB.mean, RGB.std),
        ]
    )(image)
    found = preprocess(image)
    assert found.shape == (3, size, size)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(width=sides, height=sides, pre_size=st.integers(8, 40), data=st.data())
def test_crop_is_what_openood_does(
    width: int, height: int, pre_size: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, pre_size))
    image = photograph(width, height)
    preprocess = replace(PLAIN, size=size, resize="crop", pre_size=pre_size)
    expected = tv.Compose(
        [tv.Resize(pre_size, tv.InterpolationMode.BILINEAR), tv.CenterCrop(size)]
    )(image)
    assert np.array_equal(np.asarray(preprocess.fit_image(image)), np.asarray(expected))


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(90, 61), (61, 90), (64, 64), (200, 300)])
def test_every_image_passes_through_the_native_size(resize: str, width: int, height: int) -> None:
    """Its central square, with Pillow's antialiased bicubic filter; then the preprocessing."""
    image = photograph(width, height)
    plain = replace(PLAIN, size=24, resize=resize, pre_size=32)
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    square = image.crop((left, top, left + short, top + short))
    by_hand = square.resize((16, 16), Image.Resampling.BICUBIC)
    native = replace(plain, native=16)
    assert native(image).equal(plain(by_hand))
    assert native(by_hand).equal(plain(by_hand)), "an image of that size is left as it is"
    assert replace(plain, native=short)(image).equal(plain(square))
    own = tv.Compose([tv.Resize(24), tv.ToTensor()])
    assert as_shown(own, native)(image).equal(own(by_hand))
    grey = image.convert("L").convert("RGB")
    assert as_shown(own, native)(image.convert("L")).equal(as_shown(own, native)(grey))
    assert as_shown(plain, native) == native
    with pytest.raises(OptionError, match="native"):
        replace(plain, native=0)


@pytest.mark.parametrize("augmentation", [CropFlip, SimCLR])
def test_training_sees_the_native_size_too(augmentation: Any) -> None:
    """Stripes of a pixel are gone at a quarter of the size, also in what a network learns from."""
    stripes = Image.fromarray(np.uint8(np.indices((64, 64))[1] % 2 * 255)).convert("RGB")
    native = replace(PLAIN, size=16, native=16)
    for preprocess, is_grey in ((native, True), (replace(native, native=None, size=64), False)):
        view = augmentation(preprocess)
        if augmentation is SimCLR:
            view = SimCLR(preprocess, min_scale=0.99, colour=0)
        seen = view(stripes, random.Random(0))
        assert bool(seen[:, 4:12, 4:12].std() < 0.05) is is_grey


def test_the_native_size_is_in_the_key_and_old_keys_are_as_they_were() -> None:
    assert "native" not in content_key(PLAIN)
    assert content_key(replace(PLAIN, native=32)) == {**content_key(PLAIN), "native": 32}
    own = tv.Compose([tv.Resize(24), tv.ToTensor()])
    assert content_key(as_shown(own, PLAIN)) == content_key(own) == repr(own)
    shown = content_key(as_shown(own, replace(PLAIN, native=32)))
    assert shown == {"native": 32, "transform": repr(own)}
    assert content_key(as_shown(lambda image: image, replace(PLAIN, native=32))) is None


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    image = photograph(32, 32)
    for preprocess in (RGB, replace(RGB, resize="crop"), replace(RGB, resize="crop", pre_size=32)):
        assert np.array_equal(np.asarray(preprocess.fit_image(image)), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_that_of_the_id_set(mode: str) -> None:
    image = photograph().convert(mode)
    for preprocess in (PLAIN, PLAIN_GREY):
        fitted = preprocess.fit_image(image)
        assert fitted.mode == preprocess.mode
        # converted first, then resized: the other way round is another image
        by_hand = image.convert(preprocess.mode).resize(
            (preprocess.size,) * 2, Image.Resampling.BILINEAR
        )
        assert np.array_equal(np.asarray(fitted), np.asarray(by_hand))
        assert preprocess(image).shape == (preprocess.channels, preprocess.size, preprocess.size)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bit_grey_keeps_its_levels(dtype: type) -> None:
    levels = np.linspace(0, 65535, 64).reshape(8, 8)
    image = Image.fromarray(levels.astype(dtype))
    found = PLAIN_GREY(image)[0].numpy()
    assert np.abs(found - levels / 65535).max() < 1 / 255
    assert np.array_equal(replace(PLAIN, size=8)(image)[1].numpy(), found)
    view = SimCLR(PLAIN_GREY, min_scale=1.0, colour=0.0)(image, random.Random(0))
    assert view.unique().numel() > 16


def test_preprocessing_leaves_the_image_as_it_was() -> None:
    image = photograph()
    before = np.asarray(image).copy()
    for transform in (RGB, GREY):
        transform(image)
    for augmentation in (CropFlip(RGB), SimCLR(RGB)):
        augmentation(image, random.Random(0))
    assert np.array_equal(np.asarray(image), before)


@given(height=sides, width=sides, channels=st.sampled_from([1, 3]))
def test_to_tensor_is_torchvisions(height: int, width: int, channels: int) -> None:
    image = photograph(width, height).convert("L" if channels == 1 else "RGB")
    found = to_tensor(image)
    assert torch.equal(found, tvf.to_tensor(image))
    assert found.is_contiguous()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mode": "L"}, "mode 'L' has 1 channel"),
        ({"mean": (0.5,)}, "mean has 1"),
        ({"std": (0.5,) * 4}, "std 4"),
        ({"std": (0.5, 0.0, 0.5)}, "std positive"),
        ({"std": (0.5, -1.0, 0.5)}, "std positive"),
        ({"std": (0.5, math.nan, 0.5)}, "std positive"),
        ({"mean": (0.5, math.inf, 0.5)}, "mean must be finite"),
        ({"size": 0}, "size must be at least 1"),
    ],
)
def test_values_that_make_no_sense(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        replace(RGB, **options)


# What a cache key says of a transform


@pytest.mark.parametrize(
    "other",
    [
        replace(RGB, size=31),
        replace(RGB, mean=(0.5, 0.4, 0.31)),
        replace(RGB, std=(0.2, 0.25, 0.31)),
        replace(RGB, resize="crop"),
        replace(RGB, resize="crop", pre_size=40),
        Preprocess(32, (0.5,), (0.2,), mode="L"),
    ],
)
def test_another_preprocessing_has_another_key(other: Preprocess) -> None:
    assert content_key(other) != content_key(RGB)
    assert content_key(other) == content_key(replace(other))


def test_flip_is_for_training_only() -> None:
    assert content_key(replace(RGB, flip=False)) == content_key(RGB)


def test_transforms_without_content_have_no_key() -> None:
    class Unnamed:
        def __call__(self, image: Image.Image) -> torch.Tensor:
            return to_tensor(image)

    class Silent(torch.nn.Module):
        """Its settings are not in its repr."""

        def __init__(self, size: int) -> None:
            super().__init__()
            self.size = size

    for transform in (
        lambda image: image,
        Unnamed(),
        to_tensor,
        tv.Lambda(to_tensor),
        tv.Compose([tv.Resize(8), tv.Compose([tv.Lambda(to_tensor)])]),
        tv2.Compose([tv2.Resize(8), tv2.Lambda(to_tensor)]),
        Silent(8),
        torch.nn.Sequential(tv.Resize(8), Silent(8)),
        tv.Compose([Silent(8)]),
    ):
        assert content_key(transform) is None, transform


def test_transforms_that_say_what_they_do_have_a_key() -> None:
    class Told:
        def __repr__(self) -> str:
            return "Told(size=8)"

    for transform in (
        Told(),
        tv.Compose([tv.Resize(8), tv.ToTensor(), tv.Normalize(RGB.mean, RGB.std)]),
        tv2.Compose([tv2.Resize(8), tv2.ToImage(), tv2.Normalize(RGB.mean, RGB.std)]),
        torch.nn.Sequential(tv.Resize(8), tv.CenterCrop(4)),
    ):
        assert content_key(transform) == repr(transform)
    one, two = tv.Resize(8), tv.Resize(9)
    assert content_key(one) == content_key(tv.Resize(8)) is not None
    assert content_key(one) != content_key(two)


# Augmentations


@pytest.mark.parametrize("make", [CropFlip, SimCLR])
@pytest.mark.parametrize("preprocess", [RGB, GREY], ids=["rgb", "grey"])
def test_an_augmentation_is_determined_by_its_generator(make, preprocess: Preprocess) -> None:
    augmentation = make(preprocess)
    views = [augmentation(photograph(), random.Random(seed)) for seed in (1, 1, 2)]
    assert views[0].shape == (preprocess.channels, preprocess.size, preprocess.size)
    assert views[0].dtype == torch.float32
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    random.seed(0)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert torch.equal(augmentation(photograph(), random.Random(1)), views[0])


def test_crop_flip_shifts_by_an_eighth_over_black_and_mirrors() -> None:
    image = photograph(32, 32)
    padded = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)))
    crops = {
        padded[top : top + 32, left : left + 32].tobytes() for top in range(9) for left in range(9)
    }
    plain = mirrored = 0
    rng = random.Random(0)
    seen = set()
    for _ in range(1500):
        view = (CropFlip(PLAIN)(image, rng) * 255).round().to(torch.uint8).permute(1, 2, 0)
        flipped = view.flip(1).numpy().tobytes()
        view = view.numpy().tobytes()
        assert (view in crops) != (flipped in crops)
        plain += view in crops
        mirrored += flipped in crops
        seen.add(view if view in crops else flipped)
    assert len(seen) == 81, "all shifts in -4 … 4 occur"
    assert abs(plain - mirrored) < 200


@pytest.mark.parametrize("make", [CropFlip, SimCLR])
def test_what_must_not_be_mirrored_is_not(make) -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 32, dtype=np.uint8), (8, 1)))
    augmentation = make(PLAIN_GREY)
    rng = random.Random(0)
    for _ in range(100):
        row = augmentation(ramp, rng)[0].amax(dim=0)
        inside = row[row > 0]
        assert (inside.diff() >= 0).all(), "a ramp that rises to the right still does"


# What hands a transform on


def test_the_key_leaves_out_what_rows_of_before_did_not_say() -> None:
    assert "interpolation" not in content_key(RGB)
    assert content_key(replace(RGB, interpolation="bicubic"))["interpolation"] == "bicubic"


def test_a_prepared_image_is_brought_to_the_size_whole() -> None:
    crop = replace(RGB, resize="crop", pre_size=40)
    assert of_prepared(crop) == RGB
    assert of_prepared(crop, is_prepared=False) is crop
    assert of_prepared(RGB) is RGB
    assert of_prepared(to_tensor) is to_tensor


def test_an_own_transform_without_a_size_is_taken_for_one_of_32_pixels() -> None:
    def own(image: Image.Image) -> torch.Tensor:
        return to_tensor(image)

    shown = as_shown(own, RGB)
    assert isinstance(shown, InMode)
    assert shown.size == 32
    image = Image.new("L", (5, 5))
    assert shown(image).shape == (3, 5, 5)
    assert as_shown(RGB, RGB) is RGB


def test_each_modality_is_augmented_by_itself() -> None:
    both = MultimodalPreprocess({"colour": RGB, "grey": GREY})
    sample = {"colour": photograph(32, 32), "grey": photograph(8, 8)}
    found = both.augment(sample, random.Random(0))
    assert list(found) == ["colour", "grey"]
    rng = random.Random(0)
    torch.testing.assert_close(found["colour"], both.parts["colour"].augment(sample["colour"], rng))
    torch.testing.assert_close(found["grey"], both.parts["grey"].augment(sample["grey"], rng))
