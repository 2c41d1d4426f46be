r"""ReweightOOD: pairs of embeddings weighted by how far they are from where they should be.

Paper: S. Regmi, B. Panthi, Y. Ming, P. K. Gyawali, D. Stoyanov, B. Bhattarai, "ReweightOOD: Loss
Reweighting for Distance-based OOD Detection", CVPR Workshops 2024, section 3
Code:  sudarshanregmi/ReweightOOD; OpenOOD @ 3c35632; written anew from the definition

Of 2B unit embeddings (two views of each image) all pairs i < j have cosines s, positive ones of a
class and negative ones of two. With :math:`\sigma` the logistic function, and weights through which
no gradient flows,

.. math::
    w^+ = \sigma(c_w - m_w s), \quad w^- = \sigma(m_b s - c_b), \quad
    L = \mathrm{ELU}\left(\log \sum_{+} e^{-w^+ s / T} + \log \sum_{-} e^{w^- s / T}\right)

The score is MDS++ on the embeddings (``mahalanobis-pp``). A linear classifier learns beside it from
the embeddings, and sends them no gradient, so that there are logits and an ID accuracy.

Recipe ``published`` is OpenOOD v1.5's for CIFAR (T 0.1, m_b 5, c_b 4, m_w 2, c_w 1, rate 0.1).

Differs from the reference code: (1) the network's features are the normalised projection,
so that detectors read what was trained, as CIDER's are; (2) a batch without a positive or without
a negative pair has that sum left out, theirs is minus infinity; (3) the linear classifier; (4) with
several processes the loss sees the whole batch; (5) the last checkpoint is kept.
Checked against: the formula, pair by pair, gradients too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.method import Recipe
from oodbench.outputs import Head
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._contrastive import ContrastiveMethod, ContrastiveRecipe
from ._outliers import check_positive


@dataclass(frozen=True)
class ReweightOODRecipe(ContrastiveRecipe):
    """How ReweightOOD is trained; the defaults are OpenOOD's for CIFAR.

    Args:
        temperature: T.
        m_b: slope of negative pairs' weights.
        c_b: offset of them.
        m_w: slope of positive pairs' weights.
        c_w: offset of them.
    """

    lr: float = 0.1
    temperature: float = 0.1
    m_b: float = 5.0
    c_b: float = 4.0
    m_w: float = 2.0
    c_w: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "temperature")


def reweighted_loss(z: Tensor, labels: Tensor, recipe: ReweightOODRecipe) -> Tensor:
    """The loss of unit embeddings ``[N, D]`` with labels ``[N]``, a scalar above -1."""
    i, j = torch.triu_indices(len(z), len(z), 1, device=z.device)
    s = (z @ z.T)[i, j]
    alike = labels[i] == labels[j]
    near, far = s[alike], s[~alike]
    w_near = (recipe.c_w - recipe.m_w * near.detach()).sigmoid()
    w_far = (recipe.m_b * far.detach() - recipe.c_b).sigmoid()
    exponents = (-w_near * near / recipe.temperature, w_far * far / recipe.temperature)
    sums = [e.logsumexp(dim=0) for e in exponents if len(e)]
    return F.elu(torch.stack(sums).sum()) if sums else z.sum() * 0


@register_method("reweightood")
class ReweightOOD(ContrastiveMethod):
    """Pairs of unit embeddings drawn together by class, the more the farther they are from it."""

    recipe: ReweightOODRecipe
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": ReweightOODRecipe(),
        "quick": ReweightOODRecipe(
            backbone=None, epochs=10, batch_size=64, warmup_epochs=1, min_scale=0.5
        ),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="ReweightOOD: Loss Reweighting for Distance-based OOD Detection",
        authors="Regmi, Sudarshan and Panthi, Bibek and Ming, Yifei and Gyawali, Prashnna K. and "
        "Stoyanov, Danail and Bhattarai, Binod",
        venue="CVPR Workshops",
        year=2024,
        url="https://openaccess.thecvf.com/CVPR2024_workshops",
        formula="L = ELU(log sum_pos exp(-w s / T) + log sum_neg exp(w s / T)), w+ = "
        "sigma(1 - 2s), w- = sigma(5s - 4)",
        figures=(
            "OpenOOD v1.5, ResNet-18 + MDS, CIFAR-10: near-OOD AUROC 91.86, far-OOD AUROC 98.05",
            "OpenOOD v1.5, ResNet-18 + MDS, CIFAR-100: near-OOD AUROC 71.27, far-OOD AUROC 91.12",
        ),
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: ReweightOODRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.linear = nn.Linear(recipe.embedding_dim, num_classes)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The pairs' loss over the whole batch, and the classifier's."""
        _, z = self.embed(images.flatten(0, 1))  # [B * V, D]
        logits = self.linear(z.detach())
        y = labels.repeat_interleave(images.shape[1])
        classifier = F.cross_entropy(logits, y)
        accuracy = (logits.argmax(dim=1) == y).float().mean()
        z, labels = self.gathered(z.unflatten(0, images.shape[:2]), labels)
        views = labels.repeat_interleave(z.shape[1])
        pairs = reweighted_loss(z.flatten(0, 1), views, self.recipe)
        return {
            "loss": pairs + classifier,
            "pairs": pairs.detach(),
            "classifier": classifier.detach(),
            "accuracy": accuracy,
        }

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Unit embeddings, and the classifier's logits of these."""
        _, z = self.embed(images)
        return {"features": z, "logits": self.linear(z)}

    def head(self) -> Head:
        """The linear classifier."""
        return Head(self.linear.weight, self.linear.bias)
