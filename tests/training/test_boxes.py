"""Learning to predict boxes: images without objects, and boxes flipped with their image."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from oodbench import Preprocess
from oodbench.benchmark import get_benchmark
from oodbench.data.samples import Boxes
from oodbench.detectors.abet import AbeTDetection
from oodbench.detectors.ce_detection import CEDetection
from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.training.boxes import DetectionMethod, FlipBoxes
from oodbench.training.run import plan
from tests.helpers.boxes import PREPROCESS, no_boxes, untrained


@pytest.mark.parametrize("kind", [CEDetection, AbeTDetection])
def test_images_without_objects_are_learned_from(kind: type[DetectionMethod]) -> None:
    method = untrained(kind).train()
    flip = FlipBoxes(PREPROCESS)
    images = [Image.fromarray(np.full((64, 64), v, np.uint8)) for v in (10, 200)]
    one = Boxes(np.array([[10, 10, 40, 40]]), np.array([2]))
    unknown = Boxes(np.array([[10, 10, 40, 40]]), np.array([-1]))
    for second in (one, unknown, no_boxes()):
        batch = [flip(images[0], no_boxes(), random.Random(0))]
        batch.append(flip(images[1], second, random.Random(0)))
        losses = method.loss(*method.collate(batch))
        parts = [value for name, value in losses.items() if name != "loss"]
        assert len(parts) == 4
        assert torch.allclose(losses["loss"], sum(parts, torch.tensor(0.0)))
        losses["loss"].backward()
        grads = [p.grad for p in method.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        assert (losses["loss_box_reg"] > 0) == (second is one)


def test_boxes_are_flipped_with_their_image() -> None:
    image = np.zeros((40, 60), np.uint8)
    image[5:15, 8:30] = 255
    boxes = Boxes(np.array([[8, 5, 30, 15], [0, 0, 5, 5]]), np.array([3, -1]))
    flips = FlipBoxes(Preprocess(64, (0.0,), (1.0,), mode="L", flip=True))
    seen = set()
    for seed in range(8):
        pixels, target = flips(Image.fromarray(image), boxes, random.Random(seed))
        assert target["labels"].tolist() == [4]  # torchvision's 0 is the background
        left, top, right, bottom = (int(v) for v in target["boxes"][0])
        assert bool((pixels[0, top:bottom, left:right] == 1).all())
        assert float(pixels.sum()) == (bottom - top) * (right - left)
        seen.add(left)
    assert seen == {8, 30}
    _, target = FlipBoxes(PREPROCESS)(Image.fromarray(image), boxes, random.Random(1))
    assert target["boxes"].tolist() == [[8, 5, 30, 15]]


def test_a_backbone_that_predicts_no_boxes() -> None:
    with pytest.raises(OptionError, match=r"predicts no boxes.*scenes-frcnn"):
        CEDetection(nn.Identity(), 6, Recipe())
    with pytest.raises(OptionError, match=r"gives features, but boxes are needed.*scenes-frcnn"):
        plan(get_benchmark("scenes", task="detection"), "ce", backbone="digits-cnn").build()
