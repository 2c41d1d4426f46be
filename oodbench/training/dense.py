"""Methods that learn from what is in an image: from masks or boxes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from oodbench.data.transforms import Preprocess
from oodbench.method import Method

JointAugmentation = Callable[[Image.Image, Any, random.Random], tuple[Tensor, Any]]


class DenseMethod(Method):
    """A method that learns from what is in an image: from masks or boxes.

    The backbone is a network of the method's task.
    ``pretrained_recipes`` are those that were published for one which starts from weights that were
    trained on other images; ours start from random ones, which is said.
    """

    pretrained_recipes: ClassVar[tuple[str, ...]] = ("published",)

    @classmethod
    def caveats(cls, recipe: str, checkpoint: str | Path | None) -> tuple[str, ...]:
        """Random weights where the published network had others."""
        if recipe not in cls.pretrained_recipes or checkpoint is not None:
            return ()
        return (
            f"the recipe {recipe!r} was published for a network that starts from weights trained "
            "on other images (ImageNet and more); this one started from random weights, so its "
            "figures cannot be compared with the published ones.",
        )

    @staticmethod
    def target(samples: Any, index: int) -> Any:
        """The training target of one image."""
        raise NotImplementedError

    def joint_augmentation(self, preprocess: Preprocess) -> JointAugmentation:
        """What is done to a training image and its target, together."""
        raise NotImplementedError

    @staticmethod
    def collate(examples: Sequence[tuple[Tensor, Any]]) -> tuple[Any, Any]:
        """A batch: images and targets, as ``loss`` takes them."""
        images, targets = default_collate(list(examples))
        return images, targets
