"""Networks that predict boxes: which they predict, and what is said of each."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from oodbench.detectors.abet import AbeTDetection
from oodbench.detectors.ce_detection import CEDetection
from oodbench.method import Recipe
from oodbench.networks.boxes import BoxNetwork, scenes_frcnn
from oodbench.training.boxes import DetectionMethod
from tests.helpers.boxes import untrained


def tensors(*sizes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, h, w, generator=generator) for h, w in sizes]


@pytest.mark.parametrize("own_predictor", [True, False])
def test_boxes_are_those_of_torchvision(own_predictor: bool) -> None:
    """Of images of several sizes, at once, also where the network enlarges them."""
    torch.manual_seed(0)
    network = scenes_frcnn().eval()
    if own_predictor:
        network = cast(BoxNetwork, CEDetection(network, 6, Recipe()).eval().backbone)
        # as it starts, it moves no box, and many overlap as much as the next
        network.detector.roi_heads.box_predictor.regress.reset_parameters()
    images = tensors((64, 64), (48, 60), (30, 64))
    found = network.detect(images)
    with torch.no_grad():
        expected = network.detector(images)
    assert sum(len(e["boxes"]) for e in expected) > 20
    for i, theirs in enumerate(expected):
        mine = found["image"] == i
        assert torch.allclose(found["corners"][mine], theirs["boxes"], atol=1e-4)
        assert torch.allclose(found["confidence"][mine], theirs["scores"], atol=1e-6)
        assert torch.equal(found["predicted"][mine] + 1, theirs["labels"])


@pytest.mark.parametrize("kind", [CEDetection, AbeTDetection])
def test_a_row_has_what_its_class_was_predicted_from(kind: type[DetectionMethod]) -> None:
    method = untrained(kind)
    found = method.detect(tensors((64, 64), (64, 64)))
    head = method.head()
    assert head is not None
    assert found["logits"].shape == (len(found["image"]), 6)
    said = head(found["features"])
    if kind is AbeTDetection:
        assert torch.allclose(found["cosine"], said, atol=1e-6)
        said = said / found["temperature"][:, None]
    assert torch.allclose(found["logits"], said, rtol=1e-4, atol=1e-5)
    rows = torch.arange(len(found["image"]))
    # the background is part of the confidence, and of nothing else
    assert (found["confidence"] <= found["logits"].softmax(dim=1)[rows, found["predicted"]]).all()
    assert (found["confidence"] >= 0.05).all()


def test_a_box_on_nothing_else_than_what_is_asked_for() -> None:
    method = untrained(CEDetection)
    assert len(method.detect(tensors((64, 64)), least=0.999)["image"]) == 0
    many = method.detect(tensors((64, 64)), least=1e-6)
    assert len(many["image"]) == 100  # torchvision's limit


def test_batches_of_images_do_not_change_boxes() -> None:
    method = untrained(AbeTDetection)
    images = tensors((64, 64), (64, 64), (64, 64))
    together = method.detect(images)
    for i, image in enumerate(images):
        alone = method.detect([image])
        mine = together["image"] == i
        assert torch.allclose(together["corners"][mine], alone["corners"], atol=1e-4)
        assert torch.allclose(together["logits"][mine], alone["logits"], rtol=1e-3, atol=1e-4)
