"""Segmentation: maps, crops, pictures, and rows that are what the pixels' scores say."""

from __future__ import annotations

import dataclasses
import io
import itertools
import random
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Benchmark, Contender, DatasetSpec, Detector, Outputs, Preprocess
from oodbench import metrics as exact
from oodbench.data.dense import masked
from oodbench.data.samples import OOD, VOID, ImageArrays, MaskedSamples, Samples
from oodbench.data.transforms import InOwnSize, to_tensor
from oodbench.datasets import scenes as embedded
from oodbench.detectors._dense import PIXEL_RECIPES
from oodbench.detectors.abet import AbeTMethod, AbeTRecipe, AbeTSegmentation
from oodbench.detectors.ce_segmentation import CESegmentation
from oodbench.errors import BadScoresError, DataError, OptionError, StorageError
from oodbench.evaluator import Evaluator
from oodbench.extract import extract
from oodbench.method import Recipe
from oodbench.networks.backbones import create_backbone
from oodbench.networks.pixels import PixelReader, enlarged
from oodbench.results import leaderboard
from oodbench.results.outcome import Results
from oodbench.results.rows import METRICS, row_id
from oodbench.tasks import segmentation
from oodbench.tasks.pictures import (
    MOST_BYTES,
    SCALE,
    SIDE,
    class_colours,
    heat,
    save_picture,
    with_scale,
)
from oodbench.tasks.pixels import PixelOutputs, Quality, picture, remembered, segment
from oodbench.tasks.segmentation import PixelRunner, Segmentation
from oodbench.training.pixels import CropFlipMask, SegmentationMethod, SegmentationRecipe
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.cli import CLI
from tests.helpers.pixels import CPU, GREY, Array, Drawn, Pixelwise, drawn, evaluate, spec, toy

RECIPE = Recipe()


@dataclass
class Breaks(Detector):
    """MSP, until it has seen some images."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    images: int = 3

    def score(self, outputs: Outputs) -> Tensor:
        self.images -= 1
        if self.images < 0:
            raise RuntimeError("the well is dry")
        return -outputs.logits.softmax(dim=1).amax(dim=1)


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


class Constant(nn.Module):
    """Says one class of C everywhere."""

    def __init__(self, classes: int, said: int) -> None:
        super().__init__()
        self.classes, self.said = classes, said

    def forward(self, images: Tensor) -> Tensor:
        logits = images.new_zeros(len(images), self.classes, *images.shape[2:])
        logits[:, self.said] = 3 + images[:, 0]
        return logits


@pytest.mark.parametrize(("classes", "said"), [(4, 3), (4, 1), (20, 19), (91, 2), (300, 290)])
def test_a_network_of_more_classes(classes: int, said: int, tmp_path: Path) -> None:
    told: list[str] = []
    found = evaluate(
        ["msp", "energy"],
        model=Constant(classes, said),
        report=told.append,
        pictures=tmp_path,
    )
    said_of_it = [w for w in found.warnings if f"predicts {classes} classes, but toy has 3" in w]
    assert len(said_of_it) == 1
    assert sum(said_of_it[0] in line for line in told) == 1
    test = toy().id.load("test")
    assert isinstance(test, Drawn)
    truth = np.concatenate([m[m != VOID] for m in test.masks])
    assert found.rows[0]["id_accuracy"] == pytest.approx((truth == said).mean())
    share = (truth == said).mean()
    assert found.rows[0]["id_miou"] == pytest.approx(share / 3)
    assert list(tmp_path.glob("*/*.png"))


@pytest.mark.parametrize("classes", [1, 2])
def test_a_network_of_fewer_classes_is_refused(classes: int) -> None:
    with pytest.raises(OptionError, match=f"predicts {classes} classes, but toy has 3 classes"):
        evaluate("msp", model=Constant(classes, 0))


def test_a_network_of_as_many_classes_is_nothing_to_speak_of() -> None:
    warnings = evaluate("msp", model=Constant(3, 1)).warnings
    assert not [text for text in warnings if "predicts" in text]


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.full((6, 9), 3, np.uint8), "the mask has the value 3, but the classes are 0 to 2"),
        (np.full((6, 9), 253, np.uint8), "the mask has the value 253"),
        (np.arange(54, dtype=np.uint8).reshape(6, 9), "the mask has the values 3, 4, 5, 6, 7 …"),
        (np.zeros((6, 9), np.int64), "not int64"),
        (np.zeros((6, 9), np.uint16), "not uint16"),
        (np.zeros((6, 9), bool), "not bool"),
        (np.zeros((6, 9, 3), np.uint8), r"not uint8 \[6, 9, 3\]"),
        (np.zeros((9, 6), np.uint8), "the image has 6 x 9 pixels, its mask 9 x 6"),
    ],
)
def test_masks_that_are_none(mask: Array, told: str) -> None:
    """In an ID set, in an OOD set, and in training; the mask is named."""
    for where, benchmark in (
        ("near", toy(near=drawn("toy-near/test"))),
        ("far", toy(far=drawn("toy-far/test"))),
        ("id", toy()),
    ):
        chosen = benchmark.id if where == "id" else getattr(benchmark, where)[0]
        samples = cast(Drawn, chosen.load("test"))
        if samples.images[1].shape == (6, 9):
            samples.masks[1] = mask
            with pytest.raises(DataError, match=f"{samples.name}, image 1: .*{told}"):
                evaluate("msp", benchmark)
    if "pixels" not in told:
        with pytest.raises(DataError, match=told):
            SegmentationMethod.target(samples, 1)


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


class Strided(nn.Conv2d):
    """A backbone whose maps are smaller than the image."""

    num_features = 5

    def __init__(self, stride: int = 2) -> None:
        super().__init__(1, 5, 3, stride=stride, padding=1)


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


def test_outputs_have_the_size_of_the_image() -> None:
    """Cosines and temperatures are those of enlarged features; D maps of that size are not made."""
    torch.manual_seed(0)
    method = AbeTSegmentation(Strided(), 3, RECIPE).eval()
    images, size = torch.randn(2, 1, 7, 10), (7, 10)
    with torch.no_grad():
        found, features = method.outputs(images), method.backbone(images)
        assert features.shape[-2:] == (4, 5)
        large = F.interpolate(features, size, mode="bilinear", align_corners=True)
        expected = method.scaled(large)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "logits": (2, 3, 7, 10),
        "cosine": (2, 3, 7, 10),
        "temperature": (2, 7, 10),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_enlarged_features() -> None:
    torch.manual_seed(0)
    method = AbeTSegmentation(Strided(), 3, RECIPE).double()
    images, labels = torch.randn(2, 1, 7, 10).double(), torch.randint(0, 3, (2, 7, 10))
    method.loss(images, labels)["loss"].backward()
    gradients = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    method.zero_grad()
    large = F.interpolate(method.backbone(images), (7, 10), mode="bilinear", align_corners=True)
    F.cross_entropy(method.scaled(large)["logits"], labels).backward()
    expected = [p.grad for p in method.parameters() if p.grad is not None]
    assert len(gradients) == len(expected) > 2
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_linear_head_is_enlarged_by_its_logits() -> None:
    torch.manual_seed(0)
    method = CESegmentation(Strided(), 3, RECIPE).eval()
    images = torch.randn(2, 1, 7, 10)
    with torch.no_grad():
        small = method.maps(method.backbone(images), (7, 10))["logits"]
        large = F.interpolate(small, (7, 10), mode="bilinear", align_corners=False)
        torch.testing.assert_close(method.outputs(images)["logits"], large)


def test_pixels_are_scored_by_abet_as_images_are() -> None:
    """On a backbone that looks at single pixels, with the same weights: the flat network."""
    torch.manual_seed(0)

    class Flat(nn.Linear):
        num_features = 6

    class Dense(nn.Conv2d):
        num_features = 6

    flat = AbeTMethod(Flat(1, 6), 3, AbeTRecipe()).eval()
    dense = AbeTSegmentation(Dense(1, 6, 1), 3, RECIPE).eval()
    state = {}
    for name, value in flat.state_dict().items():
        if name == "scaled.temperature.0.bias":
            value.zero_()  # the dense head has none
        elif name.endswith("0.weight") or name in ("backbone.weight", "scaled.h.weight"):
            state[name] = value[:, :, None, None]
        else:
            state[name] = value
    dense.load_state_dict(state)
    samples = drawn("toy/test", ((6, 9), (5, 4)))
    detectors = [
        oodbench.create_detector(name)
        for name in ("abet", "abet-energy", "abet-msp", "abet-temperature")
    ]
    for found in segment(dense, samples, GREY, CPU):
        pixels = GREY.normalize(to_tensor(samples[found.index])).reshape(-1, 1)
        with torch.no_grad():
            expected = flat.outputs(pixels)
        rows = Outputs(logits=expected["logits"], extra={"temperature": expected["temperature"]})
        torch.testing.assert_close(found.outputs.logits, expected["logits"])
        for detector in detectors:
            np.testing.assert_allclose(
                found.score(detector).reshape(-1), detector.score(rows).numpy(), rtol=1e-5
            )


@pytest.mark.parametrize("size", [(64, 64), (13, 9), (1, 30)])
def test_small_network_keeps_the_size(size: tuple[int, int]) -> None:
    network = create_backbone("scenes-unet", 1).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 1, *size)).shape == (2, network.num_features, *size)


def test_torchvision_network_without_its_last_convolution() -> None:
    with pytest.raises(OptionError, match="RGB"):
        create_backbone("deeplabv3-resnet50", 1)
    network = create_backbone("fcn-resnet50", 3).eval()
    with torch.no_grad():
        maps = network(torch.randn(1, 3, 32, 40))
    assert maps.shape == (1, network.num_features, 4, 5)
    assert (maps >= 0).all(), "the last layer left is a ReLU"


def test_recipes() -> None:
    for method in (AbeTSegmentation, CESegmentation):
        assert issubclass(method, SegmentationMethod)
        for name, recipe in (("cityscapes", "published"), ("scenes", "quick")):
            assert method.default_recipe(name) == recipe
            assert isinstance(method.get_recipe(recipe), SegmentationRecipe)
    assert PIXEL_RECIPES["published"].backbone == "deeplabv3-resnet50"
    assert PIXEL_RECIPES["quick"].backbone is None, "the benchmark's own"
    chosen = {
        name: (r.lr, r.weight_decay, r.nesterov, r.epochs) for name, r in PIXEL_RECIPES.items()
    }
    assert chosen["quick"] == (0.1, 5e-4, False, 20), "the best on ID validation"
    assert chosen["slow"] == (0.01, 1e-4, False, 20)


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


def test_samples_without_masks_are_refused() -> None:
    images = ImageArrays("plain/test", np.zeros((2, 8, 8), np.uint8), [0, 1], ("a", "b"))
    with pytest.raises(DataError, match="plain/test has no masks"):
        next(segment(Pixelwise(), images, GREY, CPU))
    with pytest.raises(DataError, match="plain/test has no masks"):
        SegmentationMethod.target(images, 0)
    with pytest.raises(DataError, match="plain/test has no masks"):
        evaluate("msp", toy(near=images))


# --- detectors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("knn", "needs features"),
        ("mahalanobis", "needs features"),
        ("react", "needs features and head"),
        ("abet-react", "needs cosine_head and features"),
        ("odin", "needs model"),
        ("klm", "learns from training outputs"),
        ("tempscale", "learns from training outputs"),
    ],
)
def test_detectors_that_cannot_score_pixels(name: str, why: str) -> None:
    with pytest.raises(OptionError, match=f"^{name} {why}, which pixels do not have") as error:
        Segmentation().check(
            toy(), [oodbench.create_detector("msp"), oodbench.create_detector(name)]
        )
    able = str(error.value).partition("Pixels are scored by: ")[2].rstrip(".").split(", ")
    assert {"msp", "maxlogit", "energy", "abet"} <= set(able), "what can be used instead"
    Segmentation().check(toy(), [oodbench.create_detector(name) for name in able])


def test_detectors_that_can() -> None:
    """Those that the message names, and no other that is installed."""

    def is_able(name: str) -> bool:
        try:
            Segmentation().check(toy(), [oodbench.create_detector(name)])
        except OptionError:
            return False
        return True

    able = {name for name in oodbench.list_detectors() if is_able(name)}
    ablations = {"abet-energy", "abet-msp", "abet-temperature"}
    assert able == {"msp", "maxlogit", "energy", "entropy", "gen", "abet"} | ablations


def test_a_detector_that_learns_with_the_network_cannot() -> None:
    class Learns(Breaks):
        def fit_batches(self, model: nn.Module, batches: Any) -> Any:
            return self

    with pytest.raises(OptionError, match="Learns learns from training outputs"):
        Segmentation().check(toy(), [Learns()])


# --- pictures ---------------------------------------------------------------------------------


def test_heat_by_hand() -> None:
    scores = np.array([[-3.0, -1.0, 1.0, 5.0], [-2.0, 3.0, -3.0, 5.0]])
    found = heat(scores)
    assert found.shape == (2, 4, 3)
    assert found.dtype == np.uint8
    assert found[0].tolist() == [[0, 0, 4], [87, 16, 110], [188, 55, 84], [252, 255, 164]]
    assert found[1].tolist() == [[33, 12, 74], [249, 140, 10], [0, 0, 4], [252, 255, 164]]
    assert np.array_equal(heat(1e12 * scores - 7e12), found), "scale and origin do not matter"
    assert np.array_equal(heat(np.full((2, 3), 4.2)), np.full((2, 3, 3), [0, 0, 4]))


def test_heat_is_inferno() -> None:
    """Which is perceptually uniform; between the colours that are given it is off by 7 of 255."""
    colours = pytest.importorskip("matplotlib").colormaps["inferno"](np.arange(256))[:, :3]
    found = heat(np.arange(256.0)[None])[0]
    assert np.abs(found - 255 * colours).max() < 7


def test_the_scale_says_what_the_colours_are_of() -> None:
    row = Image.new("RGB", (400, 30), "red")
    found = np.asarray(with_scale(row, 150, 250, -1.5, 12.25))
    assert found.shape == (30 + SCALE, 400, 3)
    assert (found[:30] == (255, 0, 0)).all()
    bar = found[40, 150:250]
    assert bar[0].tolist() == [0, 0, 4]
    assert bar[-1].tolist() == [252, 255, 164]
    assert np.array_equal(bar, heat(np.linspace(-1.5, 12.25, 100)[None])[0])
    ink = (found[30:] < 128).all(axis=2).any(axis=0)  # of the numbers, beside the bar
    assert ink[80:150].any()
    assert ink[250:300].any()
    assert not ink[300:].any()
    other = np.asarray(with_scale(row, 150, 250, -1.5, 99.0))
    assert not np.array_equal(found[30:, 250:], other[30:, 250:])
    assert np.array_equal(found[30:, :250], other[30:, :250])


def test_colours_tell_classes_apart() -> None:
    classes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = class_colours(classes)
    assert found.shape == (16, 16, 3)
    assert found.dtype == np.uint8
    table = found.reshape(256, 3).astype(int)
    assert table[0].tolist() == [0, 0, 0]
    assert table[OOD].tolist() == [255, 255, 255]
    assert table[VOID].tolist() == [128, 128, 128]
    shown = table[[*range(20), OOD, VOID]]
    apart = np.abs(shown[:, None] - shown[None]).sum(axis=2) + 999 * np.eye(len(shown), dtype=int)
    assert apart.min() > 30


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


@pytest.mark.parametrize(
    ("height", "width"),
    [(1024, 2048), (2048, 1024), (3000, 4000), (10, 4000), (700, 3), (513, 513)],
)
def test_pictures_are_bounded(height: int, width: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2] = OOD
    found = PixelOutputs(0, Outputs(logits=torch.rand(height * width, 3)), mask)
    whole = picture(image, found, rng.normal(size=mask.shape))
    assert max(whole.height - SCALE, (whole.width - 24) // 4) <= SIDE
    assert whole.width == 4 * round(width * SIDE / max(height, width)) + 24
    path = save_picture(whole, tmp_path / "0.png")
    assert path.stat().st_size <= MOST_BYTES, "noise is the worst there is"
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as stored:
        assert stored.size == whole.size
        assert stored.format == ("PNG" if path.suffix == ".png" else "JPEG")


def test_a_picture_that_was_large_leaves_no_other(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 2000, 3), dtype=np.uint8)
    assert save_picture(Image.fromarray(noise), tmp_path / "0.png").suffix == ".jpg"
    assert save_picture(Image.new("RGB", (2000, 512)), tmp_path / "0.png").suffix == ".png"
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]


def test_a_picture_that_fails_loses_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(segmentation, "save_picture", full)
    found = evaluate(["msp", "energy"], pictures=tmp_path)
    assert len(found.rows) == 8
    assert sum("not all pictures" in text and "no space" in text for text in found.warnings) == 1


def test_the_bound_on_pictures_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    evaluate(["msp", "energy"], pictures=tmp_path, report=told.append)
    (line,) = [line for line in told if line.startswith("pictures: ")]
    assert "at most 8 of each set for each detector, 32 in all" in line
    assert "512 KiB (16 MiB)" in line


def test_pictures_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "0.png"
    save_picture(Image.new("RGB", (4, 3), "red"), path)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    class Full(Image.Image):
        def save(self, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002
            fp.write(b"\x89PNG half of it")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        save_picture(Full(), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# --- rows -------------------------------------------------------------------------------------


def by_name(results: Results) -> dict[tuple[str, str], dict[str, Any]]:
    found = {(row["detector"], row["ood"]): row for row in results}
    assert len(found) == len(results)
    return found


def pooled(
    network: nn.Module, samples: Samples, preprocess: Preprocess, detector: Detector
) -> tuple[Array, Array]:
    """All scores of ID and of OOD pixels."""
    ids, oods = [], []
    for found in segment(network, samples, preprocess, CPU):
        scores = found.score(detector)
        ids.append(scores[(found.mask != OOD) & (found.mask != VOID)])
        oods.append(scores[found.mask == OOD])
    return np.concatenate(ids), np.concatenate(oods)


def test_rows_of_a_given_network() -> None:
    """Images of different sizes; a network that is the user's own."""
    benchmark, network = toy(), Pixelwise()
    rows = by_name(evaluate(["msp", "abet", "abet-temperature"], benchmark, model=network))
    for name in ("msp", "abet", "abet-temperature"):
        detector = oodbench.create_detector(name)
        for ood in ("toy-near", "toy-far"):
            samples = next(c.spec.load("test") for c in benchmark.ood if c.spec.name == ood)
            ids, oods = pooled(network, samples, GREY, detector)
            row = rows[name, ood]
            assert (row["n_id"], row["n_ood"]) == (len(ids), len(oods))
            assert {m: row[m] for m in METRICS} == pytest.approx(
                exact.all_metrics(ids, oods), abs=1e-12
            )
            assert row["binning_error"] == 0
            assert row["auroc_low"] is row["auroc_high"] is None, "pixels are not independent"
            assert row["method"] == "external"
            assert row["id_accuracy_low"] is None
        for group in ("near", "far"):
            mean, single = rows[name, group], rows[name, f"toy-{group}"]
            assert mean["is_mean"]
            assert [mean[m] for m in METRICS] == [single[m] for m in METRICS]
            assert mean["binning_error"] == 0
    test = benchmark.id.load("test")
    assert isinstance(test, Drawn)
    prediction = [(np.where(i < 127.5, 0, 2)) for i in test.images]  # -2x or 3x is the largest
    right = [(p == m)[m != VOID] for p, m in zip(prediction, test.masks, strict=True)]
    assert row["id_accuracy"] == pytest.approx(np.concatenate(right).mean())


@pytest.mark.parametrize("background", [("ground",), ("dark", "ground")])
def test_ood_pixels_against_those_of_id_objects(background: tuple[str, ...]) -> None:
    """Beside all pixels, from the same look at each image; rows, means, store and page agree."""
    plain = toy()
    benchmark = dataclasses.replace(plain, task_options={"background": background})
    names = benchmark.id.load("test").classes
    passes, results = run_evaluator(["msp", "abet"], Pixelwise(), benchmark)
    assert passes == 3 + 4 + 2, "each image is seen once"
    rows, without = by_name(results), by_name(evaluate(["msp", "abet"], plain))
    hidden = [names.index(name) for name in background]
    for (name, ood), row in rows.items():
        assert {m: row[m] for m in METRICS} == {m: without[name, ood][m] for m in METRICS}
        if row["is_mean"]:
            single = rows[name, row["ood_sets"][0]]
            for column in FIGURES_OF_OBJECTS:
                assert row[column] == single[column]
            continue
        samples = next(c.spec.load("test") for c in benchmark.ood if c.spec.name == ood)
        detector = oodbench.create_detector(name)
        ids_, oods = [], []
        for found in segment(Pixelwise(), samples, GREY, CPU):
            scores = found.score(detector)
            ids_.append(scores[(found.mask < OOD) & ~np.isin(found.mask, hidden)])
            oods.append(scores[found.mask == OOD])
        expected = exact.all_metrics(np.concatenate(ids_), np.concatenate(oods))
        for metric in ("auroc", "fpr95_id", "fpr95_ood"):
            assert row[f"{metric}_foreground"] == pytest.approx(expected[metric], abs=1e-12)
        assert row["n_id_foreground"] == len(np.concatenate(ids_)) < row["n_id"]
    page = leaderboard.render(benchmark, results)
    assert "### OOD pixels against ID objects" in page
    assert f"background ({', '.join(background)})" in page
    shown = f"{100 * rows['abet', 'near']['auroc_foreground']:.2f}"
    assert shown in page.split("### OOD pixels against ID objects")[1].split("###")[0]


FIGURES_OF_OBJECTS = (
    "auroc_foreground",
    "fpr95_id_foreground",
    "fpr95_ood_foreground",
    "n_id_foreground",
)


def test_an_auroc_against_objects_that_is_reversed_is_marked() -> None:
    benchmark = dataclasses.replace(toy(), task_options={"background": ("ground",)})
    results = evaluate("msp", benchmark)
    for row in results.rows:
        row["auroc_foreground"] = 0.39
    page = leaderboard.render(benchmark, results)
    part = page.split("### OOD pixels against ID objects")[1].split("###")[0]
    assert "39.00 ¶" in part
    assert "¶ AUROC below 40." in part


def test_no_figures_of_objects_where_there_is_no_background() -> None:
    results = evaluate("msp")
    assert all(row[column] is None for row in results for column in FIGURES_OF_OBJECTS)
    assert "ID objects" not in leaderboard.render(toy(), results)


def test_an_ood_set_without_id_objects_has_no_figures_of_them() -> None:
    """As the masks of an OOD set that tell OOD from the rest and nothing else."""
    benchmark = dataclasses.replace(
        toy(near=drawn("toy-near/test", values=(0, OOD), seed=1)),
        task_options={"background": ("ground",)},
    )
    rows = by_name(evaluate("msp", benchmark))
    for ood in ("toy-near", "near"):
        assert all(rows["msp", ood][column] is None for column in FIGURES_OF_OBJECTS)
    assert rows["msp", "toy-far"]["auroc_foreground"] is not None


def test_a_background_that_is_no_class_is_refused() -> None:
    benchmark = dataclasses.replace(toy(), task_options={"background": ("sky",)})
    with pytest.raises(OptionError, match="background 'sky' is no class of toy"):
        evaluate("msp", benchmark)


def test_scenes_tell_objects_from_background() -> None:
    benchmark = oodbench.get_benchmark("scenes", task="segmentation")
    assert benchmark.task_options["background"] == ("background",)
    samples = benchmark.id.load("test")
    assert samples.classes[0] == "background"


def run_evaluator(
    detectors: Sequence[str], network: nn.Module, benchmark: Benchmark | None = None
) -> tuple[int, Results]:
    """How many images went through the network, and the rows."""
    evaluator = Evaluator(benchmark or toy(), hardware=CPU)
    rows = evaluator.run(
        Contender(network, preprocess="benchmark"), [oodbench.create_detector(d) for d in detectors]
    )
    return evaluator.forward_passes, rows


MANY = ("msp", "energy", "abet", "abet-msp", "entropy")


@pytest.mark.parametrize("kept", [True, False])
def test_each_image_is_seen_once_however_many_the_detectors(
    kept: bool, monkeypatch: pytest.MonkeyPatch, new_cache: Any
) -> None:
    if not kept:
        monkeypatch.setattr(segmentation, "MOST_KEPT", 100)
    for detectors in (MANY[:1], MANY):
        new_cache()
        assert run_evaluator(detectors, Pixelwise())[0] == 3 + 4 + 2
        again = run_evaluator(detectors, Pixelwise())[0]
        assert again == (0 if kept else 3 + 4 + 2)


class Counting(Drawn):
    """Counts how often its images are read."""

    reads = 0

    def __getitem__(self, index: int) -> Image.Image:
        self.reads += 1
        return super().__getitem__(index)


def test_an_image_is_read_once_for_all_evaluations() -> None:
    near = drawn("toy-near/test", seed=1)
    counting = Counting(near.name, near.images, near.masks)
    network = create_backbone("scenes-unet", 1)
    method = AbeTSegmentation(network, 3, RECIPE).eval()
    first = run_evaluator(["msp", "abet"], method, toy(near=counting))[1]
    reads = counting.reads
    assert reads <= len(counting) + 1  # one tells how many go through together
    second = run_evaluator([*MANY], method, toy(near=counting))[1]
    assert counting.reads == reads
    known = by_name(second)
    for key, row in by_name(first).items():
        assert {m: row[m] for m in METRICS} == {m: known[key][m] for m in METRICS}
        assert row["row_id"] == known[key]["row_id"]


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


@pytest.mark.parametrize("why", ["too large", "no room", "read-only"])
def test_what_cannot_be_kept_is_made_anew_with_the_same_figures(
    why: str, monkeypatch: pytest.MonkeyPatch, new_cache: Any
) -> None:
    expected = by_name(evaluate(MANY))
    new_cache()
    if why == "too large":
        monkeypatch.setattr(segmentation, "MOST_KEPT", 100)
    elif why == "no room":
        usage = shutil.disk_usage(".")._replace(free=100)
        monkeypatch.setattr(segmentation.shutil, "disk_usage", lambda _: usage)
    else:

        def refused() -> Path:
            raise StorageError("the cache cannot be written to")

        monkeypatch.setattr(segmentation.files, "writable_cache", refused)
    for _ in range(2):
        passes, rows = run_evaluator(MANY, Pixelwise())
        assert passes == 3 + 4 + 2
        found = by_name(rows)
        assert found.keys() == expected.keys()
        for key, row in found.items():
            assert row["row_id"] == expected[key]["row_id"]
            assert {m: row[m] for m in METRICS} == {m: expected[key][m] for m in METRICS}


def test_a_mask_that_does_not_fit_is_told_before_anything_is_kept() -> None:
    near = drawn("toy-near/test", seed=1)
    near.masks = [near.masks[0], near.masks[1][1:], *near.masks[2:]]
    for _ in range(2):
        with pytest.raises(DataError, match="toy-near/test, image 1: the image has 6 x 9"):
            evaluate("msp", toy(near=near))


def test_one_failing_detector_does_not_lose_the_others() -> None:
    alone = by_name(evaluate(["msp", "energy"]))
    # within the first OOD set, and within the second one
    for images in (2, 5):
        found = evaluate([oodbench.create_detector("msp"), Breaks(images), "energy"])
        assert list(found.failures) == ["Breaks"]
        assert "the well is dry" in found.failures["Breaks"]
        rows = by_name(found)
        assert set(rows) == set(alone)
        assert all(rows[key]["row_id"] == alone[key]["row_id"] for key in alone)
    plain = evaluate(["abet", "msp"], model=Pixelwise(tempered=False))
    assert "needs temperature" in plain.failures["abet"]
    assert {row["detector"] for row in plain} == {"msp"}
    with pytest.raises(RuntimeError, match="the well is dry"):
        evaluate([Breaks(2)])


@dataclass
class Meddles(Detector):
    """Changes what it reads, in some way."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    way: str = "torch"

    def score(self, outputs: Outputs) -> Tensor:
        scores = -outputs.logits.amax(dim=1)
        if self.way == "torch":
            outputs.logits.sub_(outputs.logits.amax(dim=1, keepdim=True))
        elif self.way == "numpy":
            outputs.logits.numpy()[:, 1] = 3
        else:
            outputs.extra["temperature"].numpy().sort()
        torch.manual_seed(1)
        torch.set_num_threads(3)
        return scores


@pytest.mark.parametrize("way", ["torch", "numpy", "extra"])
def test_a_detector_that_changes_its_inputs_harms_no_other(way: str) -> None:
    network = Pixelwise(tempered=True)
    threads = torch.get_num_threads()
    alone = by_name(evaluate(["msp", "abet"], model=network))
    found = evaluate([Meddles(way), "msp", "abet"], model=network)
    assert list(found.failures) == ["Meddles"]
    assert "changed the" in found.failures["Meddles"]
    rows = by_name(found)
    assert {key: row["row_id"] for key, row in rows.items()} == {
        key: row["row_id"] for key, row in alone.items()
    }
    assert torch.get_num_threads() == threads


def test_detectors_of_one_name_are_kept_apart() -> None:
    given = [oodbench.create_detector("gen", gamma=gamma) for gamma in (0.1, 0.9)]
    rows = [row for row in evaluate(given) if not row["is_mean"]]
    assert [row["detector_options"]["gamma"] for row in rows] == [0.1, 0.1, 0.9, 0.9]
    alone = [row for row in evaluate(given[:1]) if not row["is_mean"]]
    assert [row["auroc"] for row in rows[:2]] == [row["auroc"] for row in alone]


def test_a_diverged_network_is_no_result() -> None:
    network = Pixelwise()
    with torch.no_grad():
        network.scale[1] = float("nan")
    with pytest.raises(BadScoresError, match="logits that are NaN or infinite on toy/test"):
        evaluate(["msp", "energy"], model=network)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((VOID,), "0 ID and 0 OOD pixels"),
        ((0, 1, VOID), "ID and 0 OOD pixels"),
        ((OOD, VOID), " 0 ID and"),
    ],
)
def test_an_ood_set_without_id_or_without_ood_pixels(values: tuple[int, ...], told: str) -> None:
    with pytest.raises(DataError, match=r"^bare/test: there are") as error:
        evaluate("msp", toy(far=drawn("bare/test", values=values)))
    assert told in str(error.value)
    assert "masks" in str(error.value), "where to look"


def test_a_void_id_set_has_no_quality() -> None:
    benchmark = toy()
    void = drawn("void/test", values=(VOID, OOD))
    rows = evaluate("msp", dataclasses.replace(benchmark, id=spec("toy", void, ("train", "test"))))
    assert {(row["id_accuracy"], row["id_miou"]) for row in rows} == {(None, None)}
    assert all(row["auroc"] is not None for row in rows)


def test_another_callable_is_no_preprocessing_of_pixels() -> None:
    with pytest.raises(OptionError, match="Preprocess"):
        evaluate("msp", preprocess=lambda image: to_tensor(image))


# --- scenes, from training to pictures --------------------------------------------------------

OPTIONS = {"epochs": 1, "batch_size": 8}

COUNTS = {"train": 24, "test": 6}


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded benchmark with few scenes; of those with OOD objects the border is void."""
    whole = embedded.scenes

    def few(split: str, content: embedded.Content) -> tuple[embedded.Scene, ...]:
        chosen = whole(split, content)[: COUNTS[split]]
        if content == "id":
            return chosen
        bordered = [np.pad(s.classes[5:-5, 5:-5], 5, constant_values=VOID) for s in chosen]
        return tuple(
            dataclasses.replace(scene, classes=classes)
            for scene, classes in zip(chosen, bordered, strict=True)
        )

    monkeypatch.setattr(embedded, "scenes", few)


def evaluate_scenes(detectors: Any, **options: Any) -> Results:
    return oodbench.evaluate(
        id="scenes",
        task="segmentation",
        detectors=detectors,
        recipe="quick",
        recipe_options=OPTIONS,
        hardware=CPU,
        **options,
    )


@pytest.mark.usefixtures("few_scenes")
def test_scenes_from_training_to_rows_and_pictures(tmp_path: Path) -> None:
    names = {"abet": "abet", "abet-temperature": "abet", "msp": "ce", "energy": "ce"}
    results = evaluate_scenes(list(names), pictures=tmp_path / "pictures")
    assert results.failures == results.missing == {}
    rows = by_name(results)
    benchmark = embedded.segmentation()
    test = benchmark.id.load("test")
    for name, method in names.items():
        run_of = plan(benchmark, method, recipe="quick", overrides=OPTIONS)
        network = train(run_of, CPU)  # as the evaluation trained it
        quality = Quality(7)
        for found in segment(network, test, benchmark.preprocess, CPU):
            quality.add(found.prediction, found.mask)
        detector = oodbench.create_detector(name)
        for chosen in benchmark.ood:
            samples = chosen.spec.load("test")
            assert isinstance(samples, MaskedSamples)
            masks = np.stack([samples.mask(i) for i in range(6)])
            ids, oods = pooled(network, samples, benchmark.preprocess, detector)
            row = rows[name, chosen.spec.name]
            assert (row["n_id"], row["n_ood"]) == (len(ids), len(oods))
            assert row["n_ood"] == (masks == OOD).sum() > 0
            assert row["n_id"] == (masks < 7).sum()
            assert row["n_id"] + row["n_ood"] == 6 * 54 * 54
            assert {m: row[m] for m in METRICS} == pytest.approx(
                exact.all_metrics(ids, oods), abs=1e-12
            )
            assert row["method"] == f"{method}-segmentation"
            assert row["group"] == chosen.group
            assert row["id_miou"] == pytest.approx(quality.miou)
            assert row["id_accuracy"] == pytest.approx(quality.accuracy)
            assert row["ood_fingerprint"] == samples.fingerprint
    check_pictures(tmp_path / "pictures", benchmark, names)


def check_pictures(folder: Path, benchmark: Benchmark, names: dict[str, str]) -> None:
    assert {path.name for path in folder.iterdir()} == set(names)
    for name, method in names.items():
        files = sorted(path.name for path in (folder / name).iterdir())
        assert files == [
            f"scenes-{kind}-test-{i:03}.png" for kind in ("6-9", "shapes") for i in range(6)
        ]
        detector = oodbench.create_detector(name)
        network = train(plan(benchmark, method, recipe="quick", overrides=OPTIONS), CPU)
        samples = benchmark.far[0].load("test")
        for found in segment(network, samples, benchmark.preprocess, CPU):
            path = folder / name / f"scenes-shapes-test-{found.index:03}.png"
            expected = picture(samples[found.index], found, found.score(detector))
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                assert image.format == "PNG"
                assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.usefixtures("few_scenes")
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_published_recipe_from_random_weights_is_said(task: str) -> None:
    """The published networks start from ImageNet's weights or more; rows must not look alike."""
    benchmark = oodbench.get_benchmark("scenes", task=task)
    options = {"confidence": 0.01} if task == "detection" else {}  # it has hardly learned
    for recipe, is_said in (("published", True), ("quick", False)):
        results = oodbench.evaluate(
            benchmark=benchmark,
            task_options=options,
            detectors="msp",
            recipe=recipe,
            recipe_options={"epochs": 1, "warmup_epochs": 0},
            backbone=benchmark.backbone,
            hardware=CPU,
        )
        assert any("started from random weights" in text for text in results.warnings) == is_said
        for row in results:
            told = " ".join(row["notes"] or [])
            assert ("started from random weights" in told) == is_said


def test_weights_to_start_from_need_no_caveat() -> None:
    for method in (AbeTSegmentation, CESegmentation):
        assert len(method.caveats("published", None)) == 1
        assert method.caveats("published", "resnet.pth") == ()
        assert method.caveats("quick", None) == ()
    assert AbeTMethod.caveats("published", None) == (), "from random weights in the paper too"


@pytest.mark.usefixtures("few_scenes")
def test_evaluations_are_repeatable(new_cache: Any) -> None:
    first = evaluate_scenes(["abet"])
    new_cache()
    second = evaluate_scenes(["abet"])
    assert [row["row_id"] for row in first] == [row["row_id"] for row in second]
    assert all(row["row_id"] == row_id(row) for row in first)
    other = evaluate_scenes(["abet"], seed=1)
    assert other.rows[0]["auroc"] != first.rows[0]["auroc"]


def test_no_more_pictures_than_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PixelRunner, "PICTURES", 2)
    evaluate("msp", pictures=tmp_path)
    names = sorted(path.name for path in (tmp_path / "msp").iterdir())
    assert names == [f"toy-{group}-test-00{i}.png" for group in ("far", "near") for i in range(2)]


@pytest.mark.usefixtures("few_scenes")
def test_command_line(run: CLI, tmp_path: Path) -> None:
    words = ["eval", "--id", "scenes", "--task", "segmentation", "--epochs", "1"]
    words += ["--batch-size", "8", "--accelerator", "cpu"]
    ran = run(*words, "--detector", "msp", "--pictures", tmp_path)
    assert ran.status == 0, ran.both
    assert "ID mIoU" in ran.out
    assert "pixels" in ran.out
    assert len(list((tmp_path / "msp").glob("*.png"))) == 12
    message = run.refuses(*words, "--detector", "msp,knn")
    assert "knn needs features, which pixels do not have" in message
    assert all(f" {name}" in message for name in ("msp", "maxlogit", "energy"))


def test_all_detectors_are_those_that_can_score_pixels() -> None:
    told: list[str] = []
    found = evaluate("all", report=told.append)
    names = {row["detector"] for row in found}
    assert names == {"msp", "maxlogit", "energy", "entropy", "gen"}
    (left,) = [text for text in found.warnings if text.startswith("left out")]
    assert sum(left in line for line in told) == 1
    for name, why in (("knn", "needs features"), ("odin", "needs model"), ("klm", "learns")):
        assert name in left
        assert why in left
    assert not [name for name in names if f" {name}," in left]
    with pytest.raises(OptionError, match="knn needs features, which pixels do not have"):
        evaluate(["all", "knn"])


def test_a_detector_that_cannot_is_told_before_data_is_read() -> None:
    def load(_: str) -> Samples:
        raise AssertionError("read")

    unread = dataclasses.replace(toy(), id=DatasetSpec("toy", load, ("train", "test")))
    with pytest.raises(OptionError, match="knn needs features"):
        evaluate("knn", unread)


@pytest.mark.usefixtures("few_scenes")
def test_a_detector_that_cannot_score_pixels_is_told_before_training() -> None:
    told: list[str] = []
    with pytest.raises(OptionError, match="knn needs features"):
        evaluate_scenes("knn", report=told.append)
    assert not [line for line in told if line.startswith("training")]


class _Somebodys(nn.Module):
    """Half-size logits in a mapping, as torchvision's networks have them."""

    def __init__(self, key: str = "out") -> None:
        super().__init__()
        self.key = key
        self.layer = nn.Conv2d(1, 7, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {self.key: self.layer(x)}


@pytest.mark.usefixtures("few_scenes")
def test_somebody_elses_network() -> None:
    network = _Somebodys()
    bare = nn.Sequential(network.layer, nn.Upsample(scale_factor=2, mode="bilinear"))
    rows = [
        oodbench.evaluate(
            model,
            id="scenes",
            task="segmentation",
            detectors="msp",
            hardware=CPU,
            preprocess="benchmark",
        ).rows
        for model in (network, bare)
    ]
    assert [r["auroc"] for r in rows[0]] == pytest.approx([r["auroc"] for r in rows[1]])
    assert rows[0][0]["method"] == "external"
    with pytest.raises(OptionError, match=r"gives no logits \[B, C, H, W\]"):
        oodbench.evaluate(
            _Somebodys("other"),
            id="scenes",
            task="segmentation",
            detectors="msp",
            hardware=CPU,
            preprocess="benchmark",
        )
