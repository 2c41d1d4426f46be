r"""NPOS: outliers drawn around the ID features that lie farthest out, and told apart.

Paper: L. Tao, X. Du, X. Zhu, Y. Li, "Non-parametric Outlier Synthesis", ICLR 2023, section 3.
arXiv:2303.02966
Code:  deeplearning-wisc/npos; OpenOOD @ 3c35632; written anew from the definition

Each class keeps its latest L penultimate features h in a queue. In a step and for each class:

(a) of the unit features :math:`h / \lVert h \rVert` the squared distance to the K-th nearest is
    taken (itself is the first); of the ``select`` farthest ``pick_nums`` are picked at random;
(b) around each picked feature, as it is, ``sample_from`` candidates
    :math:`h + \sigma \epsilon, \epsilon \sim \mathcal{N}(0, I)` are drawn. The ``per_point`` of
    them whose directions are farthest from the K-th nearest unit feature are the outliers v.

With :math:`\phi` a layer as wide as h, ReLU and a linear one, z the unit embeddings of two views
and :math:`\mu` the class prototypes, which move as CIDER's do (:mod:`~oodbench.detectors.cider`),

.. math::
    L = w_d L_{dis}(\mu) + w_c \, \frac{\tau}{0.07} L_{comp}(z, \mu) + \beta \,
        \mathrm{BCE}(\phi(h), [1 \text{ of ID}, 0 \text{ of } v])

The last term comes from ``start_epoch`` on, once all queues are full. No set of outliers is needed.
The score is kNN on the embeddings.

Recipe ``published`` is OpenOOD v1.5's for CIFAR (L 1000, K 300, select 200, two picked, 600
candidates, 200 kept, sigma 0.1, beta 0.1, from the 40th epoch of 100 on).

Differs from the reference code: (1) of each picked feature the farthest candidates are kept;
OpenOOD's reshape mixes the candidates of several, and keeps others; (2) queues hold the latest
features from the start; theirs lose all at each epoch's end; (3) :math:`\phi` learns at the rate of
the rest, theirs at a tenth of it; (4) prototypes begin as random unit vectors, theirs as means;
(5) all of a queue is searched, as theirs is with ``sampling_ratio`` 1; (6) the last checkpoint is
kept; (7) with several processes queues hold the features of all; (8) kNN is on the projected
embeddings, OpenOOD's on unit penultimate features; (9) :math:`\phi` is D to D to 1, theirs D to 128
to 1.
Checked against: each step by loops over features, and the loss of a batch.
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
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._contrastive import mlp_head
from ._numerics import precise
from ._outliers import check_positive
from ._queues import ClassQueues, of_all_processes, shared_mean
from .cider import CIDER, CIDERRecipe

BASE_TEMPERATURE = 0.07


def kth_distance(points: Tensor, bank: Tensor, k: int) -> Tensor:
    """Squared distance of each direction ``[M]`` to its k-th nearest, of ``[M, D]`` in ``[N, D]``.

    Both are normalised.
    """
    unit, units = F.normalize(points, dim=1), F.normalize(bank, dim=1)
    squared = 2 - 2 * unit @ units.T
    return squared.kthvalue(min(k, len(bank)), dim=1).values.clamp(min=0)


def boundary(h: Tensor, k: int, select: int) -> Tensor:
    """Rows of features ``[L, D]`` that lie farthest out, ``[select]``, the farthest first."""
    return kth_distance(h, h, k).topk(min(select, len(h))).indices


def around(h: Tensor, picked: Tensor, steps: Tensor, k: int, keep: int) -> Tensor:
    """Outliers ``[P * keep, D]``: of the candidates around each picked row the farthest out.

    Args:
        h: features of a class, ``[L, D]``.
        picked: rows of it, ``[P]``.
        steps: from a feature to its candidates, ``[n, D]``.
        k: which nearest neighbour tells how far out a candidate is.
        keep: how many of each row's candidates.
    """
    candidates = h[picked][:, None] + steps  # [P, n, D]
    distance = kth_distance(candidates.flatten(0, 1), h, k).view(len(picked), len(steps))
    farthest = distance.topk(min(keep, len(steps)), dim=1).indices
    kept = candidates.gather(1, farthest[..., None].expand(-1, -1, h.shape[1]))
    return kept.flatten(0, 1)


@dataclass(frozen=True)
class NPOSRecipe(CIDERRecipe):
    """How NPOS is trained; the defaults but for batch and rate are OpenOOD's for CIFAR.

    Args:
        queue_size: L, features kept of a class.
        k: which nearest neighbour tells how far out a feature is; the first is itself.
        select: how many of the farthest features of a class outliers may be drawn around.
        pick_nums: how many of them they are drawn around in a step.
        sample_from: candidates around each.
        per_point: how many of these become outliers.
        sigma: deviation of candidates from their feature.
        start_epoch: the first with outliers, from 0, if all queues are full by then. OpenOOD's
            40 counts from 1.
        dispersion_weight: w_d.
        compactness_weight: w_c.
        loss_weight: beta.
    """

    queue_size: int = 1000
    k: int = 300
    select: int = 200
    pick_nums: int = 2
    sample_from: int = 600
    per_point: int = 200
    sigma: float = 0.1
    start_epoch: int = 39
    dispersion_weight: float = 0.5
    compactness_weight: float = 1.0
    loss_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("queue_size", "k", "select", "pick_nums", "sample_from", "per_point")
        check_positive(self, *counts, "sigma")
        check_positive(self, "start_epoch", "dispersion_weight", "loss_weight", zero=True)
        bounds = (("k", "queue_size"), ("select", "queue_size"), ("pick_nums", "select"))
        for name, most in (*bounds, ("per_point", "sample_from")):
            if getattr(self, name) > getattr(self, most):
                raise OptionError(
                    f"recipe: {name} ({getattr(self, name)}) is at most {most} "
                    f"({getattr(self, most)})."
                )


@register_method("npos")
class NPOS(CIDER):
    """Samples close to their class prototype, and features told from outliers drawn around them."""

    has_idle_parameters: ClassVar[bool] = True
    recipe: NPOSRecipe
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": NPOSRecipe(batch_size=256, lr=0.1),
        "quick": NPOSRecipe(
            backbone=None,
            epochs=10,
            batch_size=64,
            lr=0.05,
            warmup_epochs=3,
            min_scale=0.5,
            queue_size=64,
            k=20,
            select=16,
            sample_from=100,
            per_point=10,
            start_epoch=3,
        ),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="Non-parametric Outlier Synthesis",
        authors="Tao, Leitian and Du, Xuefeng and Zhu, Xiaojin and Li, Yixuan",
        venue="ICLR",
        year=2023,
        url="https://arxiv.org/abs/2303.02966",
        formula="L = w_d L_dis + w_c L_comp + b BCE(phi(h), ID or not), outliers h + s e around "
        "the features farthest from their k-th neighbour",
        figures=(
            "OpenOOD v1.5, ResNet-18 + KNN, CIFAR-10: near-OOD AUROC 89.78, far-OOD AUROC 94.07",
            "OpenOOD v1.5, ResNet-18 + KNN, CIFAR-100: near-OOD AUROC 78.35, far-OOD AUROC 82.29",
        ),
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: NPOSRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        width = num_features_of(backbone)
        self.queues = ClassQueues(num_classes, width, recipe.queue_size)
        self.phi = mlp_head(width, 1)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The three terms' sum, and each of them."""
        recipe = self.recipe
        views = images.shape[1]
        h, z = self.embed(images.flatten(0, 1))  # [B * V, D]
        everyone, own = of_all_processes(self, h.unflatten(0, (-1, views)), labels)
        self.queues.push(everyone.flatten(0, 1), own.repeat_interleave(views))
        z, labels = self.gathered(z.unflatten(0, images.shape[:2]), labels)
        losses = self.cider(z, labels)
        compactness = losses["compactness"] * recipe.temperature / BASE_TEMPERATURE
        losses["loss"] = (
            recipe.dispersion_weight * losses["dispersion"]
            + recipe.compactness_weight * compactness
        )
        if self.current_epoch >= recipe.start_epoch and self.queues.full:
            outliers = self.outliers().to(h)
            told_apart = self.told_apart(h, outliers, self.trainer.world_size)
            losses["loss"] = losses["loss"] + recipe.loss_weight * told_apart
            losses["outliers"] = told_apart.detach()
        return losses

    @torch.no_grad()
    def outliers(self) -> Tensor:
        """Outliers of all classes, ``[C * pick_nums * per_point, D]``."""
        recipe, samples = self.recipe, self.queues.samples
        steps = torch.randn(recipe.sample_from, samples.shape[2], device=samples.device)
        steps = recipe.sigma * steps.to(precise(samples.device))
        drawn = []
        for queue in samples:
            h = queue.to(steps)
            farthest = boundary(h, recipe.k, recipe.select)
            order = torch.randperm(len(farthest))[: recipe.pick_nums].to(h.device)
            drawn.append(around(h, farthest[order], steps, recipe.k, recipe.per_point))
        return torch.cat(drawn)

    def told_apart(self, h: Tensor, outliers: Tensor, processes: int = 1) -> Tensor:
        """Binary cross-entropy of ID features ``[N, D]`` (1) and outliers ``[M, D]`` (0).

        Of several processes each has ID features of its own, and the same outliers.
        """
        logits = self.phi(torch.cat([h, outliers]))[:, 0]
        is_id = torch.zeros_like(logits)
        is_id[: len(h)] = 1
        losses = F.binary_cross_entropy_with_logits(logits, is_id, reduction="none")
        return shared_mean(losses[: len(h)], losses[len(h) :], processes)
