"""SimCLR views of a whole batch: those of Pillow, with numbers of their own for each view."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oodbench.data import augmentation as by_image
from oodbench.data.augmentation import SimCLR, random_box
from oodbench.data.batched import BatchedSimCLR, grey_of, uniform
from oodbench.data.transforms import Preprocess, byte_tensor
from oodbench.feeding import to_device
from oodbench.testing.accelerator import stand_in
from tests.helpers.images import photograph

RGB = Preprocess(32, (0.0,) * 3, (1.0,) * 3)
GREY = Preprocess(32, (0.0,), (1.0,), mode="L", flip=False)
STEPS = (by_image._brightness, by_image._contrast, by_image._saturation, by_image._hue)


def views_of(preprocess: Preprocess, **options: Any) -> BatchedSimCLR:
    return BatchedSimCLR(SimCLR(preprocess, **options), 2, seed=7)


def turns_of(batch: dict[str, Any]) -> np.ndarray:
    """Which step each view takes, turn by turn ``[turns, N]``; as many as there are for none."""
    order = batch["order"].numpy()
    turns = np.full_like(order, len(order))
    for turn, ends in enumerate(batch["ends"]):
        for step, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            turns[turn, order[turn, begin:end]] = step
    return turns


def by_pillow(image: Image.Image, batch: dict[str, Any], number: int, side: int) -> Image.Image:
    """A view as the augmentation of single images makes it, with the numbers of a batch."""
    left, top, w, h = batch["boxes"].flatten(0, 1)[number].tolist()
    view = image.crop((left, top, left + w, top + h))
    view = view.resize((side, side), Image.Resampling.BILINEAR)
    if batch["flip"].flatten()[number]:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for step in turns_of(batch)[:, number]:
        if step < len(batch["changes"]):
            view = STEPS[step](view, float(batch["changes"][step, number]))
    if number in batch["grey"].tolist():
        view = view.convert("L").convert("RGB")
    return view


@pytest.mark.parametrize(("preprocess", "share"), [(RGB, 0.01), (GREY, 0.0)])
def test_a_view_is_the_one_that_pillow_makes(preprocess: Preprocess, share: float) -> None:
    """Pixel by pixel; only the turned hue, which Pillow rounds in between, may differ by levels."""
    images = [photograph(32, 32, seed=i) for i in range(40)]
    views = views_of(preprocess)
    batch = views.drawn(images, range(40))
    found = views.levels(batch).flatten(0, 1)
    expected = torch.stack(
        [
            byte_tensor(by_pillow(images[n // 2].convert(preprocess.mode), batch, n, 32))
            for n in range(80)
        ]
    ).permute(0, 3, 1, 2)
    off = (found - expected).abs()
    assert (off > 0).float().mean() <= share
    assert off.max() <= (16 if share else 0)


def test_without_colour_a_view_is_a_crop_to_the_last_bit() -> None:
    images = [photograph(32, 32, seed=i) for i in range(20)]
    views = views_of(RGB, colour=0.0)
    batch = views.drawn(images, range(20))
    found = views.levels(batch).flatten(0, 1)
    for n in range(40):
        expected = byte_tensor(by_pillow(images[n // 2], batch, n, 32)).permute(2, 0, 1)
        assert found[n].equal(expected.float())


def test_images_of_other_sizes_are_cropped_before_they_are_sent() -> None:
    """What becomes of an image does not depend on those beside it."""
    sizes = [(32, 32), (50, 41), (20, 32), (32, 32)]
    images = [photograph(*size, seed=i) for i, size in enumerate(sizes)]
    views = views_of(RGB)
    batch = views.drawn(images, [5, 6, 7, 8])
    assert batch["pixels"].shape == (4, 2, 32, 32, 3)
    together = views.levels(batch)
    for i in range(4):
        alone = views.drawn([images[i]], [5 + i])
        assert alone["pixels"].ndim == (4 if sizes[i] == (32, 32) else 5)
        assert views.levels(alone)[0].equal(together[i])


def test_a_view_depends_on_seed_and_position_alone() -> None:
    images = [photograph(32, 32, seed=i) for i in range(6)]
    views = views_of(RGB)
    whole = views.levels(views.drawn(images, range(6)))
    turned = views.levels(views.drawn(images[::-1], range(6)[::-1])).flip(0)
    assert turned.equal(whole)
    parts = [views.levels(views.drawn(images[i : i + 2], range(i, i + 2))) for i in (0, 2, 4)]
    assert torch.cat(parts).equal(whole)
    assert not whole[:, 0].equal(whole[:, 1])
    assert not views.levels(views.drawn(images, range(6, 12))).equal(whole), "another epoch"
    other = BatchedSimCLR(views.augmentation, 2, seed=8)
    assert not other.levels(other.drawn(images, range(6))).equal(whole)


def test_at_another_device_a_view_is_the_same() -> None:
    images = [photograph(32, 32, seed=i) for i in range(6)]
    views = views_of(RGB)
    batch = views.drawn(images, range(6))
    expected = views.levels(batch)
    with stand_in() as device:
        found = views.levels(to_device(batch, device))
        assert found.device.type == device.type
        found = found.cpu()
    assert found.equal(expected)


# What is drawn


def test_numbers_are_uniform_and_do_not_hang_together() -> None:
    u = uniform(3, np.arange(4000), 2, 10).reshape(4000, -1)
    assert u.min() >= 0
    assert u.max() < 1
    error = 4 / math.sqrt(4000)
    assert np.abs(u.mean(axis=0) - 0.5).max() < error * math.sqrt(1 / 12)
    assert np.abs(u.var(axis=0) - 1 / 12).max() < error * math.sqrt(1 / 180)
    together = np.corrcoef(np.hstack([u[:-1], u[1:]]).T) - np.eye(40)
    assert np.abs(together).max() < 1.3 * error
    counts = np.histogram(u, 100, (0, 1))[0] / u.size * 100
    assert np.abs(counts - 1).max() < 5 / math.sqrt(u.size / 100)


def test_seeds_and_positions_have_numbers_of_their_own() -> None:
    drawn = np.concatenate([uniform(seed, np.arange(500), 2, 3).ravel() for seed in range(4)])
    assert len(np.unique(drawn)) == drawn.size
    assert uniform(3, np.array([2**40]), 1, 2).shape == (1, 1, 2)


def drawn_many(preprocess: Preprocess, sides: tuple[int, int], n: int = 4000) -> dict[str, Any]:
    image = photograph(*sides)
    views = views_of(preprocess, min_scale=0.2)
    sizes = np.array([sides] * n)
    u = uniform(1, np.arange(n), 2, 34)
    boxes = views._boxes(u[..., :22], sizes[:, None, 0], sizes[:, None, 1])
    batch = views.drawn([image] * 300, range(300))
    return {**batch, "boxes": boxes.reshape(-1, 4)}


@pytest.mark.parametrize("sides", [(32, 32), (60, 25)])
def test_crops_have_the_distribution_of_single_images(sides: tuple[int, int]) -> None:
    found = drawn_many(RGB, sides)["boxes"]
    rng = random.Random(0)
    boxes = np.array([random_box(*sides, rng, 0.2) for _ in range(8000)])
    expected = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    for ours, theirs in (
        (found, expected),
        (found[:, 2:].prod(axis=1)[:, None], expected[:, 2:].prod(axis=1)[:, None]),
        (np.log(found[:, 2:3] / found[:, 3:4]), np.log(expected[:, 2:3] / expected[:, 3:4])),
    ):
        error = np.hypot(ours.std(axis=0), theirs.std(axis=0)) / math.sqrt(8000)
        assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4.5 * error).all()
        assert np.allclose(ours.std(axis=0), theirs.std(axis=0), rtol=0.06)
    assert (found[:, :2] >= 0).all()
    assert (found[:, 0] + found[:, 2] <= sides[0]).all()
    assert (found[:, 1] + found[:, 3] <= sides[1]).all()


def test_colours_have_the_distribution_of_single_images() -> None:
    """Shares of flips, jitter and grey; strengths; and every order of the steps as often."""
    views = views_of(RGB, colour=0.4)
    n = 3000
    batch = views.drawn([photograph(32, 32)] * n, range(n))
    for share, expected in (
        (batch["flip"].float().mean().item(), 0.5),
        (len(batch["grey"]) / (2 * n), 0.2),
        ((turns_of(batch)[0] < 4).mean(), 0.8),
    ):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / (2 * n))
    changes = batch["changes"].numpy()
    for step, strength in enumerate((0.4, 0.4, 0.4, 0.1)):
        assert np.abs(changes[step]).max() <= strength
        assert abs(changes[step].mean()) < 4 * strength / math.sqrt(3 * 2 * n)
        assert changes[step].std() == pytest.approx(strength / math.sqrt(3), rel=0.03)
    turns = turns_of(batch)
    jittered = turns[:, turns[0] < 4].T
    assert (np.sort(jittered, axis=1) == np.arange(4)).all()
    orders, counts = np.unique(jittered, axis=0, return_counts=True)
    assert len(orders) == 24
    expected_count = len(jittered) / 24
    assert ((counts - expected_count) ** 2 / expected_count).sum() < 60  # chi^2, 23 degrees


def test_grey_images_are_neither_turned_nor_mirrored() -> None:
    views = views_of(GREY)
    batch = views.drawn([photograph(32, 32)] * 50, range(50))
    assert len(batch["changes"]) == len(batch["ends"]) == 2
    assert not batch["flip"].any()
    assert not len(batch["grey"])


def test_views_have_the_moments_of_single_images() -> None:
    """Mean and deviation of each channel, and how alike neighbouring pixels are."""
    image = photograph(32, 32, seed=3)
    augmentation, n = SimCLR(RGB), 600
    rng = random.Random(1)
    theirs = torch.stack([augmentation(image, rng) * 255 for _ in range(2 * n)])
    views = views_of(RGB)
    ours = views.levels(views.drawn([image] * n, range(n))).flatten(0, 1)

    def told(x: torch.Tensor) -> np.ndarray:
        step = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3))
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3)), step[:, None]], 1).numpy()

    a, b = told(ours), told(theirs)
    error = np.hypot(a.std(axis=0), b.std(axis=0)) / math.sqrt(2 * n)
    assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4.5 * error).all()
    assert np.allclose(a.std(axis=0), b.std(axis=0), rtol=0.12)


def test_grey_is_pillows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    found = grey_of(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    assert np.array_equal(found[0, 0].numpy(), expected)
