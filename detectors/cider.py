r"""CIDER: one prototype per class on the sphere; samples draw near it, prototypes move apart.

Paper: Y. Ming, Y. Sun, O. Dia, Y. Li, "How to Exploit Hyperspherical Embeddings for
Out-of-Distribution Detection?", ICLR 2023. arXiv:2203.04450
Code:  deeplearning-wisc/cider; OpenOOD @ 3c35632; written anew from the definition

Embeddings :math:`z` and prototypes :math:`\mu` are unit vectors. One call of the loss:

(a) prototypes move, sample by sample in the batch's order (first views, then second views):
    :math:`\mu_c \leftarrow \mathrm{norm}(\gamma \mu_c + (1 - \gamma) z)` for a sample of class c;
(b) compactness, prototypes constant:
    :math:`L_{comp} = -\frac{1}{N} \sum_i \log \mathrm{softmax}(z_i^\top \mu / \tau)_{y_i}`;
(c) dispersion: :math:`L_{dis} = \frac{1}{C} \sum_i \log \frac{1}{C - 1} \sum_{j \ne i}
    \exp(\mu_i^\top \mu_j / \tau)`. Its way to the network is this batch's step (a).

:math:`L = L_{dis} + w L_{comp}`. The network's logits are :math:`z^\top \mu / \tau`.

Step (a) is one loop over the occurrences of a class: the r-th samples of all classes move their
prototypes at once, which is the same as one after the other, since classes do not meet in it.

Recipe ``published`` is OpenOOD v1.5's for CIFAR-10, ``published-cifar100`` for CIFAR-100; the
authors' own scripts train 500 epochs.

Differs from the reference code: (1) compactness has the weight w = 2, as in the paper; theirs is
multiplied by 0.1 / 0.07 as well, so 2.86; (2) prototypes begin as random unit vectors, theirs as
the mean embeddings of the untrained network; after a batch next to nothing is left of either; (3)
features are the normalised projection, so that logits and head belong to them; OpenOOD's code
scores the normalised penultimate features, which are the extra output ``penultimate``; (4) warm-up
rises from 0, theirs from 0.001, and the schedule moves every step, theirs every epoch; (5) with
several processes the loss sees the whole batch, in the order that one process would see it; (6)
the last checkpoint is kept, OpenOOD's is the one with the lowest training loss; (7) convolutions
start from normal weights of variance 2 / fan-out, OpenOOD's from uniform ones of variance
1 / (3 fan-in).
Checked against: the definition, sample by sample (tests/detectors/test_cider.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.outputs import Head
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._contrastive import ContrastiveMethod, ContrastiveRecipe


def move_prototypes(prototypes: Tensor, z: Tensor, labels: Tensor, momentum: float) -> Tensor:
    """Step (a): each sample in turn pulls its class's prototype, normalised after each.

    Shape: prototypes ``[C, D]``, embeddings ``[N, D]``, labels ``[N]`` -> ``[C, D]``.
    """
    present, place, counts = labels.unique(return_inverse=True, return_counts=True)
    order = place.argsort(stable=True)  # class by class, each in the batch's order
    first = counts.cumsum(dim=0) - counts
    moved = prototypes[present]  # [P, D]
    for r in range(int(counts.max())):
        row = order[(first + r).clamp(max=len(order) - 1)]
        step = F.normalize(momentum * moved + (1 - momentum) * z[row], dim=1)
        moved = torch.where((counts > r)[:, None], step, moved)
    return prototypes.index_copy(0, present, moved)


def dispersion(prototypes: Tensor, temperature: float) -> Tensor:
    """Step (c): log of the mean likeness of prototypes to the others, a scalar."""
    own = torch.eye(len(prototypes), dtype=torch.bool, device=prototypes.device)
    logits = prototypes @ prototypes.T / temperature  # [C, C]
    likeness = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
    return likeness.mean() - math.log(len(prototypes) - 1)


class CIDERLoss(nn.Module):
    """CIDER's loss and its prototypes, which every call in training moves.

    Args:
        num_classes: C, at least 2.
        feature_dim: D of the embeddings.
        proto_momentum: gamma of the prototypes' EMA.
        temperature: tau of both terms.
        compactness_weight: w.

    Attributes:
        prototypes: ``[C, D]``, unit vectors.
    """

    prototypes: Tensor

    def __init__(
        self,
        num_classes: int,
        feature_dim: int = 128,
        proto_momentum: float = 0.95,
        temperature: float = 0.1,
        compactness_weight: float = 2.0,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise OptionError(f"CIDERLoss: num_classes must be at least 2, not {num_classes}.")
        if feature_dim < 1:
            raise OptionError(f"CIDERLoss: feature_dim must be at least 1, not {feature_dim}.")
        if not temperature > 0:
            raise OptionError(f"CIDERLoss: temperature must be positive, not {temperature}.")
        if not 0 <= proto_momentum <= 1:
            raise OptionError(f"CIDERLoss: proto_momentum is in [0, 1], not {proto_momentum}.")
        self.proto_momentum = proto_momentum
        self.temperature = temperature
        self.compactness_weight = compactness_weight
        prototypes = F.normalize(torch.randn(num_classes, feature_dim), dim=1)
        self.register_buffer("prototypes", prototypes)

    def forward(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss of a batch, and the prototypes' next position.

        Args:
            features: L2-normalised embeddings of V views, ``[B, V, D]``.
            labels: ``[B]`` in ``[0, C)``.

        Returns:
            Scalars: ``loss`` = ``dispersion`` + compactness_weight x ``compactness``, and both.

        Raises:
            ValueError: shapes that do not fit.
        """
        if features.ndim != 3 or features.shape[2] != self.prototypes.shape[1]:
            raise ValueError(
                f"CIDERLoss wants features [B, V, {self.prototypes.shape[1]}], "
                f"not {list(features.shape)}."
            )
        if labels.shape != features.shape[:1]:
            raise ValueError(
                f"CIDERLoss wants {len(features)} labels, one per sample, not {list(labels.shape)}."
            )
        with torch.autocast(features.device.type, enabled=False):
            z = features.to(torch.promote_types(features.dtype, torch.float32))
            z = z.transpose(0, 1).flatten(0, 1)  # [N, D], N = V * B
            y = labels.repeat(features.shape[1])
            moved = move_prototypes(self.prototypes.to(z), z, y, self.proto_momentum)
            fixed = moved.detach()
            compactness = F.cross_entropy(z @ fixed.T / self.temperature, y)
            apart = dispersion(moved, self.temperature)
        if self.training:
            self.prototypes = fixed.to(self.prototypes)
        loss = apart + self.compactness_weight * compactness
        return {"loss": loss, "compactness": compactness, "dispersion": apart}

    def extra_repr(self) -> str:
        """Settings, so that they are part of a network's content key."""
        return f"{list(self.prototypes.shape)}, temperature={self.temperature}"

    def head(self) -> Head:
        """The prototypes as a linear layer from embeddings to logits."""
        return Head(self.prototypes / self.temperature)


@dataclass(frozen=True)
class CIDERRecipe(ContrastiveRecipe):
    """How CIDER is trained; the defaults are OpenOOD's for CIFAR-10.

    Args:
        proto_momentum: gamma of the prototypes' EMA.
        temperature: tau of both terms.
        compactness_weight: w.
    """

    proto_momentum: float = 0.95
    temperature: float = 0.1
    compactness_weight: float = 2.0


@register_method("cider")
class CIDER(ContrastiveMethod):
    """CIDER: samples close to their class prototype, prototypes far apart, on a projection head."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": CIDERRecipe(),
        "published-cifar100": replace(CIDERRecipe(), proto_momentum=0.5),
        "quick": CIDERRecipe(
            backbone=None, epochs=10, batch_size=64, lr=0.05, warmup_epochs=3, min_scale=0.5
        ),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "published": ("cifar10",),
        "published-cifar100": ("cifar100",),
    }
    paper: ClassVar[Paper | None] = Paper(
        title="How to Exploit Hyperspherical Embeddings for Out-of-Distribution Detection?",
        authors="Ming, Yifei and Sun, Yiyou and Dia, Ousmane and Li, Yixuan",
        venue="ICLR",
        year=2023,
        url="https://arxiv.org/abs/2203.04450",
        formula="L = mean_i log mean_(j!=i) exp(m_i m_j / t) - w mean log softmax(z m / t)_y, "
        "m_y <- norm(g m_y + (1 - g) z)",
        figures=(
            "OpenOOD v1.5, ResNet-18 + KNN, CIFAR-10: near-OOD AUROC 90.71, far-OOD AUROC 94.71",
            "OpenOOD v1.5, ResNet-18 + KNN, CIFAR-100: near-OOD AUROC 73.10, far-OOD AUROC 80.49",
        ),
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: CIDERRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.cider = CIDERLoss(
            num_classes,
            feature_dim=recipe.embedding_dim,
            proto_momentum=recipe.proto_momentum,
            temperature=recipe.temperature,
            compactness_weight=recipe.compactness_weight,
        )

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """CIDER's loss over the whole batch, gathered from all processes."""
        _, z = self.embed(images.flatten(0, 1))
        z, labels = self.gathered(z.unflatten(0, images.shape[:2]), labels)  # [B, V, D]
        return self.cider(z, labels)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The embedding as features, its logits, and the penultimate features."""
        penultimate, z = self.embed(images)
        return {"features": z, "logits": self.cider.head()(z), "penultimate": penultimate}

    def head(self) -> Head:
        """The prototypes over the temperature."""
        return self.cider.head()
