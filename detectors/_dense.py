"""Recipes of methods for pixels and for boxes, which cross-entropy and AbeT share."""

from __future__ import annotations

from collections.abc import Mapping

from oodbench.method import Recipe
from oodbench.training.boxes import DetectionRecipe
from oodbench.training.pixels import SegmentationRecipe

PIXEL_RECIPES: Mapping[str, Recipe] = {
    "published": SegmentationRecipe(
        backbone="deeplabv3-resnet50",
        epochs=180,
        batch_size=16,
        lr=0.01,
        nesterov=False,
        weight_decay=1e-4,
    ),
    "quick": SegmentationRecipe(
        epochs=20, batch_size=8, lr=0.1, nesterov=False, weight_decay=5e-4, warmup_epochs=1
    ),
    "slow": SegmentationRecipe(
        epochs=20, batch_size=8, lr=0.01, nesterov=False, weight_decay=1e-4, warmup_epochs=1
    ),
}
"""``published`` is a common one for Cityscapes; AbeT's authors fine-tune a WideResNet-38.

``quick`` was chosen on ID validation alone (the embedded scenes, ``abet-segmentation``, seed 0, 20
epochs without Nesterov's momentum), by the cross-entropy of a pixel. Rate 0.1 and decay 5e-4:
0.0207 (0.087 on objects), mIoU 93.9; 0.03 and 1e-4: 0.0218 (0.096), 93.7, hardly worse; 0.01 and
1e-4, which is ``slow``: 0.0449 (0.258), 89.5, it has not learned all that there is. OOD pixels
chose nothing, although they may prefer ``slow``.
"""

PIXEL_RECIPE_IDS: Mapping[str, tuple[str, ...]] = {"published": ("cityscapes", "streethazards")}

BOX_RECIPES: Mapping[str, Recipe] = {
    "published": DetectionRecipe(
        backbone="fasterrcnn-resnet50-fpn",
        epochs=18,
        batch_size=16,
        lr=0.02,
        nesterov=False,
        weight_decay=1e-4,
        warmup_epochs=0.1,
        schedule="step",
        milestones=(12, 16),
    ),
    "quick": DetectionRecipe(epochs=15, batch_size=8, lr=0.02, warmup_epochs=1),
}
"""``published`` is VOS's for VOC: 18,000 steps of 16 images, x0.1 after 12,000 and 16,000."""

BOX_RECIPE_IDS: Mapping[str, tuple[str, ...]] = {"published": ("voc", "bdd")}
