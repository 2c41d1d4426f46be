"""What a network says of the pixels of images, one image after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from oodbench.data.dense import check_mask, check_size, masked
from oodbench.data.samples import OOD, VOID, MaskedSamples, Samples
from oodbench.data.transforms import InOwnSize, Preprocess
from oodbench.detector import Detector
from oodbench.hardware import Hardware, Running, quiet_lightning
from oodbench.networks.models import outputs_of
from oodbench.outputs import Outputs
from oodbench.runtime import isolation
from oodbench.tasks.pictures import class_colours, heat, panel, scale


class _Pixels(Dataset[tuple[Tensor, np.ndarray]]):
    def __init__(self, samples: MaskedSamples, preprocess: Preprocess) -> None:
        self.samples, self.transform = samples, InOwnSize(preprocess)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, np.ndarray]:
        image, mask = self.samples[index], self.samples.mask(index)
        name = self.samples.mask_name(index)
        check_mask(mask, len(self.samples.classes), name)
        check_size(image, mask, name)
        return self.transform(image), mask


@dataclass
class PixelOutputs:
    """What a network says of the pixels of one image.

    Args:
        index: position of the image.
        outputs: one row per pixel, row by row.
        mask: ``[H, W]`` uint8.
    """

    index: int
    outputs: Outputs
    mask: np.ndarray

    def score(self, detector: Detector) -> np.ndarray:
        """The detector's scores as a map ``[H, W]``.

        Raises:
            ChangedInputsError: it changed what it was given to read.
        """
        with isolation.kept(), isolation.lent(self.outputs, detector.label) as copy:
            scores = detector.score(copy)
        return scores.double().cpu().numpy().reshape(self.mask.shape)

    @property
    def prediction(self) -> np.ndarray:
        """``[H, W]`` int64: the class of the largest logit; see :attr:`Outputs.decisions`."""
        decisions = self.outputs.decisions
        assert decisions is not None  # noqa: S101 - a network of this task has logits
        return decisions.argmax(dim=1).cpu().numpy().reshape(self.mask.shape)


def segment(
    network: nn.Module, samples: Samples, preprocess: Preprocess, hardware: Hardware
) -> Iterator[PixelOutputs]:
    """What a network says of the pixels of samples, image by image.

    The network works on copies of its tensors, and is what it was whenever an image is handed out.
    Consecutive images of one size go through the network several at a time.

    Raises:
        DataError: samples without masks, or a mask that is not of the size of its image.
    """
    data = _Pixels(masked(samples), preprocess)
    running = Running(network, hardware)
    loader = DataLoader(
        data,
        batch_size=None,
        num_workers=hardware.workers_for(samples),
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else it draws from everybody's
    )
    start = 0
    for images, masks in _batches(loader):
        with running:
            maps = outputs_of(network)(running.put(torch.stack(images)))
        for i, mask in enumerate(masks):
            yield PixelOutputs(start + i, _rows(maps, i), mask)
        start += len(masks)


def _as_it_is(example: Any) -> Any:
    return example


def _batches(
    loader: DataLoader[tuple[Tensor, np.ndarray]],
) -> Iterator[tuple[list[Tensor], list[np.ndarray]]]:
    """Consecutive images of one size, of at most ``2**18`` pixels (but one image at least)."""
    images: list[Tensor] = []
    masks: list[np.ndarray] = []
    examples = iter(loader)
    while True:
        with quiet_lightning():  # a data worker's error as it was raised
            example = next(examples, None)
        if example is None:
            break
        image, mask = example
        full = images and (image.shape != images[0].shape or (len(images) + 1) * mask.size > 2**18)
        if full:
            yield images, masks
            images, masks = [], []
        images.append(image)
        masks.append(mask)
    if images:
        yield images, masks


def _rows(maps: Mapping[str, Tensor], i: int) -> Outputs:
    rows = {
        name: value[i].flatten(1).T if value.ndim == 4 else value[i].flatten()
        for name, value in maps.items()
    }
    return Outputs(logits=rows.pop("logits").float(), extra=rows)


class Quality:
    """Pixel accuracy and mean intersection over union of predictions.

    A prediction of no class is wrong, and has a column of its own.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        # true, predicted; the last column is of predictions beyond the classes
        self.confusion = np.zeros((num_classes, num_classes + 1), np.int64)

    def add(self, prediction: np.ndarray, mask: np.ndarray) -> None:
        """Count the pixels of an image that are of a class."""
        c = len(self.confusion)
        known = mask < c
        predicted = prediction[known].astype(np.int64)
        predicted[(predicted < 0) | (predicted > c)] = c
        pairs = mask[known].astype(np.int64) * (c + 1) + predicted
        self.confusion += np.bincount(pairs, minlength=c * (c + 1)).reshape(c, c + 1)

    @property
    def accuracy(self) -> float | None:
        """Share of pixels that are predicted right; None where there are none."""
        total = int(self.confusion.sum())
        return int(self.confusion.trace()) / total if total else None

    @property
    def miou(self) -> float | None:
        """Mean over the classes that occur, in truth or prediction, of intersection over union."""
        hits = self.confusion.diagonal()
        predicted = self.confusion[:, : len(hits)].sum(axis=0)
        union = predicted + self.confusion.sum(axis=1) - hits
        occurs = union > 0
        return float((hits[occurs] / union[occurs]).mean()) if occurs.any() else None


# --- pictures --------------------------------------------------------------------------------


def picture(image: Image.Image, pixels: PixelOutputs, scores: np.ndarray) -> Image.Image:
    """Input, prediction, score heat map and OOD mask, side by side.

    Small ones are enlarged, large ones shrunk; see ``oodbench.tasks.pictures``.
    """
    height, width = pixels.mask.shape
    times = scale(width, height, 192)
    truth = np.zeros((height, width, 3), np.uint8)
    truth[pixels.mask == OOD] = 255
    truth[pixels.mask == VOID] = 128
    classes = class_colours(np.minimum(pixels.prediction, VOID - 2).astype(np.uint8))
    panels = [
        panel(image.convert("RGB"), times),
        panel(Image.fromarray(classes), times, smooth=False),
        panel(Image.fromarray(heat(scores)), times),
        panel(Image.fromarray(truth), times),
    ]
    wide, high = panels[0].size
    row = Image.new("RGB", (4 * wide + 3 * 8, high), "white")
    for i, one in enumerate(panels):
        row.paste(one, (i * (wide + 8), 0))
    return row
