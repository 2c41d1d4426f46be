"""What a network says of the pixels of images, one image after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from oodbench.data.dense import check_mask, check_size, masked
from oodbench.data.samples import OOD, VOID, MaskedSamples, Samples
from oodbench.data.transforms import InOwnSize, Preprocess
from oodbench.detector import Detector
from oodbench.hardware import Hardware, Running, quiet_lightning
from oodbench.networks.models import outputs_of
from oodbench.networks.pixels import PIXELS_AT_ONCE, enlarged
from oodbench.outputs import Outputs
from oodbench.runtime import isolation
from oodbench.runtime.loading import Loader
from oodbench.tasks.pictures import class_colours, heat, panel, scale, with_scale


class _Pixels(Dataset[tuple[Tensor, np.ndarray]]):
    def __init__(self, samples: MaskedSamples, preprocess: Preprocess, share: range) -> None:
        self.samples, self.transform = samples, InOwnSize(preprocess)
        self.share = share

    def __len__(self) -> int:
        return len(self.share)

    def __getitem__(self, place: int) -> tuple[Tensor, np.ndarray]:
        index = self.share[place]
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
    network: nn.Module,
    samples: Samples,
    preprocess: Preprocess,
    hardware: Hardware,
    share: range | None = None,
) -> Iterator[PixelOutputs]:
    """What a network says of the pixels of samples, image by image.

    The network works on copies of its tensors, and is what it was whenever an image is handed out.
    Consecutive images of one size go through the network several at a time.

    Args:
        network: ``outputs`` gives ``logits [B, C, H, W]`` and further maps.
        samples: images with masks.
        preprocess: whose mode and normalisation images get; they keep their sizes.
        hardware: where the network runs.
        share: positions of the images to look at; None for all.

    Raises:
        DataError: samples without masks, or a mask that is not of the size of its image.
    """
    share = range(len(samples)) if share is None else share
    data = _Pixels(masked(samples), preprocess, share)
    running = Running(network, hardware)
    loader = Loader(
        data,
        batch_size=None,
        num_workers=hardware.workers_for(samples),
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else it draws from everybody's
    )
    place = 0
    for images, masks in _batches(loader):
        with running:
            maps = outputs_of(network)(running.put(torch.stack(images)))
        for i, mask in enumerate(masks):
            yield PixelOutputs(share[place + i], _rows({n: v[i] for n, v in maps.items()}), mask)
        place += len(masks)


def remembered(
    outputs: Outputs, samples: MaskedSamples, device: torch.device, share: range
) -> Iterator[PixelOutputs]:
    """What was kept of the pixels of samples, image by image, enlarged to the images' sizes.

    Args:
        outputs: those of a :class:`oodbench.networks.pixels.PixelReader` for all samples.
        samples: whose masks they are compared with; no image is read.
        device: where the maps are enlarged and scored.
        share: positions of the images to look at.

    Raises:
        DataError: a mask that cannot be read.
    """
    columns = dict(outputs.columns())
    image = columns["image"].numpy()
    for index in share:
        # in the type of the column, else all of it would be converted for each image
        first, last = np.searchsorted(image, np.array([index, index + 1], image.dtype))
        height = int(columns["line"][last - 1]) + 1
        maps = {
            name: _map(value[first:last], height).to(device)
            for name, value in columns.items()
            if name not in ("image", "line", "labels")
        }
        mask = samples.mask(index)
        whole = enlarged({name: value[None] for name, value in maps.items()}, mask.shape)
        yield PixelOutputs(index, _rows({n: v[0] for n, v in whole.items()}), mask)


def _map(rows: Tensor, height: int) -> Tensor:
    """``[C, h, w]`` of rows ``[h w, C]``, or ``[h, w]`` of ``[h w]``; in memory of its own."""
    if rows.ndim == 1:
        return rows.clone().view(height, -1)
    return rows.T.contiguous().view(rows.shape[1], height, -1)


def _as_it_is(example: Any) -> Any:
    return example


def _batches(
    loader: Loader,
) -> Iterator[tuple[list[Tensor], list[np.ndarray]]]:
    """Consecutive images of one size, of at most ``PIXELS_AT_ONCE`` (but one image at least)."""
    images: list[Tensor] = []
    masks: list[np.ndarray] = []
    examples = iter(loader)
    while True:
        with quiet_lightning():  # a data worker's error as it was raised
            example = next(examples, None)
        if example is None:
            break
        image, mask = example
        pixels = (len(images) + 1) * mask.size
        if images and (image.shape != images[0].shape or pixels > PIXELS_AT_ONCE):
            yield images, masks
            images, masks = [], []
        images.append(image)
        masks.append(mask)
    if images:
        yield images, masks


def _rows(maps: Mapping[str, Tensor]) -> Outputs:
    """The maps of one image, ``[C, H, W]`` or ``[H, W]``, with a row for each pixel."""
    rows = {name: m.flatten(1).T if m.ndim == 3 else m.flatten() for name, m in maps.items()}
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

    def merge(self, other: Quality) -> None:
        """Add what another has counted."""
        self.confusion += other.confusion

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
    """Input, prediction, score heat map with its scale, and OOD mask, side by side.

    In the mask OOD pixels are white, void ones grey. Small images are enlarged, large ones shrunk;
    see ``oodbench.tasks.pictures``.
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
    left = 2 * (wide + 8)
    return with_scale(row, left, left + wide, float(scores.min()), float(scores.max()))
