r"""kNN: distance to the k-th nearest training feature.

Paper: Y. Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022.
arXiv:2204.06507
Code:  deeplearning-wisc/knn-ood; written anew from the paper

.. math:: s(x) = \lVert z - z_{(k)} \rVert_2, \quad z = f(x) / \lVert f(x) \rVert_2

with :math:`z_{(k)}` the k-th nearest of the normalised training features.

Differs from the reference code: (1) the epsilon is added to the norm, not to the quotient, so that
a zero feature has a score; (2) the distance, not its square (same order).
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._neighbours import MANY, Kept, bank_of, check_k, half_squares, kth_neighbour_distance
from ._numerics import blocks, normalize


@register_detector("knn")
@dataclass
class KNN(Detector):
    """Distance to the k-th nearest training feature. Higher = more OOD; range [0, 2].

    Does not stream: it keeps the (normalised) training features, ``[N, D]`` float32; of features in
    half precision these as they came, from which the bank is made anew in each call. Warns where k
    is more than the smallest class has. The paper's alpha, the share of the training images that
    are kept (1 % of ImageNet's, with k = 10), is an evaluation's ``fit_on`` (``--fit-on 0.01``),
    which any detector takes; k is then of those that are kept.

    Args:
        k: which neighbour; 50 for CIFAR-10, 200 for CIFAR-100, 1000 for ImageNet in the paper.
        normalize: whether features are divided by their L2 norm.

    Raises:
        OptionError: k below 1, or more than there are training samples.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    grid: ClassVar = {"k": (1, 5, 10, 20, 50, 100, 200, 500, 1000)}
    paper: ClassVar[Paper | None] = Paper(
        title="Out-of-Distribution Detection with Deep Nearest Neighbors",
        authors="Sun, Yiyou and Ming, Yifei and Zhu, Xiaojin and Li, Yixuan",
        venue="ICML",
        year=2022,
        url="https://arxiv.org/abs/2204.06507",
        formula="s(x) = |z - z_(k)|, z = f(x)/|f(x)|, z_(k) its k-th nearest training feature",
        figures=(
            "OpenOOD v1.5, ResNet-18, CIFAR-10: near-OOD AUROC 90.64, far-OOD AUROC 92.96",
            "OpenOOD v1.5, ResNet-18, CIFAR-100: near-OOD AUROC 80.18, far-OOD AUROC 82.40",
        ),
    )

    k: int = 50
    normalize: bool = True
    bank_: Tensor = learned()  # [N, D], prepared unless it is in half precision
    half_: Tensor = learned()  # [N]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise OptionError(f"knn: k must be at least 1, not {self.k}.")

    def _prepare(self, features: Tensor) -> Tensor:
        features = features.to(torch.float32)
        return normalize(features) if self.normalize else features

    def fit(self, train: Outputs) -> Self:
        """Keep the prepared features of ``[N, D]``."""
        check_k(self.k, train.labels, "knn")
        self.bank_ = bank_of(train, self._prepare)
        self.half_ = half_squares(self._bank())
        return self

    def _bank(self) -> Tensor | Kept:
        return Kept.of(self.bank_, self._prepare)

    def graph_score(self, outputs: Outputs) -> Tensor:
        """The distance to the k-th nearest of all training features, in one product."""
        z = self._prepare(outputs.features)
        bank = self._bank()[:]
        nearest = (z @ bank.T + self.half_).topk(self.k, dim=1).indices[:, -1]
        return (z - bank[nearest]).norm(dim=1)

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""
        bank = self._bank()
        parts = [
            kth_neighbour_distance(self._prepare(batch.features), bank, self.k, self.half_)
            for batch in blocks(outputs, "features", least=MANY)
        ]
        return torch.cat(parts) if parts else torch.empty(0)
