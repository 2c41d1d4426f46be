"""Recipes of methods for pixels and for boxes."""

from __future__ import annotations

from oodbench.detectors._dense import PIXEL_RECIPES
from oodbench.detectors.abet import AbeTSegmentation
from oodbench.detectors.ce_segmentation import CESegmentation
from oodbench.training.pixels import SegmentationMethod, SegmentationRecipe


def test_recipes() -> None:
    for method in (AbeTSegmentation, CESegmentation):
        assert issubclass(method, SegmentationMethod)
        for name, recipe in (("cityscapes", "published"), ("scenes", "quick")):
            assert method.default_recipe(name) == recipe
            assert isinstance(method.get_recipe(recipe), SegmentationRecipe)
    assert PIXEL_RECIPES["published"].backbone == "deeplabv3-resnet50"
    assert PIXEL_RECIPES["quick"].backbone is None, "the benchmark's own"
    chosen = {
        name: (r.lr, r.weight_decay, r.nesterov, r.epochs) for name, r in PIXEL_RECIPES.items()
    }
    assert chosen["quick"] == (0.1, 5e-4, False, 20), "the best on ID validation"
    assert chosen["slow"] == (0.01, 1e-4, False, 20)
