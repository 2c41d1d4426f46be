r"""GMM: negative log-likelihood under one Gaussian per class, weighted by the classes' frequencies.

No paper: the class-conditional Gaussians of K. Lee et al. (NeurIPS 2018), each with its own
covariance, as a mixture density. pytorch-ood and OpenOOD have detectors of this name.

.. math:: s(x) = -\log \sum_c \pi_c \mathcal N(z; \mu_c, \Sigma_c + \epsilon I)

Differs from OpenOOD: that fits scikit-learn's mixture with a tied covariance and a given number of
clusters, on several layers and after PCA (``covariance="tied"`` is the nearest here), and leaves
out the determinant. Differs from pytorch-ood: eigenvalues are floored, so that a class with fewer
samples than dimensions is no error; and covariances of few samples are shrunk (``shrinkage``; why
and how stands in ``_covariance.py``).
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._covariance import Shrinkage, covariance, shrunk_each
from ._numerics import (
    at_once,
    class_moments,
    in_blocks,
    moments,
    squared_mahalanobis,
    squared_mahalanobis_each,
)
from .mahalanobis import PAPER


@register_detector("gmm")
@dataclass
class GMM(Detector):
    """Negative log-likelihood of the features. Higher = more OOD; unbounded.

    Args:
        covariance: ``"full"``, one per class (``[C, D, D]`` in memory, twice while it is
            fitted: 1.6 GB for 100 classes of 1,000 features), or ``"tied"``, one for all.
        reg: added to the diagonal, in squared units of the features.
        shrinkage: of the covariances, before that: ``"ledoit-wolf"``, ``"oas"``, ``"none"``, or
            ``"auto"``, which is Ledoit-Wolf where N < 2 D (of a class, where each has its own),
            none otherwise.

    Raises:
        OptionError: reg not positive; or covariances that take more memory than is free.
        BadScoresError: a class below the highest label has no training sample, or NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    grid: ClassVar = {"covariance": ("full", "tied"), "reg": (1e-6, 1e-4, 1e-2)}
    paper: ClassVar[Paper | None] = dataclasses.replace(
        PAPER, formula="s(x) = -log sum_c pi_c N(z; mu_c, S_c + reg I)", figures=()
    )

    covariance: Literal["full", "tied"] = "full"
    reg: float = 1e-6
    shrinkage: Shrinkage = "auto"
    means_: Tensor = learned()  # [C, D]
    precisions_: Tensor = learned()  # [C or 1, D, D]
    log_weight_: Tensor = learned()  # [C], log of prior and normaliser

    def __post_init__(self) -> None:
        if not self.reg > 0:
            raise OptionError(f"gmm: reg must be positive, not {self.reg}.")

    def fit(self, train: Outputs) -> Self:
        """Means, covariances and priors of features ``[N, D]``, in one pass or two."""
        classes = int(train.labels.max()) + 1
        if self.covariance == "full":
            counts, self.means_, scatter = class_moments(train, "gmm", classes)
            scatter.div_(counts[:, None, None])
            covariances = shrunk_each(train, counts, self.means_, scatter, "gmm", self.shrinkage)
        else:
            stats = moments(train, "gmm", groups=classes)
            counts, self.means_ = stats.counts, stats.means
            covariances = covariance(train, stats, "gmm", self.shrinkage)[None]
        dim = self.means_.shape[1]
        covariances.diagonal(dim1=1, dim2=2).add_(self.reg)
        parts = covariances.split(at_once(dim))
        log_determinant = torch.cat([self._invert(part) for part in parts])
        self.precisions_ = covariances
        normaliser = -0.5 * (log_determinant + dim * math.log(2 * math.pi))
        self.log_weight_ = (counts / counts.sum()).log() + normaliser
        return self

    def _invert(self, covariances: Tensor) -> Tensor:
        """Puts the inverse of each ``[G, D, D]`` in its place; gives their log-determinants."""
        factor, failed = torch.linalg.cholesky_ex(covariances)
        if failed.any():  # rounding made a singular one indefinite
            values, vectors = torch.linalg.eigh(covariances)
            values = values.clamp(min=self.reg)
            torch.matmul(vectors / values[:, None, :], vectors.mT, out=covariances)
            return values.log().sum(dim=1)
        covariances.copy_(torch.cholesky_inverse(factor))
        return 2 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""

        def negative_log_likelihood(z: Tensor) -> Tensor:
            means, precisions = self.means_.to(z), self.precisions_.to(z)
            if len(precisions) == 1:
                squared = squared_mahalanobis(z, means, precisions[0])
            else:
                squared = squared_mahalanobis_each(z, means, precisions)
            return -(self.log_weight_.to(z) - squared / 2).logsumexp(dim=1)

        return in_blocks(outputs, negative_log_likelihood, "features", exact=True)
