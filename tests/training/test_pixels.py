"""Learning a class for each pixel: crops of image and mask alike, and the loss."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from oodbench import Preprocess
from oodbench.data.samples import OOD, VOID
from oodbench.detectors.ce_segmentation import CESegmentation
from oodbench.errors import DataError
from oodbench.tasks.pixels import segment
from oodbench.training.pixels import CropFlipMask
from tests.helpers.pixels import CPU, GREY, RECIPE, Array, Pixelwise, Strided, drawn

# --- training examples ------------------------------------------------------------------------


def padded(ids: Array, size: int) -> Array:
    down, right = (max(0, size - side) for side in ids.shape)
    return np.pad(ids, ((0, down), (0, right)), constant_values=VOID)


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 15), st.integers(1, 15), st.integers(1, 16), st.booleans(), st.integers(0, 2**31)
)
def test_image_and_mask_are_cut_alike(
    height: int, width: int, size: int, flip: bool, seed: int
) -> None:
    """A window of the padded image or its mirror, with the mask that belongs to it."""
    preprocess = Preprocess(size, (0.5,), (0.25,), mode="L", flip=flip)
    ids = np.arange(height * width, dtype=np.uint8).reshape(height, width)  # each another
    pixels, target = CropFlipMask(preprocess)(Image.fromarray(ids), ids, random.Random(seed))
    assert pixels.shape == (1, size, size)
    assert pixels.dtype == torch.float32
    assert target.shape == (size, size)
    assert target.dtype == torch.int64
    void = target == VOID
    expected = torch.where(void, 0.0, (target / 255 - 0.5) / 0.25)  # padded after normalisation
    torch.testing.assert_close(pixels[0], expected.float())
    whole, found = padded(ids, size), target.numpy()
    windows = [
        whole[top : top + size, left : left + size]
        for top in range(whole.shape[0] - size + 1)
        for left in range(whole.shape[1] - size + 1)
    ]
    mirrored = [window[:, ::-1] for window in windows] if flip else []
    assert any(np.array_equal(found, window) for window in [*windows, *mirrored])


def test_crops_and_flips_vary_and_depend_on_their_random_numbers_alone() -> None:
    ids = np.arange(6 * 7, dtype=np.uint8).reshape(6, 7)
    change = CropFlipMask(Preprocess(4, (0.5,), (0.25,), mode="L", flip=True))
    first = [change(Image.fromarray(ids), ids, random.Random(i))[1] for i in range(200)]
    torch.manual_seed(99)
    again = [change(Image.fromarray(ids), ids, random.Random(i))[1] for i in range(200)]
    assert all(map(torch.equal, first, again))
    flipped = [bool(mask[0, 0] > mask[0, 1]) for mask in first]
    assert 60 < sum(flipped) < 140
    corners = {int(mask.min()) for mask in first}
    assert corners == {7 * top + left for top in range(3) for left in range(4)}, "all windows"


def test_colours_are_cut_as_well() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    change = CropFlipMask(Preprocess(9, (0.0,) * 3, (1.0,) * 3))
    pixels, target = change(Image.fromarray(rgb), np.zeros((5, 6), np.uint8), random.Random(1))
    assert pixels.shape == (3, 9, 9)
    known = target == 0
    assert known.sum() == 30
    values = (255 * pixels[:, known]).round().T.reshape(5, 6, 3).numpy()
    assert np.array_equal(values, rgb) or np.array_equal(values, rgb[:, ::-1])


def test_a_mask_of_another_size_is_refused() -> None:
    image, mask = Image.new("L", (9, 6)), np.zeros((9, 6), np.uint8)
    with pytest.raises(DataError, match=r"6 x 9 pixels, its mask 9 x 6.*one size"):
        CropFlipMask(GREY)(image, mask, random.Random(0))
    samples = drawn("toy/test")
    samples.masks = [*samples.masks[:2], samples.masks[2][:-1], samples.masks[3]]
    with pytest.raises(DataError, match=r"toy/test, image 2: .* 6 x 9 pixels, its mask 5 x 9"):
        list(segment(Pixelwise(), samples, GREY, CPU))


# --- the loss and the maps --------------------------------------------------------------------


def learner(stride: int = 2) -> CESegmentation:
    torch.manual_seed(0)
    return CESegmentation(Strided(stride), 3, RECIPE)


def test_loss_is_the_cross_entropy_of_known_pixels() -> None:
    method = learner()
    images = torch.randn(2, 1, 8, 6)
    masks = torch.stack([torch.from_numpy(m).long() for m in drawn("toy", ((8, 6),) * 2).masks])
    found = method.loss(images, masks)
    with torch.no_grad():
        small = method.linear(method.backbone(images))
        assert small.shape == (2, 3, 4, 3)
        logits = F.interpolate(small, (8, 6), mode="bilinear", align_corners=False).double()
    terms, right = [], []
    for b, y, x in itertools.product(range(2), range(8), range(6)):
        label = int(masks[b, y, x])
        if label in (0, 1, 2):
            pixel = logits[b, :, y, x].numpy()
            terms.append(np.log(np.exp(pixel).sum()) - pixel[label])
            right.append(pixel.argmax() == label)
    assert 20 < len(terms) < 80
    assert found["loss"].item() == pytest.approx(np.mean(terms), rel=1e-5)
    assert found["accuracy"].item() == pytest.approx(np.mean(right), rel=1e-6)
    known = masks < 3
    by_torch = F.cross_entropy(logits.permute(0, 2, 3, 1)[known], masks[known])
    assert found["loss"].item() == pytest.approx(by_torch.item(), rel=1e-5)


def test_pixels_of_no_class_do_not_teach() -> None:
    method = learner(stride=1)
    masks = torch.full((1, 4, 4), VOID)
    masks[0, 1, 1], masks[0, 2, 2] = 2, OOD
    images = torch.randn(1, 1, 4, 4, requires_grad=True)
    method.loss(images, masks)["loss"].backward()
    gradient = images.grad
    assert gradient is not None
    reached = torch.zeros(4, 4, dtype=torch.bool)
    reached[0:3, 0:3] = True  # what the one known pixel's 3 x 3 window sees
    assert gradient[0, 0][reached].ne(0).any()
    assert gradient[0, 0][~reached].eq(0).all()


@pytest.mark.parametrize("value", [VOID, OOD])
def test_loss_without_a_known_pixel_is_zero(value: int) -> None:
    method = learner()
    found = method.loss(torch.randn(2, 1, 8, 6), torch.full((2, 8, 6), value))
    assert found["loss"].item() == 0
    assert found["accuracy"].item() == 0
    found["loss"].backward()
    for parameter in method.parameters():
        assert parameter.grad is not None
        assert parameter.grad.eq(0).all()
