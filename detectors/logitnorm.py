r"""LogitNorm: cross-entropy on logits of constant norm, so that a network cannot grow confident.

Paper: H. Wei, R. Xie, H. Cheng, L. Feng, B. An, Y. Li, "Mitigating Neural Network Overconfidence
with Logit Normalization", ICML 2022. arXiv:2205.09310
Code:  hongxin001/logitnorm_ood; OpenOOD @ 3c35632; written anew from the definition

.. math:: L = -\log \mathrm{softmax}(f / (\tau \lVert f \rVert_2))_y

The normalisation is a matter of the loss: the network's outputs are the plain logits, which the
paper's score, MSP, reads as they are.

Recipe ``published`` is OpenOOD v1.5's (tau 0.04, and for the rest that of cross-entropy).

Differs from the reference code: (1) 1e-7 is the least norm, theirs is added to the norm; (2) the
cosine of the learning rate ends at 0, OpenOOD's at 1e-6; (3) the last checkpoint is kept, OpenOOD's
is the one with the best validation accuracy.
Checked against: the formula, and that the loss does not depend on the logits' scale.
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

MINIMAL_NORM = 1e-7
"""Below it the gradient would be without bounds."""


def logitnorm_loss(logits: Tensor, labels: Tensor, tau: float = 0.04) -> Tensor:
    """Cross-entropy on logits ``[B, C]`` of norm 1 / tau; a scalar."""
    unit = F.normalize(logits.float(), dim=1, eps=MINIMAL_NORM)
    return F.cross_entropy(unit / tau, labels)


@dataclass(frozen=True)
class LogitNormRecipe(Recipe):
    """How LogitNorm is trained; the defaults are OpenOOD's for CIFAR.

    Args:
        tau: temperature; the logits have the norm 1 / tau.
    """

    tau: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tau > 0:
            raise OptionError(f"recipe: tau must be positive, not {self.tau}.")


@register_method("logitnorm")
class LogitNorm(CrossEntropy):
    """LogitNorm: cross-entropy on normalised logits of a linear head."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": LogitNormRecipe(backbone="resnet18-cifar"),
        # half of it is warm-up: with a norm of 25, a class lost in the first steps stays lost
        "quick": LogitNormRecipe(epochs=15, batch_size=32, lr=0.05, warmup_epochs=8),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="Mitigating Neural Network Overconfidence with Logit Normalization",
        authors="Wei, Hongxin and Xie, Renchunzi and Cheng, Hao and Feng, Lei and An, Bo and "
        "Li, Yixuan",
        venue="ICML",
        year=2022,
        url="https://arxiv.org/abs/2205.09310",
        formula="L = -log softmax(f / (tau |f|))_y",
        figures=(
            "OpenOOD v1.5, ResNet-18 + MSP, CIFAR-10: near-OOD AUROC 92.33, far-OOD AUROC 96.74, "
            "ID accuracy 94.30",
            "OpenOOD v1.5, ResNet-18 + MSP, CIFAR-100: near-OOD AUROC 78.47, far-OOD AUROC 81.53, "
            "ID accuracy 76.34",
        ),
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: LogitNormRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.tau = recipe.tau

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy on normalised logits, and the accuracy on the batch."""
        logits = self.linear(self.backbone(images[:, 0]))
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": logitnorm_loss(logits, labels, self.tau), "accuracy": accuracy}
