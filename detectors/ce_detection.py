"""CE for detection: a Faster R-CNN as it is, which post-hoc scores of boxes are put on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from oodbench.method import Recipe
from oodbench.networks.boxes import LinearBoxHead
from oodbench.registry import register_method
from oodbench.training import boxes

from ._dense import BOX_RECIPE_IDS, BOX_RECIPES


@register_method("ce-detection")
class CEDetection(boxes.DetectionMethod):
    """Faster R-CNN as it is: cross-entropy of each box, on a linear layer."""

    stands_for: ClassVar[str | None] = "ce"
    recipes: ClassVar[Mapping[str, Recipe]] = BOX_RECIPES
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = BOX_RECIPE_IDS

    def classifier(self, features: int, classes: int) -> nn.Module:
        """The linear layer behind the boxes' features."""
        return LinearBoxHead(features, classes)
