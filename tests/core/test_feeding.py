"""Images on their way to a network: bytes, normalised at its device to the same numbers."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from oodbench import Hardware, Head, create_detector
from oodbench.data.augmentation import SimCLR, TrivialResizedCrop
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import CropFlip, InMode, Preprocess
from oodbench.errors import BadScoresError
from oodbench.extract import extract
from oodbench.feeding import Arrival, sent_by, sent_by_augmentation, to_device
from oodbench.looking import score_with_network
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from oodbench.testing.accelerator import stand_in
from tests.helpers.images import CPU, photograph

RGB = Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize="crop", pre_size=40)
GREY = Preprocess(28, (0.1307,), (0.3081,), mode="L")


@pytest.mark.parametrize(
    "preprocess", [RGB, GREY, replace(RGB, size=7, resize="centre", pre_size=None)]
)
def test_bytes_become_the_same_numbers(preprocess: Preprocess) -> None:
    images = [photograph(45, 41, seed=i) for i in range(6)]
    sent = torch.stack([sent_by(preprocess)(image) for image in images])
    assert sent.dtype is torch.uint8
    found = Arrival(preprocess)(sent)
    assert found.equal(torch.stack([preprocess(image) for image in images]))


def test_every_level_becomes_the_same_number() -> None:
    """All 256 levels in each channel, whatever vector they are divided in."""
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    preprocess = replace(RGB, size=16, resize="stretch", pre_size=None)
    image = Image.fromarray(levels)
    assert Arrival(preprocess)(preprocess.as_bytes(image)[None])[0].equal(preprocess(image))


def test_at_another_device_nothing_of_the_cpu_is_mixed_in() -> None:
    sent = torch.stack([RGB.as_bytes(photograph(45, 41, seed=i)) for i in range(2)])
    expected = Arrival(RGB)(sent)
    arrival = Arrival(RGB)
    with stand_in() as device:
        there = arrival(to_device({"images": sent, "n": 2}, device)["images"])
        assert there.device.type == device.type
        found = there.cpu()
    assert found.equal(expected)


@pytest.mark.parametrize("preprocess", [RGB, GREY])
def test_augmented_bytes_become_the_same_numbers(preprocess: Preprocess) -> None:
    image = photograph(40, 44)
    for augmentation in (CropFlip(preprocess), SimCLR(preprocess)):
        sent = sent_by_augmentation(augmentation)(image, random.Random(3))
        assert sent.dtype is torch.uint8
        assert Arrival(preprocess)(sent[None])[0].equal(augmentation(image, random.Random(3)))


class Own(CropFlip):
    """An augmentation that changes what was normalised."""

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        return super().__call__(image, rng) * 2


class Renamed(Preprocess):
    """The same by another name, which might do anything."""


class Shifted(Preprocess):
    """A preprocessing of somebody's own."""

    def __call__(self, image: Image.Image) -> Tensor:
        return super().__call__(image) + 1


def test_what_does_more_than_to_normalise_is_sent_as_numbers() -> None:
    shifted = Shifted(32, *[(0.5,) * 3] * 2)
    for preprocess in (InMode(RGB, "RGB"), shifted):
        assert sent_by(preprocess) is preprocess
        numbers = torch.rand(2, 3, 4, 4)
        assert Arrival(preprocess)(numbers) is numbers
    for augmentation in (Own(RGB), CropFlip(shifted), TrivialResizedCrop(RGB)):
        assert sent_by_augmentation(augmentation) is augmentation


def test_an_arrival_is_pickled_without_tensors_of_a_device() -> None:
    arrival = Arrival(RGB)
    arrival(RGB.as_bytes(photograph())[None])
    assert not pickle.loads(pickle.dumps(arrival))._rows


# A pass


def samples(n: int = 20, **changed: Any) -> ImageArrays:
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    for index, value in changed.items():
        images[int(index[1:])] = value
    return ImageArrays("toy", images, np.arange(n) % 3, ("a", "b", "c"))


SMALL = Preprocess(8, (0.5,) * 3, (0.25,) * 3)


def network() -> HeadedBackbone:
    torch.manual_seed(0)
    return HeadedBackbone(create_backbone("digits-cnn", 3), 3).eval()


def direct(net: HeadedBackbone) -> dict[str, Tensor]:
    images = torch.stack([SMALL(image) for image in samples()])
    with torch.inference_mode():
        return net.outputs(images)


@pytest.mark.parametrize("layout", [None, True, False])
def test_a_pass_gives_what_the_network_says(layout: bool | None) -> None:
    net = network()
    hardware = Hardware(accelerator="cpu", batch_size=8, channels_last=layout)
    found = extract(net, samples(), SMALL, hardware=hardware)
    columns = dict(found.columns())
    for name, value in direct(net).items():
        assert torch.allclose(columns[name], value, atol=1e-5)


class Flattens(nn.Module):
    """Takes the usual layout for granted."""

    def __init__(self) -> None:
        super().__init__()
        self.head_ = nn.Linear(192, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head_(images.view(len(images), -1))
        return logits


def test_a_network_of_unknown_code_sees_the_usual_layout() -> None:
    net = Flattens()
    found = extract(net, samples(), SMALL, hardware=CPU)
    images = torch.stack([SMALL(image) for image in samples()])
    assert torch.allclose(found.logits, net(images), atol=1e-5)


class Fails(nn.Module):
    """Gives infinite logits of a white image, and a head that is another one for it."""

    def __init__(self, to: float) -> None:
        super().__init__()
        self.linear, self.to = nn.Linear(192, 3), to

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = images.flatten(1)
        logits = self.linear(features)
        is_white = (features.amin(dim=1) > 1.9)[:, None]
        return {"features": features, "logits": torch.where(is_white, logits + self.to, logits)}

    def head(self) -> Any:
        return Head(self.linear.weight, self.linear.bias)


def test_what_is_not_finite_is_refused_with_its_position() -> None:
    hardware = Hardware(accelerator="cpu", batch_size=4)
    with pytest.raises(BadScoresError, match=r"logits that are NaN or infinite on toy .*index 17"):
        extract(Fails(torch.inf), samples(s17=255), SMALL, hardware=hardware)


def test_a_head_that_a_later_batch_contradicts_is_dropped() -> None:
    hardware = Hardware(accelerator="cpu", batch_size=4)
    assert extract(Fails(3.0), samples(), SMALL, hardware=hardware).head is not None
    found = extract(Fails(3.0), samples(s17=255), SMALL, hardware=hardware)
    assert found.head is None
    assert "does not turn the features into the logits" in found.notes["head"]


class Doubled(nn.Module):
    """A classifier whose last layer gives its logits, but for a white image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.fc(images.flatten(1))
        is_white = images.flatten(1).amin(dim=1, keepdim=True) > 1.9
        return torch.where(is_white, logits + 3, logits)


def test_the_same_of_a_classifier_as_it_is() -> None:
    hardware = Hardware(accelerator="cpu", batch_size=4)
    assert extract(Doubled(), samples(), SMALL, hardware=hardware).head is not None
    found = extract(Doubled(), samples(s17=255), SMALL, hardware=hardware)
    assert found.head is None
    assert found.features is not None
    assert "does not give the model's logits" in found.notes["head"]


def test_looking_into_a_network_sees_the_same_images() -> None:
    net, detector = network(), create_detector("odin")
    found = score_with_network(detector, net, samples(), SMALL, hardware=CPU)
    as_numbers = Renamed(8, (0.5,) * 3, (0.25,) * 3)
    assert found.equal(score_with_network(detector, net, samples(), as_numbers, hardware=CPU))


# What changes numbers


def test_outputs_of_other_numbers_are_not_taken_from_the_cache() -> None:
    seen: list[int] = []
    net = network()
    for layout in (None, False, None, True, False):
        hardware = Hardware(accelerator="cpu", channels_last=layout)
        extract(net, samples(), SMALL, hardware=hardware, on_forward=seen.append)
    assert seen == [20, 20, 20]
