"""What methods share that learn from outliers: their recipe, and the parts of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from oodbench.errors import OptionError
from oodbench.method import Recipe

from .ce import CrossEntropy


@dataclass(frozen=True)
class OutlierRecipe(Recipe):
    """How a network is trained on the ID set and on outliers.

    Args:
        outliers: the dataset that they are drawn from, a name or ``folder:PATH``; it has to be
            given, and must have no image that is tested on.
        outliers_per_image: how many outliers a step has for each ID image.
    """

    outliers: str | None = None
    outliers_per_image: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outliers_per_image < 1:
            raise OptionError(
                f"recipe: outliers_per_image must be at least 1, not {self.outliers_per_image}."
            )


class OutlierMethod(CrossEntropy):
    """A classifier that learns from outliers beside the ID set; a subclass has the loss."""

    auxiliary: ClassVar[str] = "outliers"
    recipe: OutlierRecipe

    @property
    def outliers_per_image(self) -> int:
        """As the recipe says."""
        return self.recipe.outliers_per_image

    def parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The ID images ``[B, ...]`` and the outliers ``[B * outliers_per_image, ...]``.

        Raises:
            OptionError: no outliers came with the images.
        """
        if images.shape[1] < 2:
            raise OptionError(
                f"{self.name} learns from outliers, and got ID images alone: each comes with "
                f"{self.outliers_per_image} of them, as further views."
            )
        return images[:, 0], images[:, 1:].flatten(0, 1)


def check_positive(recipe: Recipe, *names: str, zero: bool = False) -> None:
    """Check that fields of a recipe are positive, or not negative, and finite.

    Raises:
        OptionError: names the first that is not.
    """
    for name in names:
        value = getattr(recipe, name)
        is_right = 0 <= value < float("inf") if zero else 0 < value < float("inf")
        if not is_right:
            wanted = "0 or more" if zero else "positive"
            raise OptionError(f"recipe: {name} must be {wanted}, not {value}.")
