"""The boxes that a network predicts on images, how right they are, and pictures of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from oodbench.data.dense import check_labels
from oodbench.data.images import in_mode
from oodbench.data.samples import BoxedSamples, Samples
from oodbench.data.transforms import Preprocess, to_tensor
from oodbench.errors import BadScoresError
from oodbench.hardware import Hardware, Running, quiet_lightning
from oodbench.networks.models import box_predicting
from oodbench.networks.single_stage import LEAST
from oodbench.outputs import Outputs
from oodbench.tasks.pictures import panel, scale

AT_ONCE = 8
"""Images of one size a forward pass; of several, smaller ones would be padded to the largest."""


class _Images(Dataset[Tensor]):
    def __init__(self, samples: Samples, preprocess: Preprocess) -> None:
        self.samples, self.preprocess = samples, preprocess

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        image = in_mode(self.samples[index], self.preprocess.mode)
        return self.preprocess.normalize(to_tensor(image))


def detect(
    network: nn.Module,
    samples: Samples,
    preprocess: Preprocess,
    hardware: Hardware,
    confidence: float,
) -> tuple[Outputs, dict[str, np.ndarray]]:
    """The boxes that a network predicts on samples.

    Images go through the network once. What is predicted with less than ``confidence`` is kept
    without its features and logits. The boxes of a dataset are in memory together.

    Args:
        network: has ``detect`` and ``head``; see :class:`BoxNetwork`.
        samples: images.
        preprocess: mode and normalisation; sizes stay.
        hardware: where and how it runs.
        confidence: smallest that counts.

    Returns:
        The boxes that count, with their class as label and the columns of
        :meth:`BoxNetwork.detect` as extras; and of all boxes from ``LEAST`` on ``image``,
        ``corners``, ``confidence`` and ``predicted``.

    Raises:
        BadScoresError: the network gives NaN or infinite logits.
    """
    predicting = box_predicting(network)
    running = Running(network, hardware)
    loader = DataLoader(
        _Images(samples, preprocess),
        batch_size=None,
        num_workers=hardware.workers_for(samples),
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else it draws from everybody's
    )
    least = min(LEAST, confidence)
    sure: list[dict[str, Tensor]] = []
    every: list[dict[str, Tensor]] = []
    start = 0
    try:
        for images in _batches(loader):
            with running:
                predictions = predicting.detect([running.put(i) for i in images], least)
            predictions = {
                name: value.float() if value.is_floating_point() else value
                for name, value in ((name, value.cpu()) for name, value in predictions.items())
            }
            predictions["image"] = predictions["image"] + start
            every.append({name: predictions[name] for name in TABLE})
            counts = predictions["confidence"] >= confidence
            sure.append({name: value[counts] for name, value in predictions.items()})
            start += len(images)
    except BadScoresError as error:
        raise BadScoresError(f"on {samples.name}: {error}") from error
    whole = {name: torch.cat([part[name] for part in sure]).clone() for name in sure[0]}
    features = whole.pop("features", None)
    boxes = Outputs(
        logits=whole.pop("logits"),
        labels=whole.pop("predicted"),
        head=predicting.head(),
        extra=whole,
    )
    if features is not None:
        boxes = replace(boxes, features=features)
    return boxes, {name: torch.cat([part[name] for part in every]).numpy() for name in TABLE}


def _as_it_is(image: Any) -> Any:
    return image


def _batches(loader: DataLoader[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive images of one size, at most ``AT_ONCE``."""
    batch: list[Tensor] = []
    examples = iter(loader)
    while True:
        with quiet_lightning():  # a data worker's error as it was raised
            image = next(examples, None)
        if batch and (image is None or len(batch) == AT_ONCE or image.shape != batch[0].shape):
            yield batch
            batch = []
        if image is None:
            return
        batch.append(image)


TABLE = ("image", "corners", "confidence", "predicted")


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


def mean_average_precision(
    predictions: Mapping[str, np.ndarray], samples: BoxedSamples
) -> float | None:
    """Mean over classes of the average precision at an IoU of 0.5, as COCO defines it.

    Args:
        predictions: ``image``, ``corners``, ``confidence`` and ``predicted`` of all boxes.
        samples: the truth; objects of no class are no part of it.

    Returns:
        In [0, 1]; None where there is no object.
    """
    from torchmetrics.detection import MeanAveragePrecision

    classes = len(samples.classes)
    for index in range(len(samples)):
        check_labels(samples.boxes(index), classes, f"{samples.name}, image {index}")
    metric = MeanAveragePrecision(iou_thresholds=[0.5], backend="pycocotools")
    order = np.argsort(predictions["image"], kind="stable")
    ends = np.searchsorted(predictions["image"][order], np.arange(len(samples) + 1))
    predicted, truth = [], []
    for index in range(len(samples)):
        rows = order[ends[index] : ends[index + 1]]
        predicted.append(
            {
                "boxes": torch.from_numpy(predictions["corners"][rows]),
                "scores": torch.from_numpy(predictions["confidence"][rows]),
                "labels": torch.from_numpy(predictions["predicted"][rows]),
            }
        )
        boxes = samples.boxes(index)
        known = boxes.labels >= 0
        truth.append(
            {
                "boxes": torch.from_numpy(boxes.corners[known]),
                "labels": torch.from_numpy(boxes.labels[known]),
            }
        )
    metric.update(predicted, truth)
    value = float(metric.compute()["map_50"])
    return value if value >= 0 else None
