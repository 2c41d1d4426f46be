r"""RotPred: the network also tells by how much an image was turned; OOD images leave it unsure.

Paper: D. Hendrycks, M. Mazeika, S. Kadavath, D. Song, "Using Self-Supervised Learning Can Improve
Model Robustness and Uncertainty", NeurIPS 2019, section 4.2. arXiv:1906.12340
Code:  hendrycks/ss-ood; OpenOOD @ 3c35632; written anew from the definition

With :math:`x_r` the image turned by r quarters, p the prediction of the class and q that of r,

.. math::
    L = \mathrm{CE}(p(x_0), y) + \frac{1}{4} \sum_{r=0}^3 \mathrm{CE}(q(x_r), r)

Both heads are linear and on the same features. The score, in bits:

.. math::
    s(x) = \frac{1}{4} \sum_r -\log_2 q_r(x_r) - \mathrm{KL}(\mathcal{U} \,\|\, p(x_0)), \quad
    \mathrm{KL}(\mathcal{U} \,\|\, p) = -\log_2 C - \frac{1}{C} \sum_c \log_2 p_c

Networks give the first term as the output ``rotation``, for which they see each image four times.

Recipe ``published`` is OpenOOD v1.5's for CIFAR, for which its cross-entropy's settings stand.

Differs from the reference code: (1) the divergence is taken of log-softmax, theirs of probabilities
that may be 0 in float32, where it is infinite; (2) quarters are turned without interpolation as
theirs are, and images are taken to be square; (3) the last checkpoint is kept; (4) the paper's
one-class and adversarial settings are not here.
Checked against: both formulas, image by image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.detector import Detector
from oodbench.method import Recipe, num_features_of
from oodbench.outputs import Head, Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector, register_method

from ._numerics import at_work, in_blocks
from .ce import CrossEntropy

PAPER = Paper(
    title="Using Self-Supervised Learning Can Improve Model Robustness and Uncertainty",
    authors="Hendrycks, Dan and Mazeika, Mantas and Kadavath, Saurav and Song, Dawn",
    venue="NeurIPS",
    year=2019,
    url="https://arxiv.org/abs/1906.12340",
    formula="L = CE(p(x), y) + mean_r CE(q(x_r), r); s = mean_r -log2 q_r(x_r) - KL2(U | p)",
    figures=(
        "OpenOOD v1.5, ResNet-18, CIFAR-10: near-OOD AUROC 92.68, far-OOD AUROC 96.62, ID accuracy "
        "95.35",
        "OpenOOD v1.5, ResNet-18, CIFAR-100: near-OOD AUROC 76.43, far-OOD AUROC 88.40, ID "
        "accuracy 76.03",
    ),
)


def turned(x: Tensor) -> Tensor:
    """Images ``[B, C, S, S]`` turned by 0, 1, 2 and 3 quarters, ``[4 B, C, S, S]``."""
    return torch.cat([torch.rot90(x, r, (2, 3)) for r in range(4)])


@register_method("rotpred")
class RotPred(CrossEntropy):
    """Cross-entropy on classes, and on the quarters by which each image was turned."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": Recipe(backbone="resnet18-cifar"),
        "quick": Recipe(epochs=15, lr=0.1, warmup_epochs=1),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = PAPER

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.quarters = nn.Linear(num_features_of(backbone), 4)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Both cross-entropies' sum, the second by itself, and the accuracy on the classes."""
        n = len(images)
        features = self.backbone(turned(images[:, 0]))
        logits = self.linear(features[:n])
        quarter = torch.arange(4, device=labels.device).repeat_interleave(n)
        rotation = F.cross_entropy(self.quarters(features), quarter)
        return {
            "loss": F.cross_entropy(logits, labels) + rotation,
            "rotation": rotation.detach(),
            "accuracy": (logits.argmax(dim=1) == labels).float().mean(),
        }

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Features, logits, and ``rotation [B]``: the mean of -log2 of the right quarter."""
        features = self.backbone(turned(images))
        n = len(images)
        log_q = at_work(self.quarters(features)).log_softmax(dim=1).view(4, n, 4)
        right = torch.stack([log_q[r, :, r] for r in range(4)]).mean(dim=0)
        whole = features[:n]
        return {
            "features": whole,
            "logits": self.linear(whole),
            "rotation": -right / math.log(2),
        }


def unsure_of_quarters(columns: dict[str, Tensor], head: Head) -> tuple[dict[str, Tensor], Head]:
    """The check suite's toy problem with a ``rotation``, lower where logits are surer."""
    surest = columns["logits"].amax(dim=1)
    return {**columns, "rotation": (-surest).sigmoid()}, head


@register_detector("rotpred")
@dataclass
class RotationScore(Detector):
    """Surprise at an image's turns minus how far its classes are from uniform. Higher = more OOD.

    In bits; unbounded.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "rotation"})
    method: ClassVar[str] = "rotpred"
    toy = staticmethod(unsure_of_quarters)
    paper: ClassVar[Paper | None] = PAPER

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]`` and rotation ``[N]``."""

        def divergence(f: Tensor) -> Tensor:
            log_p = f.log_softmax(dim=1) / math.log(2)
            return -math.log2(f.shape[1]) - log_p.mean(dim=1)

        apart = in_blocks(outputs, divergence, "logits", exact=True)
        return outputs.extra["rotation"].to(apart) - apart
