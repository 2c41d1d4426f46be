"""What a network says of pixels, one image after the other, and how right it is."""

from __future__ import annotations

import dataclasses
import traceback

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Outputs
from oodbench.data.dense import masked
from oodbench.data.samples import OOD, VOID, Samples
from oodbench.data.transforms import InOwnSize, to_tensor
from oodbench.detectors.abet import AbeTSegmentation
from oodbench.errors import DataError
from oodbench.extract import extract
from oodbench.networks.backbones import create_backbone
from oodbench.networks.pixels import PixelReader, enlarged
from oodbench.tasks.pictures import SCALE, class_colours, heat
from oodbench.tasks.pixels import PixelOutputs, Quality, picture, remembered, segment
from tests.helpers.pixels import CPU, GREY, RECIPE, Array, Pixelwise, drawn

# --- quality ----------------------------------------------------------------------------------


def test_quality_by_hand() -> None:
    quality = Quality(4)
    assert quality.accuracy is None
    assert quality.miou is None
    quality.add(np.array([[0, 1], [2, 3]]), np.array([[OOD, VOID], [VOID, OOD]], np.uint8))
    assert quality.accuracy is None, "nothing is labelled so far"
    quality.add(np.array([[0, 0, 1], [1, 2, 0]]), np.array([[0, 1, 1], [1, OOD, VOID]], np.uint8))
    quality.add(np.array([[0, 0, 2]]), np.array([[0, 0, 0]], np.uint8))
    # class 0: truth 4, predicted 4, both 3; 1: 3, 2, 2; 2: predicted once, never true; 3: nowhere
    assert quality.accuracy == pytest.approx(5 / 7)
    assert quality.miou == pytest.approx((3 / 5 + 2 / 3 + 0) / 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5))
def test_quality_does_not_depend_on_the_pieces(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, classes, (6, 8))
    mask = rng.choice(np.array([*range(classes), OOD, VOID], np.uint8), (6, 8))
    whole, pieces = Quality(classes), Quality(classes)
    whole.add(prediction, mask)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        pieces.add(prediction[rows], mask[rows])
    assert (whole.accuracy, whole.miou) == (pieces.accuracy, pieces.miou)
    known = mask < classes
    assert whole.accuracy == pytest.approx((prediction == mask)[known].mean())
    truth = [(mask == c) for c in range(classes)]
    guess = [(prediction == c) & known for c in range(classes)]
    unions = [(t | g).sum() for t, g in zip(truth, guess, strict=True)]
    hits = [(t & g).sum() for t, g in zip(truth, guess, strict=True)]
    ious = [h / u for h, u in zip(hits, unions, strict=True) if u]
    assert whole.miou == pytest.approx(np.mean(ious))


def test_predictions_of_no_class_are_wrong_and_have_a_column_of_their_own() -> None:
    """They were counted as the next true class, predicted as the first."""
    quality = Quality(3)
    quality.add(np.array([[0, 1, 3, 9], [2, 2, 3, 250]]), np.array([[0, 1, 0, 1], [2, 2, 2, OOD]],
                np.uint8))  # fmt: skip
    assert quality.confusion.tolist() == [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 2, 1]]
    assert quality.accuracy == pytest.approx(4 / 7)
    assert quality.miou == pytest.approx((1 / 2 + 1 / 2 + 2 / 3) / 3)
    alone = Quality(2)
    alone.add(np.full((2, 2), 7), np.array([[0, 1], [1, VOID]], np.uint8))
    assert (alone.accuracy, alone.miou) == (0.0, 0.0)


# --- what a network says of pixels ------------------------------------------------------------


SIZES = ((6, 9), (6, 9), (5, 13), (6, 9), (6, 9), (6, 9), (1, 1))


def test_segment_is_the_network_on_one_image_after_the_other() -> None:
    torch.manual_seed(0)
    network = AbeTSegmentation(create_backbone("scenes-unet", 1), 3, RECIPE).train()
    samples = drawn("toy/test", SIZES)
    found = list(segment(network, samples, GREY, CPU))
    assert network.training, "the caller's own mode"
    assert [one.index for one in found] == list(range(len(SIZES)))
    network.eval()
    for i, one in enumerate(found):
        with torch.no_grad():
            maps = network.outputs(GREY.normalize(to_tensor(samples[i]))[None])
        assert np.array_equal(one.mask, samples.masks[i])
        for name in ("cosine", "temperature"):
            rows = maps[name][0].reshape(-1, *SIZES[i]).permute(1, 2, 0).flatten(0, 1)
            torch.testing.assert_close(one.outputs.extra[name].reshape(rows.shape), rows)
        torch.testing.assert_close(
            one.outputs.logits, maps["logits"][0].permute(1, 2, 0).reshape(-1, 3)
        )
        assert np.array_equal(one.prediction, one.outputs.logits.argmax(1).reshape(SIZES[i]))


def test_images_of_one_size_go_through_together() -> None:
    network = Pixelwise()
    list(segment(network, drawn("toy/test", SIZES), GREY, CPU))
    assert network.batches == [(2, 1, 6, 9), (1, 1, 5, 13), (3, 1, 6, 9), (1, 1, 1, 1)]
    network = Pixelwise()  # but not too many, and a large one alone
    large = drawn("toy/test", [*[(256, 512)] * 3, (1024, 512), (1024, 512)])
    found = list(segment(network, large, GREY, CPU))
    assert [shape[0] for shape in network.batches] == [2, 1, 1, 1]
    assert [one.index for one in found] == [0, 1, 2, 3, 4]


def test_a_score_map_has_the_places_of_its_pixels() -> None:
    samples = drawn("toy/test", ((6, 9), (5, 4)))
    maxlogit = oodbench.create_detector("maxlogit")
    for found in segment(Pixelwise(), samples, GREY, CPU):
        x = (samples.images[found.index] / 255 - 0.5) / 0.25
        expected = -np.stack([-2 * x, 1.5 * x, 3 * x]).max(axis=0)
        scores = found.score(maxlogit)
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_segment_may_be_left_early() -> None:
    network = Pixelwise().train()
    stream = segment(network, drawn("toy/test", SIZES), GREY, CPU)
    next(stream)
    assert network.training, "the caller's own mode, as soon as an image is handed out"
    assert network.batches, "it was at work, and in evaluation mode, as it asserts itself"
    stream.close()  # type: ignore[attr-defined]
    assert network.training


def test_data_workers_change_nothing_but_who_reads() -> None:
    samples = drawn("toy/test", SIZES)
    alone = list(segment(Pixelwise(), samples, GREY, CPU))
    helped = list(segment(Pixelwise(), samples, GREY, dataclasses.replace(CPU, workers=1)))
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.outputs.logits, other.outputs.logits)
        assert np.array_equal(one.mask, other.mask)


def test_an_error_of_a_data_worker_is_told_as_it_was_raised() -> None:
    samples = drawn("toy/test")
    samples.masks = [samples.masks[0], samples.masks[1][1:], *samples.masks[2:]]
    with pytest.raises(DataError) as error:
        list(segment(Pixelwise(), samples, GREY, dataclasses.replace(CPU, workers=1)))
    message, context = str(error.value), error.value.__context__
    for raised in (error.value, context):  # else the collector finds the workers, and waits
        traceback.clear_frames(raised.__traceback__ if raised else None)
    assert message.startswith("toy/test, image 1: the image has 6 x 9")
    assert "Traceback" not in message


# --- pictures ---------------------------------------------------------------------------------


def pixel_outputs(mask: Array, classes: Array) -> PixelOutputs:
    logits = F.one_hot(torch.from_numpy(classes).long().flatten(), 3).float()
    return PixelOutputs(0, Outputs(logits=logits), mask)


@pytest.mark.parametrize(
    ("height", "mode", "times"), [(20, "L", 9), (100, "RGB", 1), (300, "L", 1)]
)
def test_picture_is_four_images_side_by_side(height: int, mode: str, times: int) -> None:
    rng = np.random.default_rng(0)
    width = 30
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    mask = rng.choice(np.array([0, 1, 2, OOD, VOID], np.uint8), (height, width))
    classes = rng.integers(0, 3, (height, width)).astype(np.uint8)
    scores = rng.normal(size=(height, width))
    whole = np.asarray(picture(image, pixel_outputs(mask, classes), scores))
    step = times * width + 8
    assert whole.shape == (times * height + SCALE, 4 * times * width + 3 * 8, 3)
    whole = whole[: times * height]
    parts = [whole[:, i * step : i * step + times * width] for i in range(4)]
    for i in range(3):
        assert (whole[:, (i + 1) * step - 8 : (i + 1) * step] == 255).all()
    for part in parts:  # enlarged, not smoothed
        small = part[::times, ::times]
        assert np.array_equal(small.repeat(times, axis=0).repeat(times, axis=1), part)
    assert np.array_equal(parts[0][::times, ::times], np.asarray(image.convert("RGB")))
    assert np.array_equal(parts[1][::times, ::times], class_colours(classes))
    assert np.array_equal(parts[2][::times, ::times], heat(scores))
    truth = parts[3][::times, ::times]
    assert (truth == truth[:, :, :1]).all()
    expected = np.where(mask == OOD, 255, np.where(mask == VOID, 128, 0))
    assert np.array_equal(truth[:, :, 0], expected)


# --- what is kept -------------------------------------------------------------------------------


class Small(nn.Module):
    """Logits of half the image's size, and a temperature of the same or of a third of it."""

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.same = same

    def small_maps(self, images: Tensor) -> dict[str, Tensor]:
        half, third = ([-(-side // n) for side in images.shape[-2:]] for n in (2, 3))
        logits = F.adaptive_avg_pool2d(self.conv(images), half)
        heat = F.adaptive_avg_pool2d(images, half if self.same else third)[:, 0]
        return {"logits": logits, "temperature": heat.sigmoid()}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return enlarged(self.small_maps(images), images.shape[-2:])

    def head(self) -> None:
        return None


def kept_of(network: nn.Module, samples: Samples) -> tuple[Outputs, list[PixelOutputs]]:
    """What is kept of the pixels of samples, and what is made of it."""
    kept = extract(PixelReader(network), samples, InOwnSize(GREY), hardware=CPU)
    everything = range(len(samples))
    return kept, list(remembered(kept, masked(samples), torch.device("cpu"), everything))


@pytest.mark.parametrize("same", [True, False])
def test_maps_are_kept_in_their_own_size_and_enlarged_to_the_same_values(same: bool) -> None:
    torch.manual_seed(0)
    network, samples = Small(same).eval(), drawn("toy/test", SIZES)
    kept, pixels = kept_of(network, samples)
    side = 2 if same else 1
    assert len(kept) == sum(-(-h // side) * -(-w // side) for h, w in SIZES)
    for one, other in zip(pixels, segment(network, samples, GREY, CPU), strict=True):
        assert one.index == other.index
        assert torch.equal(one.outputs.logits, other.outputs.logits)
        if one.mask.size > 1:  # sums of other strides are rounded in another way
            assert one.outputs.logits.stride() == other.outputs.logits.stride()
        assert torch.equal(one.outputs.extra["temperature"], other.outputs.extra["temperature"])
        assert set(one.outputs.extra) == {"temperature"}
        assert np.array_equal(one.mask, other.mask)


def test_a_share_of_the_images() -> None:
    samples, share = drawn("toy/test", SIZES), range(1, len(SIZES), 3)
    whole = list(segment(Pixelwise(), samples, GREY, CPU))
    part = list(segment(Pixelwise(), samples, GREY, CPU, share))
    kept, _ = kept_of(Pixelwise(), samples)
    from_disk = list(remembered(kept, samples, torch.device("cpu"), share))
    for shared in (part, from_disk):
        assert [one.index for one in shared] == [1, 4]
        for one in shared:
            assert torch.equal(one.outputs.logits, whole[one.index].outputs.logits)
