r"""T2FNorm: features of constant norm in training, as they are when a network is asked.

Paper: S. Regmi, B. Panthi, S. Dotel, P. K. Gyawali, D. Stoyanov, B. Bhattarai, "T2FNorm: Train-time
Feature Normalization for OOD Detection in Image Classification", CVPR Workshops 2024.
arXiv:2305.17797
Code:  OpenOOD @ 3c35632; written anew from the definition

.. math::
    L = \mathrm{CE}\left(W \frac{f}{\tau \lVert f \rVert_2} + b, \; y\right), \qquad
    \text{afterwards} \quad z = W \frac{f}{\tau} + b

A network that is trained on directions alone gives images of no class shorter features. So the norm
is put back when the network is asked, and any detector of logits sees it; the paper's is MSP.

Recipe ``published`` is OpenOOD v1.5's for CIFAR (tau 0.1, and for the rest that of cross-entropy).

Differs from the reference code: (1) the ID accuracy is that of the logits that are scored, with the
features' own norms, theirs is that of normalised ones: they differ only where the bias decides;
(2) the network's features are :math:`f / \tau`, of which the head gives the logits; (3) MSP is
ranked by its logarithm, as their softmax is exactly 1 in float32 for many images; (4) for ImageNet,
where they start from a trained network, they leave :math:`\tau` out when the network is asked.
Checked against: the formula, and that the loss does not depend on the features' scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from .ce import CrossEntropy


@dataclass(frozen=True)
class T2FNormRecipe(Recipe):
    """How T2FNorm is trained; the defaults are OpenOOD's for CIFAR.

    Args:
        tau: temperature; features have the norm 1 / tau in training.
    """

    tau: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tau > 0:
            raise OptionError(f"recipe: tau must be positive, not {self.tau}.")


@register_method("t2fnorm")
class T2FNorm(CrossEntropy):
    """Cross-entropy of a linear head on normalised features."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": T2FNormRecipe(backbone="resnet18-cifar"),
        "quick": T2FNormRecipe(epochs=15, lr=0.1, warmup_epochs=1),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="T2FNorm: Train-time Feature Normalization for OOD Detection in Image Classification",
        authors="Regmi, Sudarshan and Panthi, Bibek and Dotel, Sakar and Gyawali, Prashnna K. and "
        "Stoyanov, Danail and Bhattarai, Binod",
        venue="CVPR Workshops",
        year=2024,
        url="https://arxiv.org/abs/2305.17797",
        formula="L = CE(W f / (tau |f|) + b, y); afterwards z = W f / tau + b",
        figures=(
            "OpenOOD v1.5, ResNet-18 + MSP, CIFAR-10: near-OOD AUROC 92.79, far-OOD AUROC 96.98, "
            "ID accuracy 94.69",
            "OpenOOD v1.5, ResNet-18 + MSP, CIFAR-100: near-OOD AUROC 79.84, far-OOD AUROC 82.73, "
            "ID accuracy 76.43",
        ),
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: T2FNormRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.tau = recipe.tau

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy on normalised features, and the accuracy on the batch."""
        unit = F.normalize(self.backbone(images[:, 0]), dim=1)
        logits = self.linear(unit / self.tau)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Features ``f / tau``, with their own norms, and the logits of these."""
        features = self.backbone(images) / self.tau
        return {"features": features, "logits": self.linear(features)}
