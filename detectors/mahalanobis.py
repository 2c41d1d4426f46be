r"""Mahalanobis: distance to the nearest class mean under a shared covariance.

Paper: K. Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks", NeurIPS 2018. arXiv:1807.03888

.. math:: s(x) = \min_c (z - \mu_c)^\top \Sigma^{+} (z - \mu_c), \quad
    \Sigma = \tfrac{1}{N} \sum_i (z_i - \mu_{y_i})(z_i - \mu_{y_i})^\top

Differs from the reference code: (1) penultimate features alone, no input perturbation and no
ensemble over layers (OpenOOD's ``mds`` does the same); (2) a pseudo-inverse, so that dead features
do no harm; (3) fewer than 2 D samples give a shrunk covariance (``shrinkage``; why and how stands
in ``_covariance.py``), theirs is singular below D.
Checked against: pytorch-ood 0.4.0, whose score is N/2 times ours (tests/detectors/test_parity.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._covariance import Shrinkage, precision
from ._numerics import in_blocks, moments, squared_mahalanobis

PAPER = Paper(
    title="A Simple Unified Framework for Detecting Out-of-Distribution Samples and "
    "Adversarial Attacks",
    authors="Lee, Kimin and Lee, Kibok and Lee, Honglak and Shin, Jinwoo",
    venue="NeurIPS",
    year=2018,
    url="https://arxiv.org/abs/1807.03888",
    formula="s(x) = min_c (z - mu_c)^T S^+ (z - mu_c), S shared by the classes",
    figures=(
        "OpenOOD v1.5, ResNet-18, CIFAR-10: near-OOD AUROC 84.20, far-OOD AUROC 89.72",
        "OpenOOD v1.5, ResNet-18, CIFAR-100: near-OOD AUROC 58.69, far-OOD AUROC 69.39",
    ),
)


@register_detector("mahalanobis")
@dataclass
class Mahalanobis(Detector):
    """Squared Mahalanobis distance to the nearest class mean. Higher = more OOD; range [0, inf).

    Args:
        shrinkage: of the covariance: ``"ledoit-wolf"``, ``"oas"``, ``"none"``, or ``"auto"``,
            which is Ledoit-Wolf where N < 2 D and none otherwise.

    Raises:
        BadScoresError: a class below the highest label has no training sample, or NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    paper: ClassVar[Paper | None] = PAPER

    shrinkage: Shrinkage = "auto"
    means_: Tensor = learned()  # [C, D]
    precision_: Tensor = learned()  # [D, D]

    def fit(self, train: Outputs) -> Self:
        """Class means and the shared covariance of features ``[N, D]``, in one pass or two."""
        stats = moments(train, "mahalanobis", groups=int(train.labels.max()) + 1)
        self.means_ = stats.means
        self.precision_ = precision(train, stats, "mahalanobis", self.shrinkage)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""
        means, precision = self.means_, self.precision_

        def nearest(z: Tensor) -> Tensor:
            return squared_mahalanobis(z, means.to(z), precision.to(z)).amin(dim=1)

        return in_blocks(outputs, nearest, "features", exact=True)
