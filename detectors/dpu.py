r"""DPU: how far modalities are pushed apart depends on how near a sample is to its class.

Paper: S. Li, H. Gong, H. Dong, T. Yang, Z. Tu, Y. Zhao, "DPU: Dynamic Prototype Updating for
Multimodal Out-of-Distribution Detection", CVPR 2025, section 3. arXiv:2411.08227
Code:  lili0415/DPU-OOD-Detection; written anew from the definition

On the batch's embeddings x of each modality, with labels y and the margin m,

.. math::
    A_{ij} = \exp\left(\frac{\cos(\arccos(\cos(x_i, x_j)) + m [y_i = y_j])}{\tau}\right), \quad
    P_{ij} = A_{ij} / \sum_k A_{kj}

and :math:`r_i` the set of :math:`P_{ij}` with :math:`y_j = y_i`, j = i included: :math:`L_{cl}` is
the mean over modalities and rows of :math:`-\sum_{p \in r_i} \log p`, :math:`L_{var}` that of the
biased variance of :math:`r_i`. The prototype of a class moves to its mean in the batch, the slower
the more samples vary. With v the embeddings of the first modality, :math:`\sigma^2` their biased
variance and n their number in the class,

.. math::
    p \leftarrow \beta p + (1 - \beta) (\bar v - p) \, \mathrm{clamp}(1 / (\sigma^2 + 10^{-6}),
    0.01, 0.5) / n, \quad L_{con} = -\overline{\log \cos(v_i, p_{y_i})}

and each sample's disagreement of modalities :math:`D_i` (A2D's distance) has its own weight:

.. math::
    a_i = 0.5 \text{ in the first epochs, then } 0.3 \, (1 - \sigma(\cos(v_i, p_{y_i}))), \quad
    L = \overline{\mathrm{CE}} + 0.2 L_{cl} + 2 L_{var} + 0.1 L_{con} - \overline{a_i D_i}

Gradient flows through :math:`a_i` too; weights are those of the reference code.
``detectors/_multiood.py`` describes the recipes, and how the encoders differ from MultiOOD's.

Differs from the reference code: (1) the contrastive and variance terms have a gradient, there they
have none; (2) a cosine in :math:`L_{con}` is at least 1e-6, there a negative one gives NaN; (3)
where two embeddings coincide the arc cosine gives no gradient, there an infinite one; (4)
prototypes start at zero, as theirs, and shrink as theirs do: the rule above is kept, as the weights
go with it; (5) the distance is that of probabilities row by row; the reference's Wasserstein, which
compares sets, is not among them; (6) with several processes prototypes are those of the first
process's share.
Checked against: each term by loops over samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.method import Recipe
from oodbench.networks.modalities import MultimodalMethod, MultimodalRecipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._multiood import FROZEN, QUICK, RECIPE_IDS, WARM
from ._numerics import at_work
from ._outliers import check_positive
from .a2d import MINIMAL_P, hellinger, without_true_class

MARGIN = math.pi / 18
TEMPERATURE = 0.05
NEAR = 1e-6
"""The smallest cosine of which a logarithm is taken."""

ROWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hellinger": lambda p, q: hellinger(p.clamp(min=MINIMAL_P), q.clamp(min=MINIMAL_P)),
    "l1": lambda p, q: (p - q).abs().mean(dim=1),
    "l2": lambda p, q: (p - q).square().mean(dim=1),
}
"""Distances of two modalities' predictions ``[B, K]``, one for each sample ``[B]``."""


def with_margin(c: Tensor) -> Tensor:
    """``cos(arccos(c) + MARGIN)`` of cosines, without the infinite gradient at 1 and -1."""
    square = 1 - c.square()
    is_apart = square > 8 * torch.finfo(c.dtype).eps
    # the inner choice keeps the root's gradient finite where the outer one drops its value
    sine = torch.where(is_apart, torch.where(is_apart, square, 1.0).sqrt(), 0.0)
    return c * math.cos(MARGIN) - sine * math.sin(MARGIN)


def margin_terms(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The contrastive and the variance term of a modality's embeddings ``[B, D]``, two scalars."""
    unit = F.normalize(at_work(x), dim=1)
    alike = labels[:, None] == labels
    c = (unit @ unit.T).clamp(-1, 1)
    logits = torch.where(alike, with_margin(c), c) / TEMPERATURE
    surprise = -logits.log_softmax(dim=0)  # columns sum to one
    own = alike.to(surprise)
    count = own.sum(dim=1)
    p = (-surprise).exp()
    mean = (p * own).sum(dim=1) / count
    gaps = (p - mean[:, None]).square() * own
    return (surprise * own).sum(dim=1).mean(), (gaps.sum(dim=1) / count).mean()


def moved(prototypes: Tensor, v: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Prototypes ``[C, D]`` after a batch of embeddings ``[B, D]``; of absent classes as before."""
    after = prototypes.clone()
    for c in labels.unique():
        own = v[labels == c]
        variance = own.var(dim=0, unbiased=False)
        pace = (1 / (variance + 1e-6)).clamp(0.01, 0.5) / len(own)
        after[c] = beta * prototypes[c] + (1 - beta) * (own.mean(dim=0) - prototypes[c]) * pace
    return after


def disagreement(alone: Mapping[str, Tensor], labels: Tensor, kind: str) -> Tensor:
    """How far the modalities disagree on the classes that are not the true one, ``[B]``."""
    ps = [at_work(without_true_class(f, labels)).softmax(dim=1) for f in alone.values()]
    return torch.stack([ROWS[kind](p, q) for p, q in combinations(ps, 2)]).mean(dim=0)


def strengths(cosines: Tensor) -> Tensor:
    """The weight of each sample's disagreement, ``[B]`` in [0.081, 0.219], of cosines ``[B]``."""
    return 0.3 * (1 - cosines.clamp(-1, 1).sigmoid())


@dataclass(frozen=True)
class DPURecipe(MultimodalRecipe):
    """How DPU is trained; the defaults are the reference code's.

    Args:
        distance: of the modalities' predictions, of each sample.
        contrast_ratio: weight of the contrastive term.
        variance_ratio: weight of the variance term.
        prototype_ratio: weight of the term that draws embeddings to prototypes.
        beta: share of a prototype that stays.
        start_epoch: the first, from 0, whose weights of disagreement are each sample's own.
    """

    distance: Literal["hellinger", "l1", "l2"] = "hellinger"
    contrast_ratio: float = 0.2
    variance_ratio: float = 2.0
    prototype_ratio: float = 0.1
    beta: float = 0.8
    start_epoch: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        ratios = ("contrast_ratio", "variance_ratio", "prototype_ratio", "start_epoch")
        check_positive(self, *ratios, zero=True)
        check_positive(self, "beta")


@register_method("dpu")
class DPU(MultimodalMethod):
    """Modalities pushed apart, the more the farther a sample is from its class's prototype."""

    recipe: DPURecipe
    prototypes: Tensor
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": DPURecipe(**FROZEN),
        "warm": DPURecipe(**WARM),
        "quick": DPURecipe(**QUICK),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {
        name: RECIPE_IDS[name] for name in ("published", "warm")
    }
    paper: ClassVar[Paper | None] = Paper(
        title="DPU: Dynamic Prototype Updating for Multimodal Out-of-Distribution Detection",
        authors="Li, Shawn and Gong, Huixian and Dong, Hao and Yang, Tiankai and Tu, Zhengzhong "
        "and Zhao, Yue",
        venue="CVPR",
        year=2025,
        url="https://arxiv.org/abs/2411.08227",
        formula="L = CE + 0.2 L_cl + 2 L_var + 0.1 L_con - mean a_i D_i, a_i = 0.3 (1 - "
        "sigma(cos(v_i, p_y)))",
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: DPURecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        first = next(iter(self.heads.layers.values()))
        self.register_buffer("prototypes", torch.zeros(num_classes, first.in_features))

    def extra_losses(
        self, joined: Tensor, alone: Mapping[str, Tensor], labels: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """The four terms, with their weights."""
        recipe = self.recipe
        parts = joined.split([layer.in_features for layer in self.heads.layers.values()], dim=1)
        terms = [margin_terms(part, labels) for part in parts]
        contrast, variance = (torch.stack(term).mean() for term in zip(*terms, strict=True))
        v = at_work(parts[0])
        with torch.no_grad():
            prototypes = moved(self.prototypes.to(v), v, labels, recipe.beta)
            if self.training:
                self.prototypes.copy_(prototypes)
        cosines = F.cosine_similarity(v, prototypes[labels], dim=1)
        is_early = self.current_epoch < recipe.start_epoch
        a = torch.full_like(cosines, 0.5) if is_early else strengths(cosines)
        apart = (a * disagreement(alone, labels, recipe.distance)).mean()
        return {
            "contrast": (recipe.contrast_ratio, contrast),
            "variance": (recipe.variance_ratio, variance),
            "prototypes": (recipe.prototype_ratio, -cosines.clamp(min=NEAR).log().mean()),
            "disagreement": (1.0, -apart),
        }
