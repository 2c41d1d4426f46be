r"""AbeT: the energy of cosines over a learned temperature, without the temperature in front.

Paper: W. LeVine et al., "Out-of-Distribution Detection & Applications With Ablated Learned
Temperature Energy", arXiv:2401.12129
Code:  anonymousoodauthor/abet; written anew from the paper

With h(x) the penultimate features, training is cross-entropy on

.. math:: f_c(x) / T(x), \quad f_c = \cos(h(x), w_c), \quad
    T(x) = \sigma(\mathrm{BN}(a^\top h(x) + b)) + 10^{-12}

and the energy of those logits would be :math:`-T(x) \log \sum_c e^{f_c(x)/T(x)}`. AbeT leaves out
(ablates) the T in front, which is large where the logits are small, and so works against them:

.. math:: s(x) = -\log \sum_c \exp(f_c(x) / T(x))

No OOD data, no second stage, no hyper-parameter, no gradient at test time. A cosine here divides by
(L2 norm + 1e-4). Behind ReAct, ASH and DICE the features in the cosine are shaped, those in the
temperature are not.

In an image (segmentation) each pixel has its own features: both linear layers are 1x1 convolutions,
that of the temperature without b. In a detector's head each box has: background is one more class
in training, and no part of the score.

Recipe ``published`` is the paper's for CIFAR: ResNet-20, SGD 0.1, momentum 0.9, weight decay 1e-4,
batch 64, 200 epochs, x0.1 after 100, 150 and 180; crop, TrivialAugment and flip. Convolutions of
ResNet-20 to 56 start with variance 2 / fan-in here, as theirs do (2 / fan-out with other methods,
and in other networks). Recipe ``imagenet`` is their code's for ImageNet:
BiT-S-R101x1 from random weights, the same optimiser, x0.1 after 20 and 30 of the 200 epochs that
``main.py`` runs if not told otherwise; random resized crop, flip, TrivialAugment and, one time in
ten, an erased rectangle. Its figures have not been repeated here. Their OOD sets and their
preprocessing of CIFAR are the benchmarks ``cifar10/abet`` and ``cifar100/abet``.

Differs from the reference code: (1) cosines are multiplied out in the precision of the
features, theirs in float64 (norms in float32); (2) DICE masks a copy of the weights, theirs
the network's own; (3) the paper does not say which ASH: here a choice of P and B (a cosine does not
see the scaling that makes ASH-S of ASH-P); (4) CIFAR-100 has its own moments here (mean 0.5071,
0.4867, 0.4408; std 0.2675, 0.2565, 0.2761), theirs are CIFAR-10's for both (mean 125.3, 123.0,
113.9, std 63.0, 62.1, 66.7, over 255), which ``cifar100/abet`` has; (5) in ``imagenet`` h(x) are
the 2,048 pooled features, theirs the 21,843 outputs of the linear layer that BiT has behind them;
timm starts convolutions with variance 2 / fan-out, theirs with torch's default (both standardise
weights before use); (6) ReAct's threshold and DICE's mean activation are of the training images as
they are, theirs of images augmented as in training; (7) a log-sum-exp is exact, theirs is infinite
where a logit exceeds 709, so that such samples tie; (8) the random seed is 0, theirs none is set.

Segmentation: features are enlarged to the image's size, corners aligned, before cosines and
temperatures are taken, as theirs are. (9) Recipe ``published`` is DeepLabV3 with a ResNet-50 from
random weights, which its rows say, at rate 0.01 and weight decay 1e-4 for 180 epochs; theirs is
DeepLabV3+ with a WideResNet-38, pre-trained on ImageNet and Mapillary Vistas and then fine-tuned on
Cityscapes. Their training scripts are not in their repository; those of
NVIDIA/semantic-segmentation (sdcnet), which they say they changed, have rate 0.02 on Mapillary and
0.001 on Cityscapes, polynomial, 175 epochs each; (10) it is trained in single precision on random
crops of 768 px and flips along a cosine, and the last epoch counts; theirs in half precision, until
mIoU had reached 0.8, the best epoch; (11) all pixels count; theirs counts 1 - s / 19 in 100 bins of
[0, 1], leaves out pixels beyond (those of the largest log-sum-exp, which are mostly ID: it made
AUROC 0.6 to 8.4 points lower where both were computed on made-up scores), and draws 100,000 of each
kind.

Detection: (12) a ResNet-50 from random weights, theirs from ImageNet's, with its batch
normalisation frozen, where ours is trained; (13) 18 epochs in batches of 16, theirs 18,000 steps of
4, that is 4.4 epochs of VOC, at the same rate of 0.02 after a warm-up of 100 steps; it is the
default for BDD-100k too, for which their code has no settings; (14) every box of confidence 0.5 or
more is scored, theirs from 0.05; (15) torchvision's network, theirs detectron2's: images have 800
pixels on the short side in training, theirs 480 to 800 at random; box losses are smooth L1 with
beta 1/9, theirs L1; 2,000 proposals a training image, theirs 1,000.
Checked against: hand-computed cases and the definition in float64 (tests/detectors/test_abet.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from oodbench.data.augmentation import TrivialAugment, TrivialResizedCrop
from oodbench.data.transforms import Augmentation, CropFlip, Preprocess
from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.method import Method, Recipe, num_features_of
from oodbench.networks.backbones import CIFARResNet, starting_backbone
from oodbench.options import check_choices
from oodbench.outputs import Head, Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector, register_method, register_need
from oodbench.training import boxes, pixels

from ._dense import BOX_RECIPE_IDS, BOX_RECIPES, PIXEL_RECIPE_IDS, PIXEL_RECIPES
from ._numerics import (
    at_work,
    blocks,
    feature_mean,
    in_blocks,
    kept_units,
    msp_score,
    percentiles,
    warn_if_signed,
)

NORM_EPS = 1e-4
MINIMAL_T = 1e-12

PAPER = Paper(
    title="Out-of-Distribution Detection & Applications With Ablated Learned Temperature Energy",
    authors="LeVine, Will and Pikus, Benjamin and Phillips, Jacob and Norman, Berk and "
    "Gil, Fernando Amat and Hendryx, Sean",
    venue="arXiv",
    year=2024,
    url="https://arxiv.org/abs/2401.12129",
    formula="s(x) = -log sum_c exp(cos(h(x), w_c) / T(x)), T = sigmoid(BN(a.h + b)) + 1e-12",
)


class LearnedTemperatureHead(nn.Module):
    """Cosine logits over a learned temperature.

    Args:
        in_features: D.
        num_classes: C.
        dense: whether features are maps ``[N, D, H, W]``: 1x1 convolutions instead of linear
            layers, no bias in the temperature.
    """

    def __init__(self, in_features: int, num_classes: int, dense: bool = False) -> None:
        super().__init__()
        self.dense = dense
        self.h: nn.Linear | nn.Conv2d
        if dense:
            self.h = nn.Conv2d(in_features, num_classes, 1, bias=False)
            linear: nn.Module = nn.Conv2d(in_features, 1, 1, bias=False)
            self.temperature = nn.Sequential(linear, nn.BatchNorm2d(1), nn.Sigmoid())
        else:
            self.h = nn.Linear(in_features, num_classes, bias=False)
            linear = nn.Linear(in_features, 1)
            self.temperature = nn.Sequential(linear, nn.BatchNorm1d(1), nn.Sigmoid())
        nn.init.kaiming_normal_(self.h.weight, nonlinearity="relu")

    def forward(self, features: Tensor, size: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Logits and what they are made of.

        Args:
            features: ``[N, D]``, or ``[N, D, h, w]`` if dense. Computed in float32 at least,
                whatever autocast says: logits grow with 1 / T beyond what float16 holds.
            size: height and width (H, W) that maps of features are enlarged to before their
                cosines and temperatures are taken, bilinearly and with the corners in place; None
                for (h, w).

        Returns:
            ``logits`` and ``cosine`` ``[N, C]`` (``[N, C, H, W]``), ``temperature`` ``[N]``
            (``[N, H, W]``) in [1e-12, 1].
        """
        with torch.autocast(features.device.type, enabled=False):
            z = features.to(torch.promote_types(features.dtype, torch.float32))
            weight = self.h.weight.to(z)
            unit_weight = weight / (weight.norm(dim=1, keepdim=True) + NORM_EPS)
            if size is None or tuple(size) == tuple(z.shape[2:]):
                temperature = self.temperature(z) + MINIMAL_T
                unit = z / (z.norm(dim=1, keepdim=True) + NORM_EPS)
                cosine = F.conv2d(unit, unit_weight) if self.dense else F.linear(unit, unit_weight)
            else:
                # D maps of the image's size would fill the memory; what is linear in the features
                # may be enlarged afterwards
                linear, *rest = self.temperature
                enlarged_maps = enlarged(linear(z), size)
                for step in rest:
                    enlarged_maps = step(enlarged_maps)
                temperature = enlarged_maps + MINIMAL_T
                products = enlarged(F.conv2d(z, unit_weight), size)
                cosine = products / (enlarged_norm(z, size) + NORM_EPS)
            logits = cosine / temperature
        return {"logits": logits, "cosine": cosine, "temperature": temperature.squeeze(1)}

    def as_head(self) -> Head:
        """The cosines alone, as a layer that shaped features can be put through."""
        return Head(self.h.weight.detach().flatten(1), norm_eps=NORM_EPS)


def enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """``[N, D, h, w] -> [N, D, H, W]``, bilinearly, the corners' centres in place."""
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


def enlarged_norm(maps: Tensor, size: Sequence[int], block: int = 16) -> Tensor:
    """L2 norm over D of enlarged maps, ``[N, 1, H, W]``; a block of them in memory at a time."""

    def norm(part: Tensor) -> Tensor:
        return enlarged(part, size).norm(dim=1, keepdim=True)

    # in training a block is made once more for its gradient, so that none is kept
    parts = [checkpoint(norm, part, use_reentrant=False) for part in maps.split(block, dim=1)]
    return torch.cat(parts, dim=1).norm(dim=1, keepdim=True)


def abet_score(logits: Tensor) -> Tensor:
    """``-logsumexp`` of logits cosine / T, over dimension 1: ``[N, C, ...] -> [N, ...]``."""
    return -logits.logsumexp(dim=1)


AUGMENTATIONS: Mapping[str, type[CropFlip | TrivialResizedCrop]] = {
    "trivial": TrivialAugment,
    "crop-flip": CropFlip,
    "photographs": TrivialResizedCrop,
}


@dataclass(frozen=True)
class AbeTRecipe(Recipe):
    """How AbeT is trained; the defaults are the paper's for CIFAR.

    Args:
        augment: ``"trivial"`` for crop, TrivialAugment and flip, ``"crop-flip"`` for the first and
            the last, ``"photographs"`` for random resized crop, flip, TrivialAugment and erasing.
    """

    backbone: str | None = "resnet20"
    epochs: int = 200
    batch_size: int = 64
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step"] = "step"
    milestones: tuple[int, ...] = (100, 150, 180)
    augment: Literal["trivial", "crop-flip", "photographs"] = "trivial"


@register_method("abet")
class AbeTMethod(Method):
    """AbeT: cross-entropy on cosines over a learned temperature."""

    paper: ClassVar[Paper | None] = PAPER
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": AbeTRecipe(),
        "imagenet": AbeTRecipe(
            backbone="resnetv2_101x1_bit", milestones=(20, 30), augment="photographs"
        ),
        "quick": AbeTRecipe(
            backbone=None,
            epochs=15,
            batch_size=128,
            nesterov=True,
            weight_decay=5e-4,
            warmup_epochs=1,
            schedule="cosine",
            milestones=(),
            augment="crop-flip",
        ),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}

    recipe: AbeTRecipe

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: AbeTRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.scaled = LearnedTemperatureHead(num_features_of(backbone), num_classes)

    @classmethod
    def make_backbone(
        cls, name: str, recipe: Any, preprocess: Any, checkpoint: str | Path | None = None
    ) -> nn.Module:
        """The network that training starts from: a CIFAR ResNet with variance 2 / fan-in.

        Raises:
            CheckpointError: the checkpoint lacks weights of the backbone.
        """
        backbone = starting_backbone(name, preprocess.channels, checkpoint, cls.backbone_gives)
        if checkpoint is None and isinstance(backbone, CIFARResNet):
            backbone.reset_parameters("fan_in")
        return backbone

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        """The augmentation that the recipe names."""
        return AUGMENTATIONS[self.recipe.augment](preprocess)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, the accuracy and the mean temperature on the batch."""
        outputs = self.scaled(self.backbone(images[:, 0]))
        accuracy = (outputs["logits"].argmax(dim=1) == labels).float().mean()
        return {
            "loss": F.cross_entropy(outputs["logits"], labels),
            "accuracy": accuracy,
            "temperature": outputs["temperature"].detach().mean(),
        }

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Penultimate features, logits, cosines and temperature."""
        features = self.backbone(images)
        return {"features": features, **self.scaled(features)}

    def head(self) -> Head:
        """The layer that gives the cosines."""
        return self.scaled.as_head()


@register_method("abet-segmentation")
class AbeTSegmentation(pixels.SegmentationMethod):
    """Cross-entropy of each pixel, on cosines over a learned temperature."""

    paper: ClassVar[Paper | None] = PAPER
    stands_for: ClassVar[str | None] = "abet"
    gives: ClassVar[frozenset[str] | None] = frozenset({"logits", "temperature", "cosine"})
    recipes: ClassVar[Mapping[str, Recipe]] = PIXEL_RECIPES
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = PIXEL_RECIPE_IDS

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.scaled = LearnedTemperatureHead(num_features_of(backbone), num_classes, dense=True)

    def maps(self, features: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
        """``logits`` and ``cosine [B, C, H, W]``, ``temperature [B, H, W]`` of ``[B, D, h, w]``.

        Features are enlarged to the image's size before both are taken.
        """
        columns: dict[str, Tensor] = self.scaled(features, size)
        return columns


@register_method("abet-detection")
class AbeTDetection(boxes.DetectionMethod):
    """Faster R-CNN with cross-entropy of each box on cosines over a learned temperature."""

    paper: ClassVar[Paper | None] = PAPER
    stands_for: ClassVar[str | None] = "abet"
    recipes: ClassVar[Mapping[str, Recipe]] = BOX_RECIPES
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = BOX_RECIPE_IDS

    def classifier(self, features: int, classes: int) -> nn.Module:
        """The head that is that of images, with background as one class more.

        Its cosines' weights start at a deviation of 0.01, as theirs do: smaller ones turn faster.
        """
        head = LearnedTemperatureHead(features, classes)
        nn.init.normal_(head.h.weight, std=0.01)
        return head


@register_need("cosine_head")
def has_cosine_head(outputs: Outputs) -> bool:
    """Whether there is a head that gives cosines of features and weights."""
    return outputs.head is not None and outputs.head.norm_eps is not None


def cosines_over_temperature(
    columns: dict[str, Tensor], head: Head
) -> tuple[dict[str, Tensor], Head]:
    """The check suite's toy problem as cosines over a temperature; see ``Detector.toy``.

    The temperature falls with the units that classes light, and so it is high for OOD.
    """
    dtype = columns["logits"].dtype
    head = Head(head.weight, norm_eps=NORM_EPS)
    z = columns["features"].float()
    lit = (head.weight != 0).any(dim=0)  # [D]
    temperature = 0.3 * torch.sigmoid(2 - z[:, lit].mean(dim=1) * 4)
    cosine = head(z)
    logits = (cosine / temperature[:, None]).to(dtype)
    extra = {"temperature": temperature.to(dtype), "cosine": cosine.to(dtype)}
    return {**columns, "logits": logits, **extra}, head


@register_detector("abet")
@dataclass
class AbeT(Detector):
    """Minus the logsumexp of cosines over temperatures. Higher = more OOD; unbounded."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "temperature"})
    toy = staticmethod(cosines_over_temperature)
    method: ClassVar[str] = "abet"
    paper: ClassVar[Paper | None] = PAPER

    @property
    def reads_level(self) -> bool:
        """Yes: the score is a log-sum-exp of logits."""
        return True

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""
        return in_blocks(outputs, abet_score, "logits", exact=True)


@register_detector("abet-energy")
@dataclass
class AbeTEnergy(Detector):
    """The energy with the temperature in front, which AbeT ablates. Higher = more OOD; unbounded.

    ``s(x) = -T(x) logsumexp(f(x) / T(x))``
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "temperature"})
    toy = staticmethod(cosines_over_temperature)
    method: ClassVar[str] = "abet"
    paper: ClassVar[Paper | None] = dataclasses.replace(
        PAPER, formula="s(x) = -T(x) log sum_c exp(cos(h(x), w_c) / T(x))"
    )

    @property
    def reads_level(self) -> bool:
        """Yes: the score is a log-sum-exp of logits."""
        return True

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]`` and temperatures ``[N]``."""
        energy = in_blocks(outputs, abet_score, "logits", exact=True)
        return energy * at_work(outputs.extra["temperature"], exact=True)


@register_detector("abet-temperature")
@dataclass
class AbeTTemperature(Detector):
    """The learned temperature alone. Higher = more OOD; range (0, 1]."""

    needs: ClassVar[frozenset[str]] = frozenset({"temperature"})
    toy = staticmethod(cosines_over_temperature)
    method: ClassVar[str] = "abet"
    paper: ClassVar[Paper | None] = dataclasses.replace(PAPER, formula="s(x) = T(x)")

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]``: temperatures."""
        return at_work(outputs.extra["temperature"])


@register_detector("abet-msp")
@dataclass
class AbeTMSP(Detector):
    """MSP of the cosines over temperatures. Higher = more OOD; range [0, log C]."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "temperature"})
    toy = staticmethod(cosines_over_temperature)
    method: ClassVar[str] = "abet"
    paper: ClassVar[Paper | None] = dataclasses.replace(
        PAPER, formula="s(x) = -log max_c softmax(cos(h(x), w) / T(x))_c"
    )

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""
        return in_blocks(outputs, msp_score, "logits")


@dataclass
class _ShapedAbeT(Detector):
    """AbeT's score with shaped features in the cosine; the temperature stays as it is."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "temperature", "cosine_head"})
    toy = staticmethod(cosines_over_temperature)
    method: ClassVar[str] = "abet"

    def _cosine(self, z: Tensor, head: Head) -> Tensor:
        raise NotImplementedError

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``, temperatures ``[N]`` and the head."""
        parts = [torch.empty(0, dtype=torch.float64)]
        for batch in blocks(outputs, "features"):
            cosine = self._cosine(at_work(batch.features, exact=True), batch.any_head())
            temperature = batch.extra["temperature"].to(cosine)
            parts.append(abet_score(cosine / temperature[:, None]))
        return torch.cat(parts[1:] or parts)

    def _in_percent(self, name: str, value: float) -> None:
        if not 0 <= value <= 100:
            raise OptionError(f"{self.label}: {name} is in [0, 100], not {value}.")


@register_detector("abet-react")
@dataclass
class AbeTReAct(_ShapedAbeT):
    """AbeT with features clipped from above. Higher = more OOD; unbounded.

    Args:
        percentile: of the ID training activations, over all units and samples, in percent.
    """

    grid: ClassVar = {"percentile": (85.0, 90.0, 95.0, 99.0)}
    paper: ClassVar[Paper | None] = dataclasses.replace(
        PAPER, formula="s(x) = -log sum_c exp(cos(min(h(x), c), w_c) / T(x))"
    )

    percentile: float = 90.0
    threshold_: float = learned()

    def __post_init__(self) -> None:
        self._in_percent("percentile", self.percentile)

    def fit(self, train: Outputs) -> Self:
        """The percentile of features ``[N, D]``."""
        (self.threshold_,) = percentiles(train, [self.percentile / 100])
        return self

    def _cosine(self, z: Tensor, head: Head) -> Tensor:
        return head(z.clamp(max=self.threshold_))


@register_detector("abet-ash")
@dataclass
class AbeTASH(_ShapedAbeT):
    """AbeT with all but the largest features pruned. Higher = more OOD; unbounded.

    Args:
        percentile: share of units that is pruned, in percent.
        variant: ``"p"`` keeps the others as they are, ``"b"`` sets them to one value (ASH-B).

    Raises:
        OptionError: no unit would remain.
    """

    grid: ClassVar = {"percentile": (65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0)}
    paper: ClassVar[Paper | None] = dataclasses.replace(
        PAPER, formula="s(x) = -log sum_c exp(cos(ASH(h(x)), w_c) / T(x))"
    )

    percentile: float = 90.0
    variant: Literal["p", "b"] = "p"

    def __post_init__(self) -> None:
        self._in_percent("percentile", self.percentile)
        check_choices(self, "abet-ash")

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]``; warns of features that are negative."""
        warn_if_signed(outputs, "abet-ash")
        return super().score(outputs)

    def _cosine(self, z: Tensor, head: Head) -> Tensor:
        kept = kept_units(z.shape[1], self.percentile / 100, "abet-ash")
        top = z.topk(kept, dim=1, sorted=False)
        values = top.values
        if self.variant == "b":
            values = (z.sum(dim=1, keepdim=True) / kept).expand_as(values)
        return head(torch.zeros_like(z).scatter(1, top.indices, values))


@register_detector("abet-dice")
@dataclass
class AbeTDICE(_ShapedAbeT):
    """AbeT with class weights of little contribution set to zero. Higher = more OOD; unbounded.

    A weight is kept where ``|w_cd mean_d|`` exceeds the percentile, with the mean ID training
    feature; the cosine is that with the remaining weights, whose norm is smaller.

    Args:
        p: the percentile of absolute contributions below which weights are cut, in percent.
    """

    grid: ClassVar = {"p": (10.0, 30.0, 50.0, 70.0, 90.0)}
    paper: ClassVar[Paper | None] = dataclasses.replace(
        PAPER, formula="s(x) = -log sum_c exp(cos(h(x), w_c * M_c) / T(x))"
    )

    p: float = 90.0
    mask_: Tensor = learned()  # [C, D]

    def __post_init__(self) -> None:
        self._in_percent("p", self.p)

    def fit(self, train: Outputs) -> Self:
        """The mask ``[C, D]`` from the mean of features ``[N, D]``."""
        mean = feature_mean(train)
        contribution = (train.any_head().weight.to(mean) * mean).abs()
        self.mask_ = contribution > float(np.percentile(contribution.cpu().numpy(), self.p))
        return self

    def _cosine(self, z: Tensor, head: Head) -> Tensor:
        return dataclasses.replace(head, weight=head.weight * self.mask_.to(head.weight))(z)
