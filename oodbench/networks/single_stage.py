"""torchvision's detectors without proposals (RetinaNet, FCOS, SSD), saying all they know of boxes.

They score each of thousands of places for each class; a box has the logits of its place. There is
no layer of features that a class is predicted from, so detectors of logits score them alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo
from torchvision.ops import batched_nms, clip_boxes_to_image

from oodbench.errors import BadScoresError

LEAST = 0.05
"""Confidence from which boxes count for mean average precision, as torchvision's default."""

KINDS = (zoo.RetinaNet, zoo.FCOS, zoo.ssd.SSD)
"""What :class:`SingleStageNetwork` takes."""


class SingleStageNetwork(nn.Module):
    """A RetinaNet (Lin et al. 2017), FCOS (Tian et al. 2019) or SSD (Liu et al. 2016).

    Args:
        detector: torchvision's. Its first output is the background's, or of no class, unless it has
            as many as there are classes.
        classes: ID classes C.
    """

    def __init__(self, detector: nn.Module, classes: int) -> None:
        super().__init__()
        self.detector: Any = detector
        self.classes = classes

    def head(self) -> None:
        """None: there is no linear layer from features to logits."""

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """:meth:`detect` with the detector's own threshold."""
        return self.detect(list(images), float(self.detector.score_thresh))

    def detect(self, images: list[Tensor], least: float) -> dict[str, Tensor]:
        """The boxes that are predicted on images, as torchvision predicts them.

        Args:
            images: B of ``[channels, H, W]``, of any sizes.
            least: smallest confidence.

        Returns:
            As :meth:`oodbench.networks.boxes.BoxNetwork.detect`, but without features.

        Raises:
            BadScoresError: logits that are NaN or infinite.
        """
        net = self.detector
        if net.score_thresh > LEAST:
            least = max(least, net.score_thresh)
        batch, _ = net.transform(images)
        maps = net.backbone(batch.tensors)
        maps = [maps] if isinstance(maps, Tensor) else list(maps.values())
        said = {name: value.float() for name, value in net.head(maps).items()}
        if not said["cls_logits"].isfinite().all():
            raise BadScoresError("the network gives logits that are NaN or infinite.")
        confidence = self._confidence(said)
        skipped = 0 if confidence.shape[-1] == self.classes else 1
        confidence = confidence[..., skipped:]
        places = [m.shape[-2] * m.shape[-1] for m in maps]
        each = confidence.shape[1] // sum(places)
        levels = [each * n for n in places]
        of_images = []
        for i, anchors in enumerate(net.anchor_generator(batch, maps)):
            place, predicted = self._candidates(confidence[i], levels, least)
            boxes = self._decoded(said["bbox_regression"][i][place], anchors[place])
            boxes = clip_boxes_to_image(boxes, batch.image_sizes[i])
            sure = confidence[i][place, predicted]
            kept = batched_nms(boxes, sure, predicted, net.nms_thresh)[: net.detections_per_img]
            (height, width), (h, w) = images[i].shape[-2:], batch.image_sizes[i]
            back = boxes.new_tensor([width / w, height / h, width / w, height / h])
            of_images.append(
                {
                    "image": torch.full_like(kept, i),
                    "corners": boxes[kept] * back,
                    "confidence": sure[kept],
                    "predicted": predicted[kept],
                    "logits": said["cls_logits"][i][place[kept], skipped:],
                }
            )
        return {name: torch.cat([one[name] for one in of_images]) for name in of_images[0]}

    def _confidence(self, said: dict[str, Tensor]) -> Tensor:
        """``[B, places, outputs]``."""
        logits = said["cls_logits"]
        if isinstance(self.detector, zoo.ssd.SSD):
            return logits.softmax(dim=-1)
        if isinstance(self.detector, zoo.FCOS):
            return (logits.sigmoid() * said["bbox_ctrness"].sigmoid()).sqrt()
        return logits.sigmoid()

    def _candidates(
        self, confidence: Tensor, levels: list[int], least: float
    ) -> tuple[Tensor, Tensor]:
        """Places and classes of an image's most confident boxes, of each level or of each class."""
        most = self.detector.topk_candidates
        if isinstance(self.detector, zoo.ssd.SSD):
            sure, place = confidence.topk(min(most, len(confidence)), dim=0)
            rank, predicted = (sure > least).T.nonzero(as_tuple=True)[::-1]
            return place[rank, predicted], predicted
        chosen, start = [], 0
        for level in confidence.split(levels):
            flat = level.flatten()
            sure, index = flat.topk(min(most, len(flat)))
            chosen.append(index[sure > least] + start)
            start += len(flat)
        index = torch.cat(chosen)
        classes = confidence.shape[1]
        return index.div(classes, rounding_mode="floor"), index % classes

    def _decoded(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        coder = self.detector.box_coder
        is_of_points = isinstance(self.detector, zoo.FCOS)
        boxes: Tensor = (coder.decode if is_of_points else coder.decode_single)(deltas, anchors)
        return boxes
