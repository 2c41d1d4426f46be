r"""RankFeat: the energy after the largest singular direction of the feature maps is removed.

Paper: Y. Song, N. Sebe, W. Wang, "RankFeat: Rank-1 Feature Removal for Out-of-distribution
Detection", NeurIPS 2022. arXiv:2209.08590

With the last map of a stage as a matrix :math:`X \in R^{C \times HW}`, and
:math:`s_1, u_1, v_1` its first singular value and vectors:

.. math:: X' = X - s_1 u_1 v_1^\top, \quad s(x) = -\log \sum_c \exp \bar f_c

with :math:`\bar f` the mean of the logits for X' in place of X at the last stage, and at the one
before it.

Differs from the reference code: (1) the singular vectors are found by 128 steps of power iteration
(the paper's own acceleration takes 20), made by squaring the smaller of the two Gram matrices seven
times: for maps after a ReLU, whose first singular value stands far apart, that is exact to single
precision; (2) ``layers`` names the maps; by default they are
found by their shapes. pytorch-ood has the last stage alone.
Checked against: pytorch-ood 0.4.0 and torch's SVD (tests/detectors/test_rankfeat.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from oodbench.detector import Detector
from oodbench.errors import OptionError
from oodbench.networks.models import outputs_of
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._figures import openood
from ._network import hooked, last_maps, modules_of
from ._numerics import precise

SQUARINGS = 7
"""Of the smaller Gram matrix: 2**7 = 128 steps of power iteration."""
POLISHING = 2
"""Steps on the maps themselves, for what the squarings lost by rounding."""


def remove_rank_one(maps: Tensor) -> Tensor:
    """``[B, C, H, W]`` without the first singular direction of each ``[C, HW]``."""
    x = maps.flatten(2)
    x = x.float() if x.itemsize < 4 else x
    is_wide = x.shape[1] < x.shape[2]
    m = x @ x.mT if is_wide else x.mT @ x  # [B, M, M], M = min(C, HW)
    for _ in range(SQUARINGS):
        # the largest value of a matrix without negative eigenvalues is on its diagonal
        m /= m.diagonal(dim1=1, dim2=2).amax(dim=1)[:, None, None].clamp(min=1e-30)
        m = m @ m
    # not orthogonal to any direction that matters, and never the same in two places
    start = torch.linspace(1.0, 1.5, m.shape[1], dtype=x.dtype, device=x.device)
    v = _unit(m @ start[:, None].expand(len(x), -1, -1))
    v = _unit(x.mT @ v) if is_wide else v  # [B, HW, 1]
    for _ in range(POLISHING):
        v = _unit(x.mT @ _unit(x @ v))
    return (x - (x @ v) * v.mT).view_as(maps).to(maps)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-20)


@register_detector("rankfeat")
@dataclass
class RankFeat(Detector):
    """Energy without the maps' first singular direction. Higher = more OOD; unbounded.

    One forward pass of the network for each of the layers.

    Args:
        layers: modules whose outputs are changed, one at a time; empty for the last map of the
            network and the last of another shape before it.
        temperature: T > 0 of the energy.

    Raises:
        OptionError: the network has no such layer, or a temperature that is not positive.
        MissingOutputError: the network has no feature maps.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    paper: ClassVar[Paper | None] = Paper(
        title="RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection",
        authors="Song, Yue and Sebe, Nicu and Wang, Wei",
        venue="NeurIPS",
        year=2022,
        url="https://arxiv.org/abs/2209.08590",
        formula="s(x) = energy of the logits of X - s_1 u_1 v_1^T, mean over two stages",
        figures=openood((79.46, 75.87), (61.88, 67.10)),
    )

    layers: tuple[str, ...] = ()
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise OptionError(f"rankfeat: temperature must be positive, not {self.temperature}.")

    @property
    def reads_level(self) -> bool:
        """At T = 1: the score is a log-sum-exp of logits."""
        return self.temperature == 1

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        """OOD scores ``[B]`` of inputs ``[B, C, H, W]``."""
        modules = modules_of(model, self.layers or last_maps(model, batch, "rankfeat"), "rankfeat")
        logits = []
        for name, module in modules.items():
            with torch.no_grad(), hooked({name: module}, lambda _, maps: remove_rank_one(maps)):
                found = outputs_of(model)(batch)["logits"]
                logits.append(found.to(precise(found.device)))
        mean = torch.stack(logits).mean(dim=0) / self.temperature
        return -self.temperature * mean.logsumexp(dim=1)
