"""How images come to a network: as bytes to its device, where they are normalised.

Bytes are a quarter of the numbers that a network sees, on the way from a data worker and to the
device. They are normalised by the same operations as on the CPU, each of which IEEE 754 rounds in
one way: the numbers are the same, bit by bit, on the CPU and on CUDA. So nobody has to be told how
an image came, and no key says it.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torch.utils._pytree import tree_leaves

from oodbench.data.transforms import Augmentation, PixelAugmentation, Preprocess, Transform


def sent_by(preprocess: Transform) -> Transform:
    """What a data worker makes of a sample: bytes of an image, of other samples all there is."""
    return preprocess.as_bytes if type(preprocess) is Preprocess else preprocess


def sent_by_augmentation(augmentation: Augmentation) -> Augmentation:
    """The same of an augmented image."""
    if not isinstance(augmentation, PixelAugmentation):
        return augmentation
    as_declared = type(augmentation).__call__ is PixelAugmentation.__call__
    is_known = as_declared and type(augmentation.preprocess) is Preprocess
    return augmentation.as_bytes if is_known else augmentation


class Arrival:
    """Makes what was sent of images into what a network sees, at its device.

    Args:
        preprocess: the normalisation; one that is no :class:`Preprocess` sends no bytes.
    """

    def __init__(self, preprocess: Any) -> None:
        self.preprocess = preprocess if type(preprocess) is Preprocess else None
        self._rows: dict[tuple[torch.device, int], tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, images: Any) -> Any:
        """Of bytes ``[..., H, W, C]`` float32 ``[..., C, H, W]``, channels last in memory.

        What is of another kind is given back as it is.
        """
        if self.preprocess is None or not isinstance(images, Tensor):
            return images
        return self.normalized(images) if images.dtype is torch.uint8 else images

    def normalized(self, images: Tensor) -> Tensor:
        """The same of levels 0 to 255 of any type; float32 ones are overwritten."""
        *_, height, width, channels = images.shape
        most, mean, std = self._row(images.device, width)
        values = images.to(torch.float32).contiguous()
        # whole rows of pixels at a time, as three channels are no vector
        rows = values.view(*images.shape[:-2], width * channels)
        rows.div_(most).sub_(mean).div_(std)
        if channels == 1:  # an axis of one has no order: it is laid out as images always were
            return values.view(*images.shape[:-3], 1, height, width)
        return values.movedim(-1, -3)

    def _row(self, device: torch.device, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """255, the means and the deviations of a row of pixels, at a device.

        255 is a tensor, since CUDA divides by a number by multiplying with its inverse.
        """
        assert self.preprocess is not None  # noqa: S101
        key = device, width
        if key not in self._rows:
            of_row = [
                torch.tensor(values, dtype=torch.float32).repeat(width).to(device)
                for values in (self.preprocess.mean, self.preprocess.std)
            ]
            most = torch.full_like(of_row[0], 255)
            self._rows[key] = most, of_row[0], of_row[1]
        return self._rows[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": {}}


_STREAMS: dict[torch.device, Any] = {}
"""By CUDA device, the stream that batches are copied on."""


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch at a device; from pinned memory to CUDA while that is at work on the batch before.

    Work is queued behind the copy, and nothing waits for either.
    """
    if device.type != "cuda":
        return move_data_to_device(batch, device)
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    side, work = _STREAMS[device], torch.cuda.current_stream(device)
    with torch.cuda.stream(side):
        there = move_data_to_device(batch, device)
    work.wait_stream(side)
    for value in tree_leaves(there):
        if isinstance(value, Tensor) and value.is_cuda:
            value.record_stream(work)  # its memory is free when the work on it is done
    return there
