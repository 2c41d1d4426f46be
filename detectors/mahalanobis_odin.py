r"""Mahalanobis distance after a small step towards the nearest class.

Paper: K. Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks", NeurIPS 2018. arXiv:1807.03888

With the nearest class mean :math:`\mu_{c^*}` of a sample's features f and the scatter S within
classes (not divided by N, as in pytorch-ood):

.. math:: M(x) = \tfrac12 \min_c (f - \mu_c)^\top \bigl(S + 10^{-6} I\bigr)^{-1} (f - \mu_c), \quad
    \tilde x = x - \varepsilon \operatorname{sign}(\nabla_x M(x)) / \sigma, \quad
    s(x) = M(\tilde x)

with :math:`\sigma` the deviation that each channel was divided by, where the preprocessing tells,
and the step taken towards the nearest mean of x; that of :math:`\tilde x` may be another.

Differs from the paper: (1) penultimate features alone (``multi-mahalanobis`` sums layers); (2) the
scatter is not divided by N, which alters no order, and has 1e-6 on its diagonal, where the paper's
code takes a pseudo-inverse.
Checked against: pytorch-ood 0.4.0, and the formula on a linear network by hand
(tests/detectors/test_mahalanobis_odin.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from oodbench.detector import Detector, learned
from oodbench.errors import BadScoresError, MissingOutputError, OptionError
from oodbench.networks.models import outputs_of
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._network import input_std
from ._numerics import Moments, merged, precise, require_all_classes, squared_mahalanobis
from .mahalanobis import PAPER
from .multi_mahalanobis import inverse_scatter
from .odin import AT_ONCE


@register_detector("mahalanobis-odin")
@dataclass
class MahalanobisODIN(Detector):
    """Half the squared Mahalanobis distance after the step. Higher = more OOD; range [0, inf).

    Two forward passes and one backward pass per sample.

    Args:
        noise: epsilon, in pixel values of [0, 1]; the paper chooses on OOD data among the values of
            the grid, pytorch-ood takes 0.002.

    Raises:
        OptionError: a negative noise.
        MissingOutputError: the network gives no features or no logits.
        BadScoresError: a class without a training sample.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    grid: ClassVar = {"noise": (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.005, 0.01)}
    paper: ClassVar[Paper | None] = replace(
        PAPER,
        figures=(),  # those are of another score
        formula="s(x) = M(x - eps sign(grad M(x))), M = 1/2 min_c (f - mu_c)^T S^-1 (f - mu_c)",
    )

    noise: float = 0.002
    means_: Tensor = learned()  # [C, D]
    precision_: Tensor = learned()  # [D, D]

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise OptionError(f"mahalanobis-odin: noise must not be negative, but is {self.noise}.")

    def _features(self, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = outputs_of(model)(images)
        if missing := [name for name in ("features", "logits") if name not in outputs]:
            raise MissingOutputError(
                f"mahalanobis-odin needs a network that gives features and logits; {missing[0]} "
                "are not there. Choose another detector."
            )
        z = outputs["features"]
        return z.to(precise(z.device)), outputs["logits"]

    def fit_batches(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Self:
        """Class means and scatter of the features of training images, in one pass."""
        stats: Moments | None = None
        for images, labels in batches:
            with torch.no_grad():
                z, logits = self._features(model, images)
            stats = merged(stats, z, labels, logits.shape[1])
        if stats is None:
            raise BadScoresError("mahalanobis-odin: fit got no training samples.")
        require_all_classes(stats.counts, "mahalanobis-odin")
        self.means_, self.precision_ = stats.means, inverse_scatter(stats)
        return self

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        """OOD scores ``[B]`` of inputs ``[B, C, H, W]``."""
        images = max(1, AT_ONCE * len(batch) // batch.numel())
        return torch.cat([self._scores(model, part) for part in batch.split(images)])

    def _scores(self, model: nn.Module, batch: Tensor) -> Tensor:
        # a caller may have switched gradients off, in either way
        with torch.inference_mode(mode=False), torch.enable_grad():
            x = batch.detach().clone().requires_grad_()
            z, _ = self._features(model, x)
            means, precision = self.means_.to(z), self.precision_.to(z)
            with torch.no_grad():
                nearest = squared_mahalanobis(z, means, precision).argmin(dim=1)
            away = z - means[nearest]
            distance = ((away @ precision) * away).sum()
            (gradient,) = torch.autograd.grad(distance, x)
        with torch.no_grad():
            stepped = batch - self.noise * gradient.sign() / input_std(model, batch)
            z, _ = self._features(model, stepped)
            return squared_mahalanobis(z, means, precision).amin(dim=1) / 2
