"""Networks that normalise images themselves are found, told of, and given plain pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torchvision.models import detection as zoo
from torchvision.models.detection.anchor_utils import AnchorGenerator

import oodbench
from oodbench import Hardware, Preprocess
from oodbench.benchmark import Benchmark
from oodbench.data.samples import OOD, BoxedSamples, Boxes, MaskedSamples
from oodbench.data.transforms import to_tensor
from oodbench.dataset import DatasetSpec
from oodbench.networks.boxes import scenes_frcnn
from oodbench.networks.normalisation import own_normalisation
from oodbench.tasks.contender import Contender
from oodbench.testing import untouched
from tests.helpers.boxes import at_work

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RGB = Preprocess(64, MEAN, STD)
M, S = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)


class Before(nn.Module):
    def __init__(self, first: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.first, self.network = first, network

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(self.first(images)))


def conv(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()


PIXEL_MEAN = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
SELF_NORMALISING: dict[str, tuple[Callable[[Tensor], Tensor], Any, Any, float]] = {
    "buffers": (lambda x: (x - M) / S, MEAN, STD, 1),
    "a transform": (torchvision.transforms.Normalize(MEAN, STD), MEAN, STD, 1),
    "BGR": (lambda x: ((x - M) / S).flip(1), MEAN[::-1], STD[::-1], 1),
    "to [-1, 1]": (lambda x: 2 * x - 1, (0.5,), (0.5,), 1),
    "centred": (lambda x: x - 0.5, (0.5,), (1,), 1),
    "Caffe's": (lambda x: 255 * (x - M), MEAN, (1 / 255,) * 3, 1),
    "resized": (lambda x: (F.interpolate(x, (50, 70), mode="bicubic") - M) / S, MEAN, STD, 1),
    "padded": (lambda x: F.pad((x - M) / S, (0, 8, 0, 24)), MEAN, STD, 1),
    "of bytes": (lambda x: x / 255, (0,), (255,), 255),
    "of bytes, Caffe's": (lambda x: x - PIXEL_MEAN, (103.53, 116.28, 123.675), (1, 1, 1), 255),
    "of bytes, ImageNet's": (
        lambda x: (x - 255 * M) / (255 * S), [255 * m for m in MEAN], [255 * s for s in STD], 255
    ),
}  # fmt: skip


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("how", SELF_NORMALISING)
def test_a_normalisation_is_found(how: str, scripted: bool) -> None:
    first, mean, std, scale = SELF_NORMALISING[how]
    network: Any = Before(first, conv())
    if scripted:
        network = torch.jit.trace(network, torch.rand(3, 3, 64, 64))
    found = own_normalisation(network, 3, 64)
    assert found is not None
    assert found.mean == pytest.approx(tuple(mean), rel=2e-3, abs=1e-3)
    shared = len(set(std)) == 1 and len(found.std) == 1
    assert found.std == pytest.approx(tuple(std)[: 1 if shared else None], rel=2e-3)
    assert found.scale == scale
    image = torch.rand(3, 9, 9)  # what is fed is what the network wants
    assert torch.allclose(found.plain(RGB).normalize(image), image * scale, rtol=1e-5)


def test_grey_images_and_layers_that_are_no_convolution() -> None:
    assert own_normalisation(Before(lambda x: (x - 0.13) / 0.31, conv(1)), 1, 28) is not None
    repeated = Before(lambda x: (x.repeat(1, 3, 1, 1) - M) / S, conv())
    found = own_normalisation(repeated, 1, 28)
    assert found is not None
    assert found.mean == pytest.approx(MEAN)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    assert own_normalisation(flat, 3, 16) is None
    assert own_normalisation(Before(lambda x: (x - M) / S, flat), 3, 16) is not None
    weights_of_weights = nn.Sequential(spectral_norm(nn.Conv2d(3, 4, 3))).train()
    assert own_normalisation(weights_of_weights, 3, 32) is None
    assert own_normalisation(Before(lambda x: (x - M) / S, weights_of_weights), 3, 32) is not None


NONE: dict[str, Callable[[], nn.Module]] = {
    "plain": conv,
    "a first batch normalisation": lambda: nn.Sequential(nn.BatchNorm2d(3), conv()).eval(),
    "in training mode": lambda: nn.Sequential(nn.BatchNorm2d(3), conv()).train(),
    "learned scale": lambda: Before(lambda x: 1.3 * x + 0.02, conv()),
    "from one to another": lambda: torchvision.models.googlenet(
        weights=None, init_weights=False, transform_input=True, aux_logits=False
    ).eval(),
    "statistics of the batch": lambda: Before(lambda x: (x - x.mean()) / x.std(), conv()),
    "statistics of the image": lambda: Before(lambda x: F.instance_norm(x), conv()),
    "not linear": lambda: Before(lambda x: x.clamp(min=1e-3).log(), conv()),
    "cannot run": lambda: Before(lambda x: x.view(7), conv()),
    "no layer": lambda: Before(lambda x: x - M, nn.Identity()),
    "a ResNet": lambda: torchvision.models.resnet18(weights=None).eval(),
    "a ViT": lambda: torchvision.models.vit_b_32(weights=None, image_size=64).eval(),
    "DeepLab": lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ).eval(),
}


@pytest.mark.parametrize("kind", NONE)
def test_no_normalisation_is_no_finding(kind: str) -> None:
    assert own_normalisation(NONE[kind](), 3, 64) is None


# --- boxes are torchvision's --------------------------------------------------------------------


class Photographs(BoxedSamples):
    """Photographs of several sizes."""

    def __init__(self, name: str, seed: int = 0) -> None:
        sizes = ((64, 80), (64, 80), (90, 60), (64, 80))
        super().__init__(name, np.zeros(len(sizes)), ("a", "b", "c"))
        rng = np.random.default_rng(seed)
        self.images = [rng.integers(0, 256, (h // 8, w // 8, 3), dtype=np.uint8) for h, w in sizes]
        self.sizes = sizes

    def __getitem__(self, index: int) -> Image.Image:
        height, width = self.sizes[index]
        return Image.fromarray(self.images[index]).resize((width, height))

    def boxes(self, index: int) -> Boxes:
        return Boxes(np.array([[3, 4, 30, 40]]), np.array([index % 3]))

    def _digests(self) -> np.ndarray:
        return np.arange(len(self.images), dtype=np.uint64) + len(self.name) * 1000


def body() -> Any:
    layers: Any = nn.Sequential(nn.Conv2d(3, 32, 7, 4, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1))
    layers.out_channels = 32
    return layers


ANCHORS = AnchorGenerator(((16, 32),), ((0.5, 1.0),))
SMALL = {"min_size": 100, "max_size": 160, "image_mean": MEAN, "image_std": STD}


def rcnn(kind: Any, **more: Any) -> nn.Module:
    pool = torchvision.ops.MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2)
    return cast(
        nn.Module,
        kind(body(), 4, rpn_anchor_generator=ANCHORS, box_roi_pool=pool, **SMALL, **more),
    )


def louder(network: nn.Module, times: float = 20.0) -> nn.Module:
    """With weights that say something, so that there are boxes to compare."""
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
        if any(part in name for part in ("cls_logits", "cls_score", "classification_head.module")):
            parameter.data.normal_(0, 0.05 * times / 20)
        elif "bbox" in name and parameter.ndim > 1:
            parameter.data.mul_(0.05)
        if name.endswith("cls_logits.bias") and len(parameter) % 4 == 0:
            parameter.data[::4] = -30.0  # the output of no class
    return network.eval()


def mask_rcnn() -> nn.Module:
    """With a small head: masks are not compared."""
    pool = torchvision.ops.MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2)
    network: Any = rcnn(zoo.MaskRCNN, mask_roi_pool=pool)
    network.roi_heads.mask_head = zoo.mask_rcnn.MaskRCNNHeads(32, (8,), 1)
    network.roi_heads.mask_predictor = zoo.mask_rcnn.MaskRCNNPredictor(8, 8, 4)
    return cast(nn.Module, network)


def keypoint_rcnn() -> nn.Module:
    """With a small head: keypoints are not compared."""
    pool = torchvision.ops.MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2)
    network: Any = rcnn(zoo.KeypointRCNN, keypoint_roi_pool=pool)
    network.roi_heads.keypoint_head = zoo.keypoint_rcnn.KeypointRCNNHeads(32, (8,))
    network.roi_heads.keypoint_predictor = zoo.keypoint_rcnn.KeypointRCNNPredictor(8, 3)
    return cast(nn.Module, network)


def ssd() -> nn.Module:
    anchors = zoo.anchor_utils.DefaultBoxGenerator([[2]], min_ratio=20, max_ratio=60)
    features = body()
    features.out_channels = [32]
    return zoo.ssd.SSD(features, anchors, (96, 96), 4, image_mean=MEAN, image_std=STD)


def retina(outputs: int) -> nn.Module:
    return zoo.RetinaNet(body(), outputs, anchor_generator=ANCHORS, **SMALL)


def fcos(outputs: int) -> nn.Module:
    anchors = AnchorGenerator(((8,),), ((1.0,),))
    return zoo.FCOS(body(), outputs, anchor_generator=anchors, **SMALL)


DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "Faster R-CNN": lambda: rcnn(zoo.FasterRCNN),
    "Mask R-CNN": mask_rcnn,
    "Keypoint R-CNN": keypoint_rcnn,
    "RetinaNet": lambda: retina(4),
    "RetinaNet without background": lambda: retina(3),
    "FCOS": lambda: fcos(4),
    "FCOS without background": lambda: fcos(3),
    "SSD": ssd,
}


@pytest.mark.parametrize("kind", DETECTORS)
def test_boxes_of_a_given_detector_are_those_of_torchvision(kind: str) -> None:
    """On each picture alone, however they are batched; every box that it predicts."""
    torch.manual_seed(0)
    network, samples = louder(DETECTORS[kind]()), Photographs("photographs")
    subject = at_work(network, preprocess=RGB, classes=samples.classes, said=None)
    with untouched(network):
        boxes = subject.outputs_of(samples).outputs
    total = 0
    for index in range(len(samples)):
        with torch.no_grad():
            theirs = network([to_tensor(samples[index])])[0]
        counts = theirs["scores"] > 0.05
        first = 0 if kind.endswith("without background") else 1
        mine = boxes.extra["image"] == index
        assert int(mine.sum()) == int(counts.sum())
        torch.testing.assert_close(
            boxes.extra["corners"][mine], theirs["boxes"][counts], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            boxes.extra["confidence"][mine], theirs["scores"][counts], atol=1e-5, rtol=1e-4
        )
        assert torch.equal(boxes.labels[mine] + first, theirs["labels"][counts])
        total += int(mine.sum())
    assert total > 20
    assert len(boxes.labels.unique()) > 1
    assert "itself" in subject.notes[0]
    assert subject.preprocess == replace(RGB, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert boxes.logits.shape == (total, 3)
    # each box's confidence is of its own logits
    if kind.startswith("RetinaNet"):
        own = boxes.logits.sigmoid()[torch.arange(total), boxes.labels]
        torch.testing.assert_close(own, boxes.extra["confidence"])


def test_a_detector_that_normalises_nothing_is_given_what_the_benchmark_says() -> None:
    network = scenes_frcnn(3).detector
    subject = at_work(network, preprocess=RGB)
    assert subject.preprocess == RGB
    assert not subject.notes


def test_what_a_caller_says_of_the_preprocessing_is_done_and_doubted() -> None:
    network = louder(rcnn(zoo.FasterRCNN))
    own = replace(RGB, std=(0.5, 0.5, 0.5))
    subject = at_work(Contender(network, preprocess=own), preprocess=RGB)
    assert subject.preprocess == own
    assert "normalised twice" in subject.notes[0]
    plain = replace(RGB, mean=(0.0,) * 3, std=(1.0,) * 3)
    subject = at_work(Contender(network, preprocess=plain), preprocess=RGB)
    assert subject.preprocess == plain
    assert not subject.notes


def test_a_threshold_of_the_detectors_own_is_kept() -> None:
    network = cast(Any, louder(rcnn(zoo.FasterRCNN)))
    samples = Photographs("photographs")
    low = at_work(network, preprocess=RGB, said=None).outputs_of(samples).outputs
    middle = float(low.extra["confidence"].median())
    network.roi_heads.score_thresh = middle
    high = at_work(network, preprocess=RGB, said=None).outputs_of(samples).outputs
    assert float(high.extra["confidence"].min()) >= middle
    assert 0 < len(high) < len(low)


# --- pixels ----------------------------------------------------------------------------------


class Streets(MaskedSamples):
    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name, np.zeros(3), ("a", "b", "c"))
        self.seed = seed
        rng = np.random.default_rng(seed)
        self.images = rng.integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
        self.masks = rng.choice(np.array([0, 1, 2, OOD], np.uint8), (3, 16, 20))

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def mask(self, index: int) -> np.ndarray:
        return cast(np.ndarray, np.where(self.masks[index] == OOD, 0, self.masks[index])
                    if self.name == "id" else self.masks[index]).astype(np.uint8)  # fmt: skip

    def _digests(self) -> np.ndarray:
        return np.arange(3, dtype=np.uint64) + 10 * self.seed


def spec(name: str, seed: int) -> DatasetSpec:
    return DatasetSpec(name, lambda _: Streets(name, seed), ("train", "test"))


STREETS = Benchmark(
    "streets/segmentation", spec("id", 0), (spec("id-objects", 1),), (), RGB, task="segmentation"
)


def test_pixels_of_a_network_that_normalises_itself() -> None:
    """It has the figures of the same network without, under the benchmark's normalisation."""
    inner = conv()
    outside = oodbench.evaluate(
        inner, benchmark=STREETS, detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    assert not outside.warnings
    with untouched(inner):
        inside = oodbench.evaluate(
            Before(lambda x: (x - M) / S, inner), benchmark=STREETS, detectors="msp", hardware=CPU
        )
    assert "normalises images itself (mean 0.485, 0.456, 0.406" in inside.warnings[0]
    for row, other in zip(inside, outside, strict=True):
        assert row["auroc"] == pytest.approx(other["auroc"], abs=1e-6)
        assert row["id_miou"] == pytest.approx(other["id_miou"], abs=1e-6)
        assert row["preprocess"]["mean"] == (0.0,) * 3
        assert row["preprocess"]["std"] == (1.0,) * 3
    of_bytes = oodbench.evaluate(
        Before(lambda x: (x - 255 * M) / (255 * S), inner),
        benchmark=STREETS, detectors="msp", hardware=CPU,
    )  # fmt: skip
    assert [r["auroc"] for r in of_bytes] == pytest.approx([r["auroc"] for r in outside], abs=1e-6)
