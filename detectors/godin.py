r"""Generalized ODIN: logits as a quotient h / g, and the distance h as the score.

Paper: Y.-C. Hsu, Y. Shen, H. Jin, Z. Kira, "Generalized ODIN: Detecting Out-of-distribution Image
without Learning from Out-of-distribution Data", CVPR 2020. arXiv:2002.11297
Code:  none by the authors; OpenOOD @ 3c35632; written from the definition

With z the penultimate features, training is cross-entropy on

.. math:: f_c = h_c(z) / g(z), \quad g(z) = \sigma(\mathrm{BN}(w_g^\top z + b_g))

and h one of ``cosine`` (:math:`\cos(w_c, z)`, DeConf-C), ``inner`` (:math:`w_c^\top z + b_c`) and
``euclid`` (:math:`-\lVert z - w_c \rVert^2 / D`). h has no weight decay. The score, higher = more
OOD, is that of an input moved towards a higher confidence S, by :math:`\varepsilon` in pixels of
[0, 1]:

.. math::
    s(x) = -S(\hat x), \quad S = \max_c h_c \text{ or } g, \quad
    \hat x = x + \varepsilon \, \mathrm{sign}(\nabla_x S(x)) / \mathrm{std}

Recipe ``published`` is OpenOOD v1.5's (cosine, and for the rest that of cross-entropy).

Differs from OpenOOD's code: (1) the score is :math:`\max h`, as in the paper; theirs is the
largest softmax of h, and always 1 with ``score_func: g``; (2) with S = g the input follows the
gradient of g, as in the paper, theirs that of h; (3) where the gradient is 0 the input stays,
theirs goes up; (4) the std is that of the network's own preprocessing, theirs is looked up by the
dataset's name; (5) norms have no 1e-4 added, and g is at least 1e-12, so that logits are finite in
float32; (6) the cosine of the learning rate ends at 0, theirs at 1e-6; (7) the last checkpoint is
kept, theirs is the one with the best validation accuracy. The paper chooses epsilon on ID data;
here it is an option.
Checked against: finite differences of h, and the definition (tests/detectors/test_godin.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.data.transforms import Augmentation, CropFlip, Preprocess
from oodbench.detector import Detector
from oodbench.errors import MissingOutputError, OptionError
from oodbench.method import Method, Recipe, num_features_of
from oodbench.networks.models import outputs_of
from oodbench.options import check_choice, check_choices
from oodbench.outputs import Head
from oodbench.papers import Paper
from oodbench.registry import register_detector, register_method

Similarity = Literal["cosine", "inner", "euclid"]
MINIMAL_G = 1e-12

PAPER = Paper(
    title="Generalized ODIN: Detecting Out-of-distribution Image without Learning from "
    "Out-of-distribution Data",
    authors="Hsu, Yen-Chang and Shen, Yilin and Jin, Hongxia and Kira, Zsolt",
    venue="CVPR",
    year=2020,
    url="https://arxiv.org/abs/2002.11297",
    formula="f = h(z) / g(z); s(x) = -max_c h_c(x + eps sign(grad max_c h_c) / std)",
    figures=(
        "OpenOOD v1.5, ResNet-18, CIFAR-10: near-OOD AUROC 89.12, far-OOD AUROC 95.51, "
        "ID accuracy 94.70",
        "OpenOOD v1.5, ResNet-18, CIFAR-100: near-OOD AUROC 77.15, far-OOD AUROC 85.67, "
        "ID accuracy 74.46",
    ),
)


class DecomposedHead(nn.Module):
    """Numerator h and denominator g of the logits.

    Args:
        in_features: D.
        num_classes: C.
        similarity: ``"cosine"``, ``"inner"`` or ``"euclid"``.
    """

    def __init__(
        self, in_features: int, num_classes: int, similarity: Similarity = "cosine"
    ) -> None:
        super().__init__()
        check_choice(similarity, Similarity, "godin: similarity")
        self.similarity = similarity
        self.h = nn.Linear(in_features, num_classes, bias=similarity == "inner")
        nn.init.kaiming_normal_(self.h.weight, nonlinearity="relu")
        if self.h.bias is not None:
            nn.init.zeros_(self.h.bias)
        self.g = nn.Sequential(nn.Linear(in_features, 1), nn.BatchNorm1d(1), nn.Sigmoid())

    def numerator(self, features: Tensor) -> Tensor:
        """h, ``[B, D] -> [B, C]``."""
        z, weight = features.float(), self.h.weight.float()
        if self.similarity == "cosine":
            return F.normalize(z, dim=1) @ F.normalize(weight, dim=1).T
        if self.similarity == "inner":
            return self.h(features).float()
        # not by matrix products, whose terms cancel
        distance = torch.cdist(z, weight, compute_mode="donot_use_mm_for_euclid_dist")
        return -distance.square() / z.shape[1]

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``logits [B, C]``, ``numerator [B, C]``, ``denominator [B]`` of features ``[B, D]``."""
        h = self.numerator(features)
        g = self.g(features).float().clamp(min=MINIMAL_G)  # [B, 1]
        return {"logits": h / g, "numerator": h, "denominator": g[:, 0]}

    def extra_repr(self) -> str:
        """The setting that no weight shows."""
        return f"similarity={self.similarity}"


@dataclass(frozen=True)
class GODINRecipe(Recipe):
    """How GODIN is trained; the defaults are OpenOOD's for CIFAR.

    Args:
        similarity: h; ``"cosine"``, ``"inner"`` or ``"euclid"``.
    """

    similarity: Similarity = "cosine"


@register_method("godin")
class GODINMethod(Method):
    """GODIN: cross-entropy on class scores over a confidence, h / g, both learned."""

    paper: ClassVar[Paper | None] = PAPER
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": GODINRecipe(backbone="resnet18-cifar"),
        "quick": GODINRecipe(epochs=15, lr=0.1, warmup_epochs=1),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: GODINRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        dim = num_features_of(backbone)
        self.decomposed = DecomposedHead(dim, num_classes, recipe.similarity)

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        """Crop after padding, and flip."""
        return CropFlip(preprocess)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, and the accuracy on the batch."""
        logits = self.decomposed(self.backbone(images[:, 0]))["logits"]
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Penultimate features, logits, and their numerator and denominator."""
        features = self.backbone(images)
        return {"features": features, **self.decomposed(features)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """As every method's, but without weight decay on h."""
        h = list(self.decomposed.h.parameters())
        others = [p for p in self.parameters() if all(p is not own for own in h)]
        return [{"params": others}, {"params": h, "weight_decay": 0.0}]


@register_detector("godin")
@dataclass
class GODIN(Detector):
    """Minus the largest numerator of a perturbed input. Higher = more OOD; [-1, 1] for cosine.

    Args:
        noise: length of the step in each pixel, on the [0, 1] scale; 0 for none.
        score_func: ``"h"`` for the largest numerator, ``"g"`` for the denominator.

    Raises:
        MissingOutputError: a network that was not trained with ``--method godin``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    method: ClassVar[str] = "godin"
    paper: ClassVar[Paper | None] = PAPER

    noise: float = 0.0025
    score_func: Literal["h", "g"] = "h"

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise OptionError(f"godin: noise must be 0 or more, not {self.noise}.")
        check_choices(self, "godin")

    @staticmethod
    def toy(columns: dict[str, Tensor], head: Head) -> tuple[dict[str, Tensor], Head]:
        """The logits as a quotient whose denominator is 1."""
        logits = columns["logits"]
        quotient = {"numerator": logits, "denominator": torch.ones_like(logits[:, 0])}
        return {**columns, **quotient}, head

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        """OOD scores ``[B]`` of preprocessed inputs ``[B, ...]``; one or two forward passes."""
        if not self.noise:
            with torch.no_grad():
                return -self._confidence(model, batch)
        # a caller may have switched gradients off, in either way
        with torch.inference_mode(mode=False), torch.enable_grad():
            x = batch.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self._confidence(model, x).sum(), x)
        with torch.no_grad():
            return -self._confidence(model, x + self.noise * gradient.sign() / _std(model, x))

    def _confidence(self, model: nn.Module, inputs: Tensor) -> Tensor:
        name = "numerator" if self.score_func == "h" else "denominator"
        outputs = outputs_of(model)(inputs)
        if name not in outputs:
            raise MissingOutputError(
                f"godin needs {name}, but this network gives only {', '.join(outputs)}. It scores "
                'a network trained with `method="godin"`.'
            )
        return outputs[name].amax(dim=1) if self.score_func == "h" else outputs[name]


def _std(model: nn.Module, like: Tensor) -> Tensor:
    """Deviation of each channel that the inputs were divided by; 1 where that is not known."""
    preprocess = getattr(model, "preprocess", None)
    if not isinstance(preprocess, Preprocess):
        return like.new_ones(())
    return like.new_tensor(preprocess.std).view(-1, *[1] * (like.ndim - 2))
