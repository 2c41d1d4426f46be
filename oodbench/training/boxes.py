"""Learning to predict boxes: Faster R-CNN's losses, the augmentation and the recipes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from PIL import Image
from torch import Tensor, nn

from oodbench.data.dense import boxed, check_labels
from oodbench.data.images import in_mode
from oodbench.data.samples import Boxes
from oodbench.data.transforms import Preprocess, to_tensor
from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.networks.backbones import backbone_names
from oodbench.networks.boxes import BOXES, BoxNetwork, BoxPredictor
from oodbench.networks.single_stage import LEAST
from oodbench.outputs import Head
from oodbench.training.dense import DenseMethod, JointAugmentation


class DetectionMethod(DenseMethod):
    """Faster R-CNN's four losses, on boxes of the ID classes; objects of none are background.

    The backbone is a :class:`BoxNetwork`. A subclass has ``classifier``, the head of a box.
    """

    backbone_gives = BOXES

    task: ClassVar[str] = "detection"

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        if not isinstance(backbone, BoxNetwork):
            raise OptionError(
                f"{type(backbone).__name__} predicts no boxes. Backbones of detection: "
                f"{', '.join(backbone_names(gives=BOXES))}."
            )
        super().__init__(backbone, num_classes, recipe)
        features = backbone.num_features
        backbone.detector.roi_heads.box_predictor = BoxPredictor(
            self.classifier(features, 1 + num_classes), features, num_classes
        )

    def classifier(self, features: int, classes: int) -> nn.Module:
        """The head of a box: ``[R, features]`` to a mapping with ``logits [R, classes]``."""
        raise NotImplementedError

    @staticmethod
    def target(samples: Any, index: int) -> Boxes:
        """The boxes of an image."""
        scenes = boxed(samples)
        boxes = scenes.boxes(index)
        check_labels(boxes, len(scenes.classes), f"{scenes.name}, image {index}")
        return boxes

    def joint_augmentation(self, preprocess: Preprocess) -> JointAugmentation:
        """A flip of image and boxes where the ID set allows."""
        return FlipBoxes(preprocess)

    @staticmethod
    def collate(examples: Sequence[tuple[Tensor, Any]]) -> tuple[list[Tensor], list[Any]]:
        """Images, which need not be of one size, and their targets."""
        images, targets = zip(*examples, strict=True)
        return list(images), list(targets)

    def loss(self, images: Any, labels: Any) -> dict[str, Tensor]:
        """Sum of the losses of objectness, proposals, classes and places, and each of them.

        Args:
            images: B of ``[channels, H, W]``.
            labels: B mappings, ``boxes [n, 4]`` and ``labels [n]`` in [1, C]; n may be 0.
        """
        parts: dict[str, Tensor] = cast(BoxNetwork, self.backbone).detector(images, labels)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def outputs(self, images: Any) -> dict[str, Tensor]:
        """See :meth:`BoxNetwork.detect`."""
        return self.detect(list(images))

    def detect(self, images: list[Tensor], least: float = LEAST) -> dict[str, Tensor]:
        """See :meth:`BoxNetwork.detect`."""
        return cast(BoxNetwork, self.backbone).detect(images, least)

    def head(self) -> Head | None:
        """The layer from a box's features to its logits without background."""
        return cast(BoxNetwork, self.backbone).head()


class FlipBoxes:
    """A flip of image and boxes, half the time, where ``preprocess`` allows it."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(
        self, image: Image.Image, boxes: Boxes, rng: random.Random
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``[C, H, W]`` float32, and what torchvision calls a target."""
        pixels = self.preprocess.normalize(to_tensor(in_mode(image, self.preprocess.mode)))
        known = boxes.labels >= 0
        corners = torch.from_numpy(boxes.corners[known])
        if self.preprocess.flip and rng.random() < 0.5:
            pixels = pixels.flip(-1)
            corners = corners[:, [2, 1, 0, 3]]
            corners[:, [0, 2]] = image.width - corners[:, [0, 2]]
        return pixels, {"boxes": corners, "labels": torch.from_numpy(boxes.labels[known]) + 1}


@dataclass(frozen=True)
class DetectionRecipe(Recipe):
    """How a detection network is trained."""
