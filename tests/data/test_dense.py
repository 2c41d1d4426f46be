"""Masks and boxes that are none are refused wherever they are read."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from oodbench.benchmark import get_benchmark
from oodbench.data.samples import Boxes, ImageArrays, Subset
from oodbench.detectors.ce_detection import CEDetection
from oodbench.errors import DataError
from oodbench.tasks.boxes import mean_average_precision
from oodbench.tasks.pixels import segment
from oodbench.training.boxes import DetectionMethod
from oodbench.training.pixels import SegmentationMethod
from tests.helpers.boxes import Few, at_work, table, untrained
from tests.helpers.pixels import CPU, GREY, Array, Drawn, Pixelwise, drawn, evaluate, toy


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


def test_samples_without_masks_are_refused() -> None:
    images = ImageArrays("plain/test", np.zeros((2, 8, 8), np.uint8), [0, 1], ("a", "b"))
    with pytest.raises(DataError, match="plain/test has no masks"):
        next(segment(Pixelwise(), images, GREY, CPU))
    with pytest.raises(DataError, match="plain/test has no masks"):
        SegmentationMethod.target(images, 0)
    with pytest.raises(DataError, match="plain/test has no masks"):
        evaluate("msp", toy(near=images))


def test_a_mask_that_does_not_fit_is_told_before_anything_is_kept() -> None:
    near = drawn("toy-near/test", seed=1)
    near.masks = [near.masks[0], near.masks[1][1:], *near.masks[2:]]
    for _ in range(2):
        with pytest.raises(DataError, match="toy-near/test, image 1: the image has 6 x 9"):
            evaluate("msp", toy(near=near))


def test_samples_without_boxes() -> None:
    """They will do as OOD images, but not as ID ones."""
    digits = get_benchmark("digits").id.load("test")
    runner = at_work(untrained(CEDetection))
    seen = runner.outputs_of(Subset(digits, range(5)))
    assert len(seen.outputs) > 0
    with pytest.raises(DataError, match="has no boxes"):
        runner.quality(seen)
    with pytest.raises(DataError, match="has no boxes"):
        CEDetection.target(digits, 0)


def test_labels_beyond_the_classes_are_named() -> None:
    samples = Few([np.zeros((8, 8), np.uint8)], [Boxes(np.array([[0, 0, 4, 4]]), np.array([2]))])
    with pytest.raises(DataError, match=r"few, image 0: a box has the label 2, .* 0 to 1"):
        DetectionMethod.target(samples, 0)
    with pytest.raises(DataError, match="count from 1"):
        mean_average_precision(table((0, (0, 0, 4, 4), 0.9, 1)), samples)
