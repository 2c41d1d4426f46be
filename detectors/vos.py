r"""VOS: outliers drawn where class-wise Gaussians of features are thin, and energies told apart.

Paper: X. Du, Z. Wang, M. Cai, Y. Li, "VOS: Learning What You Don't Know by Virtual Outlier
Synthesis", ICLR 2022, section 3, equations 2 to 6. arXiv:2202.01197
Code:  deeplearning-wisc/vos; OpenOOD @ 3c35632; written anew from the definition

Each class keeps its latest L penultimate features :math:`h_i` in a queue. With its mean
:math:`\hat\mu_c` and the covariance that all classes share,

.. math::
    \hat\Sigma = \frac{1}{N} \sum_c \sum_{i: y_i = c} (h_i - \hat\mu_c)(h_i - \hat\mu_c)^\top +
    10^{-4} I

:math:`n` features are drawn from :math:`\mathcal{N}(\hat\mu_c, \hat\Sigma)` for each class c, and
the t of lowest density are its virtual outliers v. The density of :math:`\hat\mu + L \epsilon`
falls with :math:`\lVert \epsilon \rVert`, so the t draws of the largest norm are taken. With
logits f and learned weights w, the free energy

.. math:: E(x) = -\log \sum_c \max(w_c, 0) \, e^{f_c(x)}

is told apart by a logistic regression :math:`\phi` of two outputs:

.. math:: L = \mathrm{CE}(f(x), y) + \beta \, \mathrm{CE}(\phi(-E), [1 \text{ of ID}, 0 \text{ of }
    v])

From ``start_epoch`` on, once all queues are full. No set of outliers is needed. The score is
energy; ``weighted-energy`` takes the weights that were learned (``VOS.weights``).

Recipe ``published`` is the authors' for CIFAR: L 1000, n 10000, t 1, beta 0.1, from epoch 40 of
100.

Differs from the reference code: (1) queues hold the latest features from the start, theirs the
first L until all are full; (2) the sum in E is at least the smallest positive number, as all
weights could become negative; (3) the weights start uniform in [0, 1) as the authors' do and are
learned, OpenOOD draws them anew at every call, and gives energies no gradient; (4) the last
checkpoint is kept; (5) with several processes queues hold the features of all; (6) epochs count
from 0; OpenOOD's from 1, so that its ``start_epoch`` 40 is 39 here.
Checked against: torch's multivariate normal, and the loss term by term.
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

from ._numerics import at_work, precise
from ._outliers import check_positive
from ._queues import ClassQueues, of_all_processes, shared_mean
from .ce import CrossEntropy

RIDGE = 1e-4
"""What is added to the diagonal of the covariance."""


def gaussians(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Class means ``[C, D]`` and the shared covariance ``[D, D]`` of features ``[C, L, D]``."""
    means = samples.mean(dim=1)
    centred = (samples - means[:, None]).flatten(0, 1)
    covariance = centred.T @ centred / len(centred)
    return means, covariance + RIDGE * torch.eye(len(covariance)).to(covariance)


def least_likely(means: Tensor, covariance: Tensor, noise: Tensor, select: int) -> Tensor:
    """Of draws of each class's Gaussian the ``select`` of lowest density, ``[C * select, D]``.

    Args:
        means: ``[C, D]``.
        covariance: ``[D, D]``, positive definite.
        noise: standard normal, ``[C, n, D]``.
        select: how many of each class.
    """
    farthest = noise.square().sum(dim=2).topk(select, dim=1).indices  # [C, select]
    chosen = noise.gather(1, farthest[..., None].expand(-1, -1, noise.shape[2]))
    return (means[:, None] + chosen @ torch.linalg.cholesky(covariance).T).flatten(0, 1)


def negative_energy(logits: Tensor, weights: Tensor) -> Tensor:
    """``log sum_c max(w_c, 0) exp(f_c)`` of logits ``[N, C]`` and weights ``[C]``, ``[N]``."""
    highest = logits.amax(dim=1, keepdim=True)
    total = ((logits - highest).exp() * weights.relu()).sum(dim=1)
    return highest[:, 0] + total.clamp(min=torch.finfo(total.dtype).tiny).log()


@dataclass(frozen=True)
class VOSRecipe(Recipe):
    """How VOS is trained; the defaults are the authors' for CIFAR.

    Args:
        queue_size: L, features kept of a class.
        sample_from: n, draws for each class and step.
        select: t, how many of them become outliers.
        start_epoch: the first with outliers, from 0, if all queues are full by then.
        loss_weight: beta.
    """

    queue_size: int = 1000
    sample_from: int = 10_000
    select: int = 1
    start_epoch: int = 40
    loss_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "queue_size", "sample_from", "select")
        check_positive(self, "start_epoch", "loss_weight", zero=True)
        if self.select > self.sample_from:
            raise OptionError(
                f"recipe: select ({self.select}) is at most sample_from ({self.sample_from})."
            )


@register_method("vos")
class VOS(CrossEntropy):
    """Cross-entropy, and energies of ID images and of virtual outliers told apart."""

    has_idle_parameters: ClassVar[bool] = True
    recipe: VOSRecipe
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": VOSRecipe(backbone="resnet18-cifar"),
        "quick": VOSRecipe(
            epochs=15, lr=0.1, warmup_epochs=1, queue_size=64, sample_from=1000, start_epoch=5
        ),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="VOS: Learning What You Don't Know by Virtual Outlier Synthesis",
        authors="Du, Xuefeng and Wang, Zhaoning and Cai, Mu and Li, Yixuan",
        venue="ICLR",
        year=2022,
        url="https://arxiv.org/abs/2202.01197",
        formula="L = CE(f, y) + b CE(phi(-E), ID or not), E = -log sum max(w, 0) exp f, outliers "
        "of low density under N(mu_c, Sigma)",
        figures=(
            "OpenOOD v1.5, ResNet-18 + energy, CIFAR-10: near-OOD AUROC 87.70, far-OOD AUROC "
            "90.83, ID accuracy 94.31",
        ),
    )

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: VOSRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.queues = ClassQueues(num_classes, num_features_of(backbone), recipe.queue_size)
        self.weights = nn.Parameter(torch.rand(num_classes))
        self.logistic = nn.Linear(1, 2)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Both terms' sum, that of the outliers where there are any, and the accuracy."""
        h = self.backbone(images[:, 0])
        logits = self.linear(h)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        losses = {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}
        self.queues.push(*of_all_processes(self, h, labels))
        if self.current_epoch < self.recipe.start_epoch or not self.queues.full:
            return losses
        outliers = self.linear(self.outliers().to(h))
        told_apart = self.told_apart(at_work(logits), at_work(outliers), self.trainer.world_size)
        losses["loss"] = losses["loss"] + self.recipe.loss_weight * told_apart
        losses["outliers"] = told_apart.detach()
        return losses

    @torch.no_grad()
    def outliers(self) -> Tensor:
        """Virtual outliers of all classes, ``[C * select, D]``."""
        samples = self.queues.samples.to(precise(self.queues.samples.device))
        means, covariance = gaussians(samples)
        drawn = []
        for mean in means:  # class by class: all draws at once would be gigabytes
            noise = torch.randn(1, self.recipe.sample_from, means.shape[1], device=mean.device)
            noise = noise.to(means)
            drawn.append(least_likely(mean[None], covariance, noise, self.recipe.select))
        return torch.cat(drawn)

    def told_apart(self, logits: Tensor, outliers: Tensor, processes: int = 1) -> Tensor:
        """The logistic regression's loss, of ID logits ``[B, C]`` and outliers' ``[M, C]``.

        Of several processes each has ID logits of its own, and the same outliers.
        """
        both = torch.cat([logits, outliers])
        is_id = torch.ones(len(both), dtype=torch.int64, device=both.device)
        is_id[len(logits) :] = 0
        energies = negative_energy(both, self.weights)[:, None]
        losses = F.cross_entropy(self.logistic(energies), is_id, reduction="none")
        return shared_mean(losses[: len(logits)], losses[len(logits) :], processes)
