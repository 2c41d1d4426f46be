"""Learning a class for each pixel: the loss, the augmentation and the recipes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from oodbench.data.dense import check_mask, check_size, masked
from oodbench.data.images import in_mode
from oodbench.data.samples import VOID
from oodbench.data.transforms import Preprocess, to_tensor
from oodbench.method import Recipe
from oodbench.networks.pixels import MAPS, enlarged
from oodbench.training.dense import DenseMethod, JointAugmentation


class SegmentationMethod(DenseMethod):
    """Cross-entropy of each pixel that is neither void nor OOD.

    The backbone gives maps of features ``[B, D, h, w]``, ``num_features`` D. A subclass has
    ``maps``, the head.
    """

    backbone_gives = MAPS

    task: ClassVar[str] = "segmentation"
    gives: ClassVar[frozenset[str] | None] = frozenset({"logits"})

    def maps(self, features: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
        """``logits`` ``[B, C, h, w]``, and what else a detector reads, of ``[B, D, h, w]``.

        They may have the image's ``size`` (height, width) already; smaller ones are enlarged.
        """
        raise NotImplementedError

    @staticmethod
    def target(samples: Any, index: int) -> Any:
        """The mask of one image, ``[H, W]``."""
        scenes = masked(samples)
        mask = scenes.mask(index)
        check_mask(mask, len(scenes.classes), scenes.mask_name(index))
        return mask

    def joint_augmentation(self, preprocess: Preprocess) -> JointAugmentation:
        """A random square of the preprocessing's size, and a flip where the ID set allows."""
        return CropFlipMask(preprocess)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean cross-entropy over the pixels of a class (0 if there is none), and the accuracy.

        Args:
            images: ``[B, channels, H, W]``.
            labels: masks ``[B, H, W]`` int64.
        """
        logits = self.maps(self.backbone(images), labels.shape[-2:])["logits"]
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        known = labels < self.num_classes
        n = known.sum().clamp(min=1)
        each = F.cross_entropy(
            logits.float(), labels.masked_fill(~known, -100), reduction="sum", ignore_index=-100
        )
        accuracy = ((logits.argmax(dim=1) == labels) & known).sum() / n
        return {"loss": each / n, "accuracy": accuracy}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``logits [B, C, H, W]`` and further maps, in the size of the images.

        Smaller ones are enlarged bilinearly, each by itself.
        """
        return enlarged(self.small_maps(images), images.shape[-2:])

    def small_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The same maps in the sizes in which they are computed, in float32."""
        maps = self.maps(self.backbone(images), images.shape[-2:])
        return {name: value.float() for name, value in maps.items()}


class CropFlipMask:
    """A random crop of image and mask, padded with zeros and void, and a flip.

    Args:
        preprocess: ``size`` is the side of the crop.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(
        self, image: Image.Image, mask: np.ndarray, rng: random.Random
    ) -> tuple[Tensor, Tensor]:
        """``[C, size, size]`` float32 and ``[size, size]`` int64."""
        check_size(image, mask)
        size = self.preprocess.size
        pixels = self.preprocess.normalize(to_tensor(in_mode(image, self.preprocess.mode)))
        target = torch.from_numpy(mask.astype(np.int64))
        height, width = target.shape
        down, right = max(0, size - height), max(0, size - width)
        pixels = F.pad(pixels, (0, right, 0, down))
        target = F.pad(target, (0, right, 0, down), value=VOID)
        top, left = rng.randint(0, height + down - size), rng.randint(0, width + right - size)
        window = (..., slice(top, top + size), slice(left, left + size))
        pixels, target = pixels[window], target[window]
        if self.preprocess.flip and rng.random() < 0.5:
            pixels, target = pixels.flip(-1), target.flip(-1)
        return pixels, target


@dataclass(frozen=True)
class SegmentationRecipe(Recipe):
    """How a segmentation network is trained."""
