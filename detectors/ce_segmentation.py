"""CE for segmentation: the cross-entropy of each pixel, which post-hoc scores are put on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from oodbench.method import Recipe, num_features_of
from oodbench.registry import register_method
from oodbench.training import pixels

from ._dense import PIXEL_RECIPE_IDS, PIXEL_RECIPES


@register_method("ce-segmentation")
class CESegmentation(pixels.SegmentationMethod):
    """Cross-entropy of each pixel, on a 1x1 convolution."""

    stands_for: ClassVar[str | None] = "ce"
    recipes: ClassVar[Mapping[str, Recipe]] = PIXEL_RECIPES
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = PIXEL_RECIPE_IDS

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.linear = nn.Conv2d(num_features_of(backbone), num_classes, 1)

    def maps(self, features: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
        """``logits [B, C, h, w]`` of ``[B, D, h, w]``."""
        return {"logits": self.linear(features)}
