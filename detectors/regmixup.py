r"""RegMixup: cross-entropy on images and, beside it, on mixtures of them.

Paper: F. Pinto, H. Yang, S.-N. Lim, P. H. S. Torr, P. K. Dokania, "Using Mixup as a Regularizer Can
Surprisingly Improve Accuracy & Out-of-Distribution Robustness", NeurIPS 2022. arXiv:2206.14502
Code:  FrancescoPinto/RegMixup; OpenOOD @ 3c35632; written anew from the definition

.. math::
    L = \tfrac{1}{2} \mathrm{CE}(f(x_i), y_i) + \tfrac{1}{2} \left[\lambda \,
    \mathrm{CE}(f(\tilde x), y_i) + (1 - \lambda) \, \mathrm{CE}(f(\tilde x), y_{\pi(i)})\right],
    \quad \tilde x = \lambda x_i + (1 - \lambda) x_{\pi(i)}, \;
    \lambda \sim \mathrm{Beta}(\alpha, \alpha)

With alpha at 10 to 20 most mixtures are near the middle, so that the network learns to be unsure
between classes, and the images themselves keep it sure of them. One :math:`\lambda` and one
permutation :math:`\pi` a step. Images and mixtures are one batch: batch normalisation sees both.

Recipe ``published`` is OpenOOD v1.5's (alpha 20, and for the rest that of cross-entropy).

Differs from the paper and as the reference code does: (1) the halves; the paper's loss is the sum
with a weight of 1, twice this one. Differs from the reference code: (2) lambda is drawn by torch,
theirs by NumPy; (3) with several processes each pairs the images of its own share.
Checked against: cross-entropy with soft labels, and plain cross-entropy at lambda 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.method import Recipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from .mixup import Mixup, MixupRecipe


@dataclass(frozen=True)
class RegMixupRecipe(MixupRecipe):
    """How RegMixup is trained; the defaults are OpenOOD's for CIFAR.

    Args:
        alpha: of the Beta distribution; 0 mixes nothing.
    """

    alpha: float = 20.0


@register_method("regmixup")
class RegMixup(Mixup):
    """Cross-entropy on images and on mixed ones, and a linear head."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": RegMixupRecipe(backbone="resnet18-cifar"),
        "quick": RegMixupRecipe(epochs=15, lr=0.1, warmup_epochs=1),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="Using Mixup as a Regularizer Can Surprisingly Improve Accuracy & "
        "Out-of-Distribution Robustness",
        authors="Pinto, Francesco and Yang, Harry and Lim, Ser-Nam and Torr, Philip H. S. and "
        "Dokania, Puneet K.",
        venue="NeurIPS",
        year=2022,
        url="https://arxiv.org/abs/2206.14502",
        formula="L = CE(f(x), y) / 2 + [l CE(f(x'), y_i) + (1 - l) CE(f(x'), y_j)] / 2, "
        "l ~ Beta(alpha, alpha)",
        figures=(
            "OpenOOD v1.5, ResNet-18 + MSP, CIFAR-10: near-OOD AUROC 87.47, far-OOD AUROC 90.25, "
            "ID accuracy 95.75",
            "OpenOOD v1.5, ResNet-18 + MSP, CIFAR-100: near-OOD AUROC 80.83, far-OOD AUROC 79.04, "
            "ID accuracy 79.23",
        ),
    )

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The mean of both cross-entropies, and the accuracy on the images that are not mixed."""
        share, partner = self.draw(len(images))
        partner = partner.to(labels.device)
        x, n = images[:, 0], len(images)
        logits = self.linear(self.backbone(torch.cat([x, share * x + (1 - share) * x[partner]])))
        plain, mixed = logits[:n], logits[n:]
        of_mixed = share * F.cross_entropy(mixed, labels)
        of_mixed = of_mixed + (1 - share) * F.cross_entropy(mixed, labels[partner])
        return {
            "loss": (F.cross_entropy(plain, labels) + of_mixed) / 2,
            "accuracy": (plain.argmax(dim=1) == labels).float().mean(),
        }
