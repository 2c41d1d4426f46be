"""CE for segmentation: a linear head, enlarged by its logits."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from oodbench.detectors.ce_segmentation import CESegmentation
from tests.helpers.pixels import RECIPE, Strided


def test_a_linear_head_is_enlarged_by_its_logits() -> None:
    torch.manual_seed(0)
    method = CESegmentation(Strided(), 3, RECIPE).eval()
    images = torch.randn(2, 1, 7, 10)
    with torch.no_grad():
        small = method.maps(method.backbone(images), (7, 10))["logits"]
        large = F.interpolate(small, (7, 10), mode="bilinear", align_corners=False)
        torch.testing.assert_close(method.outputs(images)["logits"], large)
