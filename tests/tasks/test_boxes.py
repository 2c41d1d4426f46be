"""How right boxes are, by hand, and pictures of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from oodbench.data.samples import Boxes
from oodbench.tasks.boxes import mean_average_precision, picture
from tests.helpers.boxes import Few, no_boxes, table

# --- mean average precision ------------------------------------------------------------------


def test_mean_average_precision_by_hand() -> None:
    image = np.zeros((64, 64), np.uint8)
    first = Boxes(
        np.array([[0, 0, 10, 10], [20, 20, 40, 40], [0, 50, 9, 60]]), np.array([0, 0, -1])
    )
    samples = Few([image, image], [first, Boxes(np.array([[5, 5, 15, 15]]), np.array([1]))])
    right = (0, (0, 0, 10, 10), 0.9, 0)
    also = (0, (21, 21, 40, 40), 0.6, 0)
    other = (1, (5, 5, 15, 15), 0.4, 1)
    assert mean_average_precision(table(right, also, other), samples) == pytest.approx(1.0)
    # a mistake between the two: precision 1 up to a recall of 1/2, 2/3 beyond; COCO's 101 points
    wrong = (1, (40, 40, 60, 60), 0.7, 0)
    half = (51 * 1 + 50 * 2 / 3) / 101
    found = mean_average_precision(table(right, wrong, also, other), samples)
    assert found == pytest.approx((half + 1) / 2, abs=1e-6)
    # of two boxes on one object, the second is a mistake, but below all others
    again = (0, (0, 0, 10, 9), 0.1, 0)
    assert mean_average_precision(table(right, also, other, again), samples) == pytest.approx(1.0)
    # rows in any order; a class without boxes has precision 0
    assert mean_average_precision(table(also, right), samples) == pytest.approx(0.5)
    assert mean_average_precision(table(), samples) == 0.0


def test_no_objects_have_no_precision() -> None:
    samples = Few([np.zeros((64, 64), np.uint8)], [no_boxes()])
    assert mean_average_precision(table(), samples) is None
    assert mean_average_precision(table((0, (0, 0, 9, 9), 0.9, 1)), samples) is None


def test_objects_that_are_predicted_as_no_class_are_missed() -> None:
    samples = Few([np.zeros((9, 9), np.uint8)], [Boxes(np.array([[0, 0, 9, 9]]), np.array([1]))])
    right = mean_average_precision(table((0, (0, 0, 9, 9), 0.9, 1)), samples)
    wrong = mean_average_precision(table((0, (0, 0, 9, 9), 0.9, 57)), samples)
    both = table((0, (0, 0, 9, 9), 0.9, 57), (0, (0, 0, 9, 9), 0.8, 1))
    assert right == mean_average_precision(both, samples) == pytest.approx(1)
    assert wrong == pytest.approx(0)


# --- pictures --------------------------------------------------------------------------------


def test_pictures_show_boxes() -> None:
    grey = Image.fromarray(np.full((64, 64), 90, np.uint8))
    corners = np.array([[10, 20, 30, 40], [40, 5, 60, 25]], np.float32)
    colours = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    drawn = np.asarray(picture(grey, corners, ["1 -3.20", "2 0.10"], colours))
    assert drawn.shape == (384, 384, 3)
    assert drawn[6 * 30, 60].tolist() == [255, 0, 0]
    assert drawn[6 * 15, 240].tolist() == [0, 0, 255]
    assert drawn[6 * 50, 30].tolist() == [90, 90, 90]
    empty = np.asarray(picture(grey, corners[:0], [], colours[:0]))
    assert (empty == 90).all()


@pytest.mark.parametrize(("height", "width"), [(1200, 1600), (5000, 20), (40, 3000)])
def test_pictures_of_large_photographs_are_shrunk_with_their_boxes(height: int, width: int) -> None:
    large = Image.fromarray(np.full((height, width, 3), 90, np.uint8))
    corners = np.array([[0, 0, width, height]], np.float32)
    colours = np.array([[255, 0, 0]], np.uint8)
    drawn = picture(large, corners, [""], colours)
    assert max(drawn.size) == 512
    pixels = np.asarray(drawn)
    assert pixels[drawn.height // 2, 0].tolist() == [255, 0, 0]
    assert large.size == (width, height)
