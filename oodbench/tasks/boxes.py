"""How right the boxes are that a network predicts on images, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw

from oodbench.data.dense import check_labels
from oodbench.data.samples import BoxedSamples
from oodbench.outputs import Outputs
from oodbench.tasks.pictures import panel, scale


def picture(
    image: Image.Image, corners: np.ndarray, words: Sequence[str], colours: np.ndarray
) -> Image.Image:
    """An image with boxes and a word at each; small ones enlarged, large ones shrunk.

    Args:
        image: the image.
        corners: ``[n, 4]``.
        words: n.
        colours: ``[n, 3]`` uint8.
    """
    times = scale(image.width, image.height, 384)
    large = panel(image.convert("RGB"), times).copy()
    pen = ImageDraw.Draw(large)
    for (left, top, right, bottom), word, colour in zip(corners, words, colours, strict=True):
        box = tuple(float(v) * times for v in (left, top, right, bottom))
        ink = tuple(int(c) for c in colour)
        pen.rectangle(box, outline=ink, width=3)
        place = (box[0] + 4, max(0.0, box[1] - 12))
        pen.rectangle(pen.textbbox(place, word), fill=ink)
        pen.text(place, word, fill=(0, 0, 0) if sum(ink) > 380 else (255, 255, 255))
    return large


def mean_average_precision(boxes: Outputs, samples: BoxedSamples) -> float | None:
    """Mean over classes of the average precision at an IoU of 0.5, as COCO defines it.

    Args:
        boxes: all that are predicted: their class as label, and ``image``, ``corners`` and
            ``confidence``.
        samples: the truth; objects of no class are no part of it.

    Returns:
        In [0, 1]; None where there is no object.
    """
    from torchmetrics.detection import MeanAveragePrecision

    classes = len(samples.classes)
    for index in range(len(samples)):
        check_labels(samples.boxes(index), classes, f"{samples.name}, image {index}")
    # each process of several has all boxes
    metric = MeanAveragePrecision(
        iou_thresholds=[0.5], backend="pycocotools", sync_on_compute=False
    )
    image, order = boxes.extra["image"].sort(stable=True)
    ends = torch.searchsorted(image, torch.arange(len(samples) + 1)).tolist()
    predicted, truth = [], []
    for index, (start, end) in enumerate(pairwise(ends)):
        rows = order[start:end]
        predicted.append(
            {
                "boxes": boxes.extra["corners"][rows],
                "scores": boxes.extra["confidence"][rows],
                "labels": boxes.labels[rows],
            }
        )
        objects = samples.boxes(index)
        known = objects.labels >= 0
        truth.append(
            {
                "boxes": torch.from_numpy(objects.corners[known]),
                "labels": torch.from_numpy(objects.labels[known]),
            }
        )
    metric.update(predicted, truth)
    value = float(metric.compute()["map_50"])
    return value if value >= 0 else None
