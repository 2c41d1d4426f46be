"""Networks that predict boxes, saying all that they know of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, batched_nms
from torchvision.ops.boxes import remove_small_boxes

from oodbench.errors import BadScoresError, OptionError
from oodbench.networks.models import box_predicting
from oodbench.networks.single_stage import LEAST
from oodbench.outputs import Head
from oodbench.registry import register_backbone

BOXES = "boxes"
"""What backbones of detection give, and its methods train on."""


class LinearBoxHead(nn.Linear):
    """The plain classification layer of a box: ``[R, D] -> {"logits": [R, 1 + C]}``."""

    def forward(self, features: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Logits; background first, as torchvision has it."""
        return {"logits": super().forward(features)}

    def as_head(self) -> Head:
        """The linear layer, for detectors."""
        return Head(self.weight.detach(), self.bias.detach())


class BoxPredictor(nn.Module):
    """Class and place of a box from its features.

    The layer of the places starts from normal weights of deviation 0.001 and biases of zero, as
    in Fast R-CNN (Girshick, ICCV 2015, section 2.3).

    Args:
        classify: from ``[R, D]`` to ``logits [R, 1 + C]`` and further columns with R rows; has
            ``as_head``.
        features: D.
        classes: ID classes C.
    """

    def __init__(self, classify: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.classify = classify
        self.regress = nn.Linear(features, 4 * (1 + classes))
        nn.init.normal_(self.regress.weight, std=0.001)
        nn.init.zeros_(self.regress.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[R, 1 + C]`` and box deltas ``[R, 4 (1 + C)]``, as torchvision wants them."""
        return self.classify(features)["logits"], self.regress(features)


class BoxNetwork(nn.Module):
    """A torchvision Faster R-CNN (Ren et al. 2015) that says all it knows of the boxes it predicts.

    Args:
        detector: torchvision's. One that is trained here should not normalise images itself.
    """

    def __init__(self, detector: zoo.FasterRCNN) -> None:
        super().__init__()
        self.detector = detector

    @property
    def num_features(self) -> int:
        """D, of the features that a box's class is predicted from."""
        predictor = self.detector.roi_heads.box_predictor
        layer = predictor.regress if isinstance(predictor, BoxPredictor) else predictor.cls_score
        return int(layer.in_features)

    @property
    def num_classes(self) -> int:
        """ID classes C, without the background."""
        predictor = self.detector.roi_heads.box_predictor
        layer = predictor.regress if isinstance(predictor, BoxPredictor) else predictor.bbox_pred
        return int(layer.out_features) // 4 - 1

    def head(self) -> Head | None:
        """The layer from a box's features to its logits without background."""
        predictor = self.detector.roi_heads.box_predictor
        if isinstance(predictor, BoxPredictor):
            head: Head = cast(Any, predictor.classify).as_head()
        else:
            head = Head(predictor.cls_score.weight.detach(), predictor.cls_score.bias.detach())
        return dataclasses.replace(head, weight=head.weight[1:], bias=head.bias[1:])

    def outputs(self, images: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        """:meth:`detect` with boxes from ``LEAST`` on."""
        return self.detect(list(images))

    def detect(self, images: list[Tensor], least: float = LEAST) -> dict[str, Tensor]:
        """The boxes that are predicted on images, and what they were predicted from.

        As torchvision does: softmax over classes and background, boxes of less than ``least``
        dropped, overlapping ones of a class suppressed, at most 100 an image.

        Args:
            images: B of ``[channels, H, W]``, of any sizes.
            least: smallest confidence.

        Returns:
            One row per box, by image and then by falling confidence: ``image [n]`` (position),
            ``corners [n, 4]`` in pixels of the image, ``confidence [n]`` (softmax), ``predicted
            [n]`` in [0, C), ``features [n, D]``, ``logits [n, C]``, and what else the head gives.

        Raises:
            BadScoresError: logits that are NaN or infinite.
        """
        net, roi = self.detector, self.detector.roi_heads
        if roi.score_thresh > LEAST:  # somebody's choice, and not torchvision's default
            least = max(least, roi.score_thresh)
        batch, _ = net.transform(images)
        maps = net.backbone(batch.tensors)
        maps = {"0": maps} if isinstance(maps, Tensor) else maps
        proposals, _ = net.rpn(batch, maps)
        features = roi.box_head(roi.box_roi_pool(maps, proposals, batch.image_sizes))
        predictor = roi.box_predictor
        if isinstance(predictor, BoxPredictor):
            said, deltas = predictor.classify(features), predictor.regress(features)
        else:
            said, deltas = {"logits": predictor.cls_score(features)}, predictor.bbox_pred(features)
        if not said["logits"].isfinite().all():  # NaN would pass for boxes of no confidence
            raise BadScoresError(
                "the network gives logits that are NaN or infinite. Has its training diverged? "
                "Train again with a smaller learning rate (`lr`)."
            )
        corners = roi.box_coder.decode(deltas.float(), proposals)  # [R, 1 + C, 4]
        confidence = said["logits"].float().softmax(dim=1)[:, 1:]
        owner = torch.repeat_interleave(
            torch.arange(len(images), device=confidence.device),
            torch.tensor([len(p) for p in proposals], device=confidence.device),
        )
        row, predicted = (confidence >= least).nonzero(as_tuple=True)
        image, sure = owner[row], confidence[row, predicted]
        boxes = _clipped(corners[row, predicted + 1], image, batch.image_sizes)
        large = remove_small_boxes(boxes, 1e-2)
        groups = image[large] * confidence.shape[1] + predicted[large]
        kept = large[batched_nms(boxes[large], sure[large], groups, roi.nms_thresh)]
        kept = kept[image[kept].argsort(stable=True)]
        counts = image[kept].bincount(minlength=len(images))
        first = counts.cumsum(0) - counts
        place = torch.arange(len(kept), device=kept.device) - first[image[kept]]
        kept = kept[place < roi.detections_per_img]
        back = torch.tensor(
            [
                [w / rw, h / rh, w / rw, h / rh]
                for (h, w), (rh, rw) in zip(
                    [i.shape[-2:] for i in images], batch.image_sizes, strict=True
                )
            ],
            device=boxes.device,
        )
        columns = {
            # the background is no class
            name: value[row[kept], 1:] if value.ndim == 2 else value[row[kept]]
            for name, value in said.items()
        }
        return {
            "image": image[kept],
            "corners": boxes[kept] * back[image[kept]],
            "confidence": sure[kept],
            "predicted": predicted[kept],
            "features": features[row[kept]],
            **columns,
        }


class BoxReader(nn.Module):
    """A network that predicts boxes, as its outputs are kept: one row per box.

    Args:
        network: has ``detect`` and ``head``; see :class:`oodbench.networks.models.BoxPredicting`.
        least: smallest confidence.
    """

    sample_column = "image"

    def __init__(self, network: nn.Module, least: float = LEAST) -> None:
        super().__init__()
        self.model = network
        self.least = least

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The columns of :meth:`BoxNetwork.detect` in float32, and the predicted class as label."""
        columns = dict(box_predicting(self.model).detect(list(images), self.least))
        columns["labels"] = columns.pop("predicted")
        return {n: v.float() if v.is_floating_point() else v for n, v in columns.items()}

    def head(self) -> Head | None:
        """The layer from a box's features to its logits without background."""
        return box_predicting(self.model).head()


def _clipped(boxes: Tensor, image: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    limits = torch.tensor([[w, h, w, h] for h, w in sizes], device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limits[image].to(boxes))


def forget_sizes(network: nn.Module) -> None:
    """Undo what torchvision notes in a network at its first images, so that its cache key stays."""
    for module in network.modules():
        if isinstance(module, MultiScaleRoIAlign):
            module.scales = module.map_levels = None


def _convolutions(*widths: int) -> nn.Sequential:
    """3x3 convolutions with batch normalisation; all but the first and the last halve the map."""
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for i, (inside, out) in enumerate(pairwise(widths)):
        layers += [
            nn.Conv2d(inside, out, 3, 1 if i in (0, last) else 2, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


@register_backbone("scenes-frcnn", takes="images", gives=BOXES)
def scenes_frcnn(channels: int = 1) -> BoxNetwork:
    """A small Faster R-CNN for scenes of 64 x 64 pixels: 128 features per box."""
    body: Any = _convolutions(channels, 16, 32, 64, 64)
    body.out_channels = 64
    detector = zoo.FasterRCNN(
        body,
        rpn_anchor_generator=AnchorGenerator(((14, 20, 27),), ((0.7, 1.0, 1.5),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(64 * 7**2, 128),
        box_predictor=FastRCNNPredictor(128, 2),
        min_size=64,
        max_size=64,
        image_mean=(0.0,) * channels,
        image_std=(1.0,) * channels,
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        box_batch_size_per_image=64,
    )
    return BoxNetwork(detector)


@register_backbone("fasterrcnn-resnet50-fpn", takes="images", gives=BOXES)
def fasterrcnn_resnet50_fpn(channels: int = 3) -> BoxNetwork:
    """Faster R-CNN with a ResNet-50 and feature pyramid: 1,024 features per box.

    Its weights are random. To start from a ResNet that was trained on ImageNet, give
    ``oodbench.training.run.Run`` its checkpoint.
    """
    if channels != 3:
        raise OptionError(f"fasterrcnn-resnet50-fpn takes RGB images, not {channels} channels.")
    detector = zoo.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=2,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
    )
    return BoxNetwork(detector)
