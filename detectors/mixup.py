r"""Mixup: cross-entropy on straight lines between pairs of training images.

Paper: H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz, "mixup: Beyond Empirical Risk Minimization",
ICLR 2018. arXiv:1710.09412
Code:  facebookresearch/mixup-cifar10; OpenOOD @ 3c35632; written anew from the definition

.. math::
    \tilde x = \lambda x_i + (1 - \lambda) x_{\pi(i)}, \quad
    L = \lambda \, \mathrm{CE}(f(\tilde x), y_i) + (1 - \lambda) \, \mathrm{CE}(f(\tilde x),
    y_{\pi(i)}), \quad \lambda \sim \mathrm{Beta}(\alpha, \alpha)

One :math:`\lambda` and one permutation :math:`\pi` a step. Both are drawn from torch's generator,
which is seeded by (seed, epoch) as training begins an epoch.

Recipe ``published`` is OpenOOD v1.5's (alpha 0.2, and for the rest that of cross-entropy); the
paper takes alpha 1 and 200 epochs on CIFAR.

Differs from the reference code: (1) lambda is drawn by torch, theirs by NumPy; (2) with several
processes each pairs the images of its own share, with the same lambda; (3) the cosine of the
learning rate ends at 0, OpenOOD's at 1e-6; (4) the last checkpoint is kept, OpenOOD's is the one
with the best validation accuracy.
Checked against: cross-entropy with soft labels, and plain cross-entropy at lambda 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from .ce import CrossEntropy


@dataclass(frozen=True)
class MixupRecipe(Recipe):
    """How mixup is trained; the defaults are OpenOOD's for CIFAR.

    Args:
        alpha: of the Beta distribution; 0 mixes nothing.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < math.inf:
            raise OptionError(f"recipe: alpha must be 0 or more, not {self.alpha}.")


@register_method("mixup")
class Mixup(CrossEntropy):
    """Cross-entropy on mixed images and a linear head."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": MixupRecipe(backbone="resnet18-cifar"),
        "quick": MixupRecipe(epochs=15, lr=0.1, warmup_epochs=1),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="mixup: Beyond Empirical Risk Minimization",
        authors="Zhang, Hongyi and Cisse, Moustapha and Dauphin, Yann N. and Lopez-Paz, David",
        venue="ICLR",
        year=2018,
        url="https://arxiv.org/abs/1710.09412",
        formula="L = l CE(f(x'), y_i) + (1 - l) CE(f(x'), y_j), x' = l x_i + (1 - l) x_j, "
        "l ~ Beta(alpha, alpha)",
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: MixupRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.alpha = recipe.alpha

    def draw(self, n: int) -> tuple[float, Tensor]:
        """The share of an image itself in the mix, in [0, 1], and each image's partner ``[n]``."""
        share = 1.0
        if self.alpha > 0:
            # on the CPU and in float64: the same numbers whatever the network runs on
            alpha = torch.tensor(self.alpha, dtype=torch.float64)
            share = float(torch.distributions.Beta(alpha, alpha).sample())
        return share, torch.randperm(n)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy on mixed images, and the accuracy, both weighted as the images are."""
        share, partner = self.draw(len(images))
        partner = partner.to(labels.device)
        x = images[:, 0]
        logits = self.linear(self.backbone(share * x + (1 - share) * x[partner]))
        hit = logits.argmax(dim=1)

        def mixed(own: Tensor, other: Tensor) -> Tensor:
            return share * own + (1 - share) * other

        return {
            "loss": mixed(
                F.cross_entropy(logits, labels), F.cross_entropy(logits, labels[partner])
            ),
            "accuracy": mixed((hit == labels).float(), (hit == labels[partner]).float()).mean(),
        }
