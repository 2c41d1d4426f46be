r"""Mahalanobis distances in several layers of the network, summed.

Paper: K. Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks", NeurIPS 2018. arXiv:1807.03888

With :math:`f_l` the spatial mean of the map of layer l, its means :math:`\mu_{lc}` by class and the
scatter within classes (not divided by N, as in pytorch-ood):

.. math:: M_l(x) = \tfrac12 \min_c (f_l - \mu_{lc})^\top \bigl(S_l + 10^{-6} I\bigr)^{-1}
    (f_l - \mu_{lc}), \quad s(x) = \sum_l \alpha_l M_l(x)

Differs from the paper: (1) no input perturbation (``mahalanobis-odin`` has it); (2) the weights
:math:`\alpha_l` are 1 unless given: the paper fits them by logistic regression on OOD samples; (3)
the scatter is not divided by N, which alters no order, as it is the same in all layers; (4) it has
1e-6 on its diagonal, where the paper's code takes a pseudo-inverse.
Checked against: pytorch-ood 0.4.0, and the formula sample by sample in NumPy
(tests/detectors/test_multi_mahalanobis.py).
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

from ._network import hooked, modules_of, stage_maps
from ._numerics import Moments, merged, precise, require_all_classes, squared_mahalanobis
from .mahalanobis import PAPER

RIDGE = 1e-6
"""What is added to the diagonal of a scatter, so that dead channels do no harm."""


def inverse_scatter(stats: Moments) -> Tensor:
    """``(S + 1e-6 I)^-1`` ``[D, D]`` of the scatter within classes."""
    identity = torch.eye(len(stats.scatter), dtype=stats.scatter.dtype, device=stats.scatter.device)
    return torch.linalg.inv(stats.scatter + RIDGE * identity)


@register_detector("multi-mahalanobis")
@dataclass
class MultiMahalanobis(Detector):
    """Sum over layers of half the squared Mahalanobis distance. Higher = more OOD; range [0, inf).

    One forward pass; keeps the moments of the layers' pooled maps.

    Args:
        layers: modules whose maps are read; empty for the last of each size, the stages' ends.
        alpha: weight of each layer, in the order of ``layers``; empty for 1.

    Raises:
        OptionError: the network has no such layer, or weights for another number of layers.
        MissingOutputError: a layer gives no map, or the network no logits.
        BadScoresError: a class without a training sample.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    paper: ClassVar[Paper | None] = replace(
        PAPER,
        figures=(),  # those are of another score
        formula="s(x) = sum_l alpha_l/2 min_c (f_l - mu_lc)^T (S_l + 1e-6 I)^-1 (f_l - mu_lc)",
    )

    layers: tuple[str, ...] = ()
    alpha: tuple[float, ...] = ()
    means_: dict[str, Tensor] = learned()  # [C, D_l] by layer
    precisions_: dict[str, Tensor] = learned()  # [D_l, D_l] by layer

    def __post_init__(self) -> None:
        if self.layers and self.alpha and len(self.layers) != len(self.alpha):
            raise OptionError(
                f"multi-mahalanobis: {len(self.alpha)} weights for {len(self.layers)} layers."
            )

    def _read(
        self, model: nn.Module, images: Tensor, layers: Iterable[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Pooled maps ``[B, D_l]`` by layer, and the logits."""
        pooled: dict[str, Tensor] = {}

        def note(name: str, maps: Tensor) -> None:
            z = maps.to(precise(maps.device))
            pooled[name] = z.flatten(2).mean(dim=2) if z.ndim > 2 else z

        modules = modules_of(model, tuple(layers), "multi-mahalanobis")
        with torch.no_grad(), hooked(modules, note):
            outputs = outputs_of(model)(images)
        if missing := [name for name in modules if name not in pooled]:
            raise MissingOutputError(
                f"multi-mahalanobis: layer {missing[0]} gives no map. Name other layers."
            )
        if "logits" not in outputs:
            raise MissingOutputError("multi-mahalanobis needs a network that gives logits.")
        return pooled, outputs["logits"]

    def fit_batches(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Self:
        """Moments by class of pooled maps of training images, in one pass."""
        stats: dict[str, Moments] = {}
        layers = self.layers
        for images, labels in batches:
            layers = layers or stage_maps(model, images, "multi-mahalanobis")
            pooled, logits = self._read(model, images, layers)
            for name, z in pooled.items():
                stats[name] = merged(stats.get(name), z, labels, logits.shape[1])
        if not stats:
            raise BadScoresError("multi-mahalanobis: fit got no training samples.")
        if self.alpha and len(self.alpha) != len(layers):
            raise OptionError(
                f"multi-mahalanobis: {len(self.alpha)} weights for {len(layers)} layers "
                f"({', '.join(layers)})."
            )
        require_all_classes(next(iter(stats.values())).counts, "multi-mahalanobis")
        self.means_ = {name: stats[name].means for name in layers}
        self.precisions_ = {name: inverse_scatter(stats[name]) for name in layers}
        return self

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        """OOD scores ``[B]`` of inputs ``[B, C, H, W]``."""
        pooled, logits = self._read(model, batch, self.means_)
        total = torch.zeros(len(batch), dtype=precise(batch.device), device=logits.device)
        for name, weight in zip(self.means_, self.alpha or [1.0] * len(pooled), strict=True):
            z = pooled[name]
            means, precision = self.means_[name].to(z), self.precisions_[name].to(z)
            total += weight / 2 * squared_mahalanobis(z, means, precision).amin(dim=1)
        return total
