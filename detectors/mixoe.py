r"""MixOE: ID images mixed with outliers, of which the network is to be as unsure as they are mixed.

Paper: J. Zhang, N. Inkawhich, R. Linderman, Y. Chen, H. Li, "Mixture Outlier Exposure: Towards
Out-of-Distribution Detection in Fine-grained Environments", WACV 2023, section 3, equation 5.
arXiv:2106.03917
Code:  zjysteven/MixOE; OpenOOD @ 3c35632; written anew from the definition

With :math:`(x, y)` of the ID set, outliers :math:`\tilde x` and the uniform distribution
:math:`\mathcal{U}` over C classes,

.. math::
    L = \mathrm{CE}(z(x), y) + \beta \left[ \lambda \, \mathrm{CE}(z(\hat x), y) + (1 - \lambda) \,
        H(\mathcal{U}; \sigma(z(\hat x))) \right], \quad \lambda \sim \mathrm{Beta}(a, b)

``mixup`` makes :math:`\hat x = \lambda x + (1 - \lambda) \tilde x`; ``cutmix`` pastes a rectangle
of the outlier into the ID image, and :math:`\lambda` becomes the share of the image that stays. The
rectangle has the sides :math:`\lfloor \sqrt{1 - \lambda} H \rfloor` and
:math:`\lfloor \sqrt{1 - \lambda} W \rfloor` around a pixel drawn uniformly, cut off at the edges.

The set is named by ``outliers`` (``--outliers NAME``); images that are tested on are refused, and
rows are marked. The score that goes with it is MSP.

Recipe ``published`` is OpenOOD v1.5's (cutmix, beta 1, Beta(0.1, 1), ten epochs of fine-tuning at
a rate of 0.001, from the network that ``ce`` trains); the paper fine-tunes with beta 5 and
Beta(1, 1) for mixup, Beta(2, 1) for cutmix.

Differs from the reference code: (1) ID images and mixtures are one batch, so batch normalisation
sees both, theirs are two passes; (2) outliers are drawn with replacement, each time anew; (3) what
is drawn comes from torch's generator, theirs from NumPy's; (4) the cosine ends at 0, theirs at
1e-6; (5) the last checkpoint is kept; (6) with several processes each draws for its own share; (7)
a trained backbone is fine-tuned behind a head that is drawn anew, theirs is trained as well.
Checked against: cross-entropy with soft labels, and pasted images pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.method import Recipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._numerics import at_work
from ._outliers import OutlierMethod, OutlierRecipe, check_positive
from .oe import uniform_cross_entropy


def pasted(
    x: Tensor, outliers: Tensor, share: float, row: int, column: int
) -> tuple[Tensor, float]:
    """ID images with a rectangle of outliers around a pixel, and the share of ID that stays.

    Args:
        x: ID images ``[B, C, H, W]``.
        outliers: of the same shape.
        share: of the image that is to stay, before the rectangle is cut off at the edges.
        row: of the pixel.
        column: of the pixel.
    """
    height, width = x.shape[-2:]
    side = math.sqrt(1.0 - share)
    half_h, half_w = int(height * side) // 2, int(width * side) // 2
    top, bottom = max(row - half_h, 0), min(row + half_h, height)
    left, right = max(column - half_w, 0), min(column + half_w, width)
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = outliers[..., top:bottom, left:right]
    return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)


@dataclass(frozen=True)
class MixOERecipe(OutlierRecipe):
    """How MixOE is trained; the defaults are OpenOOD's.

    Args:
        mix: ``"cutmix"`` or ``"mixup"``.
        lambda_oe: beta, the weight of the mixtures' term.
        alpha: a of the Beta distribution of lambda.
        beta: b of it.
        outliers_per_image: one, the one that an image is mixed with.
        start_from: ``METHOD/RECIPE`` of the run whose network is fine-tuned; None for none.
    """

    mix: Literal["cutmix", "mixup"] = "cutmix"
    lambda_oe: float = 1.0
    alpha: float = 0.1
    beta: float = 1.0
    start_from: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lambda_oe", zero=True)
        check_positive(self, "alpha", "beta")


@register_method("mixoe")
class MixOE(OutlierMethod):
    """Cross-entropy on ID images, and with soft labels on their mixtures with outliers."""

    recipe: MixOERecipe
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": MixOERecipe(
            backbone="resnet18-cifar", epochs=10, lr=0.001, start_from="ce/openood"
        ),
        "quick": MixOERecipe(epochs=15, lr=0.1, warmup_epochs=1),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="Mixture Outlier Exposure: Towards Out-of-Distribution Detection in Fine-grained "
        "Environments",
        authors="Zhang, Jingyang and Inkawhich, Nathan and Linderman, Randolph and Chen, Yiran and "
        "Li, Hai",
        venue="WACV",
        year=2023,
        url="https://arxiv.org/abs/2106.03917",
        formula="L = CE(z(x), y) + b (l CE(z(x'), y) + (1 - l) H(U; softmax z(x'))), x' = x mixed "
        "with an outlier by l ~ Beta",
        figures=(
            "OpenOOD v1.5, ResNet-18 + MSP, CIFAR-10, outliers of TIN-597: near-OOD AUROC 88.73, "
            "far-OOD AUROC 91.93, ID accuracy 94.55",
            "OpenOOD v1.5, ResNet-18 + MSP, CIFAR-100, outliers of TIN-597: near-OOD AUROC 80.95, "
            "far-OOD AUROC 76.40, ID accuracy 75.13",
        ),
    )

    def mixed(self, x: Tensor, outliers: Tensor) -> tuple[Tensor, float]:
        """Mixtures ``[B, C, H, W]``, and the share of ID in them."""
        recipe = self.recipe
        # on the CPU and in float64: the same numbers whatever the network runs on
        ends = torch.tensor([recipe.alpha, recipe.beta], dtype=torch.float64)
        share = float(torch.distributions.Beta(*ends).sample())
        if recipe.mix == "mixup":
            return share * x + (1 - share) * outliers, share
        row, column = (int(torch.randint(side, ())) for side in x.shape[-2:])
        return pasted(x, outliers, share, row, column)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Both terms' sum, the mixtures' own, and the accuracy on the ID images."""
        x, outliers = self.parts(images)
        mixed, share = self.mixed(x, outliers[:: self.outliers_per_image])
        logits = at_work(self.linear(self.backbone(torch.cat([x, mixed]))))
        of_id, of_mixed = logits[: len(x)], logits[len(x) :]
        extra = share * F.cross_entropy(of_mixed, labels)
        extra = extra + (1 - share) * uniform_cross_entropy(of_mixed)
        accuracy = (of_id.argmax(dim=1) == labels).float().mean()
        loss = F.cross_entropy(of_id, labels) + self.recipe.lambda_oe * extra
        return {"loss": loss, "mixtures": extra.detach(), "accuracy": accuracy}
