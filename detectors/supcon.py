r"""SupCon: samples of a class attract each other, all others repel.

Paper: P. Khosla, P. Teterwak, C. Wang, A. Sarna, Y. Tian, P. Isola, A. Maschinot, C. Liu,
D. Krishnan, "Supervised Contrastive Learning", NeurIPS 2020. arXiv:2004.11362
Code:  HobbitLong/SupContrast; written anew from the definition

With N = 2B unit embeddings :math:`z` of two views, and :math:`P(i)` the others of i's class:

.. math::
    L_{out} = \frac{1}{N} \sum_i \frac{-1}{|P(i)|} \sum_{p \in P(i)} \log
    \frac{\exp(z_i^\top z_p / \tau)}{\sum_{a \ne i} \exp(z_i^\top z_a / \tau)}

Features are the backbone's, before the projection head, as SSD+ and KNN+ use them.

Recipe ``published``: the authors' for CIFAR (batch 1024, SGD 0.5 without Nesterov, weight decay
1e-4, 1000 epochs, 10 of warm-up, cosine to a thousandth, tau 0.1), on the ResNet-18 of KNN+
instead of their ResNet-50.

Differs from the reference code: (1) a linear classifier is trained at the same time, on features
whose gradient stops there, with the recipe's learning rate; theirs is trained afterwards on a
frozen network. The network is that of SupCon alone, and logits, head and ID accuracy exist; (2) no
factor 0.1 / 0.07 = 1.43 on the loss, which is in their code and not in the paper; (3) an anchor
without any positive counts for nothing; (4) warm-up rises from 0, theirs from 0.01, and the
schedule moves every step, theirs every epoch; (5) with several processes the loss sees the whole
batch, gathered with gradients.
Checked against: the formula, pair by pair (tests/detectors/test_supcon.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import OptionError
from oodbench.method import Recipe, num_features_of
from oodbench.outputs import Head
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._contrastive import ContrastiveMethod, ContrastiveRecipe


def supcon_loss(features: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """The supervised contrastive loss L_out, the mean over the anchors that have a positive.

    Args:
        features: L2-normalised embeddings of V views, ``[B, V, D]``.
        labels: ``[B]``.
        temperature: tau.

    Raises:
        ValueError: shapes that do not fit.
    """
    if features.ndim != 3 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"supcon_loss wants features [B, V, D] and labels [B], "
            f"not {list(features.shape)} and {list(labels.shape)}."
        )
    with torch.autocast(features.device.type, enabled=False):
        z = features.to(torch.promote_types(features.dtype, torch.float32))
        z = z.transpose(0, 1).flatten(0, 1)  # [N, D], N = V * B
        y = labels.repeat(features.shape[1])
        own = torch.eye(len(z), dtype=torch.bool, device=z.device)
        positive = ((y[:, None] == y) & ~own).to(z)  # [N, N]
        count = positive.sum(dim=1)
        logits = z @ z.T / temperature
        # not minus infinity: a single embedding has no other, and its gradient would be NaN
        least = torch.finfo(logits.dtype).min
        repel = logits.masked_fill(own, least).logsumexp(dim=1)
        attract = (positive * logits).sum(dim=1) / count.clamp(min=1)
        each = torch.where(count > 0, repel - attract, 0.0)
        return each.sum() / (count > 0).sum().clamp(min=1)


@dataclass(frozen=True)
class SupConRecipe(ContrastiveRecipe):
    """How SupCon is trained; the defaults are the authors' for CIFAR.

    Args:
        temperature: tau.
    """

    epochs: int = 1000
    batch_size: int = 1024
    nesterov: bool = False
    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise OptionError(f"recipe: temperature must be positive, not {self.temperature}.")


@register_method("supcon")
class SupCon(ContrastiveMethod):
    """SupCon: supervised contrast on a projection head, and a linear classifier beside it."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": SupConRecipe(),
        "quick": SupConRecipe(
            backbone=None, epochs=10, batch_size=64, lr=0.2, warmup_epochs=1, min_scale=0.5
        ),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="Supervised Contrastive Learning",
        authors="Khosla, Prannay and Teterwak, Piotr and Wang, Chen and Sarna, Aaron and "
        "Tian, Yonglong and Isola, Phillip and Maschinot, Aaron and Liu, Ce and Krishnan, Dilip",
        venue="NeurIPS",
        year=2020,
        url="https://arxiv.org/abs/2004.11362",
        formula="L = mean_i mean_(p in P(i)) -log(exp(z_i z_p / t) / sum_(a!=i) exp(z_i z_a / t))",
        figures=(
            "SupContrast, ResNet-50: ID accuracy 96.0 on CIFAR-10, 76.5 on CIFAR-100 (linear "
            "classifier trained afterwards)",
        ),
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: SupConRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.linear = nn.Linear(num_features_of(backbone), num_classes)
        self.temperature = recipe.temperature

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """SupCon over the whole batch, gathered from all processes, and the classifier's loss."""
        features, z = self.embed(images.flatten(0, 1))  # [B * V, D]
        logits = self.linear(features.detach())
        y = labels.repeat_interleave(images.shape[1])
        classifier = F.cross_entropy(logits, y)
        accuracy = (logits.argmax(dim=1) == y).float().mean()
        z, labels = self.gathered(z.unflatten(0, images.shape[:2]), labels)
        contrast = supcon_loss(z, labels, self.temperature)
        return {
            "loss": contrast + classifier,
            "contrast": contrast,
            "classifier": classifier,
            "accuracy": accuracy,
        }

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Penultimate features, and the classifier's logits."""
        features = self.backbone(images)
        return {"features": features, "logits": self.linear(features)}

    def head(self) -> Head:
        """The linear classifier."""
        return Head(self.linear.weight, self.linear.bias)
