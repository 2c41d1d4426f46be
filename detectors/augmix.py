r"""AugMix: cross-entropy on images mixed of augmented copies, on which predictions are to agree.

Paper: D. Hendrycks, N. Mu, E. D. Cubuk, B. Zoph, J. Gilmer, B. Lakshminarayanan, "AugMix: A Simple
Data Processing Method to Improve Robustness and Uncertainty", ICLR 2020, section 3, algorithm 1.
arXiv:1912.02781
Code:  google-research/augmix; OpenOOD @ 3c35632; torchvision has the augmentation

An image is mixed of k = 3 chains of one to three operations with shares of Dirichlet(1, 1, 1), and
that is mixed with the image itself by a share of Beta(1, 1) (torchvision's ``AugMix``, which draws
both at once). With p the prediction of the image and :math:`p_1, p_2` those of two mixtures,

.. math::
    L = \mathrm{CE}(p, y) + \lambda \, \frac{1}{3} \left[\mathrm{KL}(p \| m) + \mathrm{KL}(p_1 \| m)
        + \mathrm{KL}(p_2 \| m)\right], \quad m = (p + p_1 + p_2) / 3

the Jensen-Shannon divergence of the three. All three are made of the same crop.

Recipe ``published`` has severity 3 and lambda 12 as the paper, all operations as OpenOOD, and for
the rest that of cross-entropy; the paper leaves out operations that overlap with CIFAR-C's
corruptions (``all_ops=False``). OpenOOD's figures are of a training without the divergence, on one
mixture.

Differs from the reference code: (1) the operations are torchvision's; (2) they are drawn from
torch's generator, seeded by the image's own; (3) grey images have the same operations, of which
those on colour change nothing; (4) the last checkpoint is kept.
Checked against: the loss beside its definition, and that views of one image share their crop.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import AugMix as Mixed

from oodbench.data.transforms import Augmentation, CropFlip, Preprocess
from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._numerics import at_work
from ._outliers import check_positive
from .ce import CrossEntropy


def divergence(logits: Tensor) -> Tensor:
    """The mean Jensen-Shannon divergence of predictions, of logits ``[V, B, C]``, in nats."""
    log_p = logits.log_softmax(dim=2)
    p = log_p.exp()
    log_m = p.mean(dim=0).clamp(1e-7, 1).log()
    return (p * (log_p - log_m)).sum(dim=2).mean()


class AugMixViews(CropFlip):
    """A crop and a flip, and two mixtures of the same.

    Args:
        preprocess: the ID set's.
        severity: of the operations, 1 to 10.
        all_ops: whether operations on colour and brightness are among them.
    """

    def __init__(self, preprocess: Preprocess, severity: int = 3, all_ops: bool = True) -> None:
        super().__init__(preprocess)
        self.mixed = Mixed(severity=severity, all_ops=all_ops)
        self.seed = 0

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """``[3, C, size, size]`` float32: the image, and two mixtures."""
        crop, seed = rng.getrandbits(63), rng.getrandbits(62)
        views = []
        for self.seed in (0, 2 * seed + 1, 2 * seed + 2):
            views.append(super().__call__(image, random.Random(crop)))  # noqa: S311
        return torch.stack(views)

    def change(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """The mixture; nothing for the image itself."""
        if not self.seed:
            return image
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            changed: Image.Image = self.mixed(image)
            return changed


@dataclass(frozen=True)
class AugMixRecipe(Recipe):
    """How AugMix is trained; the defaults are the paper's, but for the operations.

    Args:
        severity: of the operations, 1 to 10.
        all_ops: whether operations on colour and brightness are among them.
        lam: lambda, the weight of the divergence.
    """

    severity: int = 3
    all_ops: bool = True
    lam: float = 12.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lam", zero=True)
        if not 1 <= self.severity <= 10:
            raise OptionError(f"recipe: severity is from 1 to 10, not {self.severity}.")


@register_method("augmix")
class AugMix(CrossEntropy):
    """Cross-entropy, and predictions that agree on mixtures of augmented copies."""

    recipe: AugMixRecipe
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": AugMixRecipe(backbone="resnet18-cifar"),
        "quick": AugMixRecipe(epochs=15, lr=0.1, warmup_epochs=1),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty",
        authors="Hendrycks, Dan and Mu, Norman and Cubuk, Ekin D. and Zoph, Barret and Gilmer, "
        "Justin and Lakshminarayanan, Balaji",
        venue="ICLR",
        year=2020,
        url="https://arxiv.org/abs/1912.02781",
        formula="L = CE(p(x), y) + l JS(p(x), p(x'), p(x''))",
        figures=(
            "OpenOOD v1.5, without the divergence, ResNet-18 + MSP, CIFAR-10: near-OOD AUROC "
            "89.43, far-OOD AUROC 91.66, ID accuracy 95.01",
        ),
    )

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        """The image and two mixtures."""
        return AugMixViews(preprocess, self.recipe.severity, self.recipe.all_ops)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Both terms' sum, the divergence, and the accuracy on the images that are not mixed."""
        views = images[:, 0].transpose(0, 1)  # [3, B, C, H, W]
        logits = at_work(self.linear(self.backbone(views.flatten(0, 1))))
        logits = logits.unflatten(0, views.shape[:2])
        apart = divergence(logits)
        return {
            "loss": F.cross_entropy(logits[0], labels) + self.recipe.lam * apart,
            "divergence": apart.detach(),
            "accuracy": (logits[0].argmax(dim=1) == labels).float().mean(),
        }
