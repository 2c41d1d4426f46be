r"""Mahalanobis++: Mahalanobis distances, plain and relative, of features on the unit sphere.

Paper: M. Mueller, M. Hein, "Mahalanobis++: Improving OOD Detection via Feature Normalization", ICML
2025. arXiv:2505.18032
Code:  mueller-mp/maha-norm, written anew from the paper

With :math:`u = f / \lVert f \rVert_2` for training and test alike, the means :math:`\mu_c` of u by
true class (not normalised again), and :math:`\mu_0, \Sigma_0` the mean and covariance of all u:

.. math:: d^2(u) = \min_c (u - \mu_c)^\top \Sigma^{+} (u - \mu_c), \quad
    \Sigma = \tfrac1N \sum_i (u_i - \mu_{y_i})(u_i - \mu_{y_i})^\top

.. math:: s_{\text{MDS++}}(x) = d^2(u), \quad
    s_{\text{RMDS++}}(x) = d^2(u) - (u - \mu_0)^\top \Sigma_0^{+} (u - \mu_0)

Covariances are biased (over N) and inverted by pseudo-inverse, as scikit-learn's
``EmpiricalCovariance`` does. ReweightOOD scores its networks by MDS++ as well.

Differs from the reference code: (1) the relative form normalises everywhere; the paper's NINCO code
mixes statistics of raw features with normalised ones where it reads a cached file. There is no
shrinkage by default, unlike ``mahalanobis``: the paper's figures are of the plain covariance. With
fewer than 2 D samples choose ``shrinkage=auto`` (why stands in ``_covariance.py``).
Checked against: scikit-learn's ``EmpiricalCovariance`` and the formula, sample by sample in NumPy
(tests/detectors/test_mahalanobis_pp.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._covariance import Shrinkage, covariance, precision
from ._numerics import in_blocks, moments, normalize, pseudo_inverse, squared_mahalanobis
from .rmds import overall

_PAPER = Paper(
    title="Mahalanobis++: Improving OOD Detection via Feature Normalization",
    authors="Mueller, Maximilian and Hein, Matthias",
    venue="ICML",
    year=2025,
    url="https://arxiv.org/abs/2505.18032",
    formula="s(x) = min_c (u - mu_c)^T S^+ (u - mu_c), u = f/|f|",
)


@register_detector("mahalanobis-pp")
@dataclass
class MahalanobisPP(Detector):
    """Mahalanobis distance of normalised features to the nearest class. Higher = more OOD.

    Range [0, inf).

    Args:
        shrinkage: of the covariance: ``"none"`` (the paper), ``"ledoit-wolf"``, ``"oas"``, or
            ``"auto"``, which is Ledoit-Wolf where N < 2 D and none otherwise.

    Raises:
        BadScoresError: a class below the highest label has no training sample, or NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    paper: ClassVar[Paper | None] = _PAPER

    shrinkage: Shrinkage = "none"
    means_: Tensor = learned()  # [C, D]
    precision_: Tensor = learned()  # [D, D]

    def fit(self, train: Outputs) -> Self:
        """Class means and the shared covariance of normalised features ``[N, D]``."""
        classes = int(train.labels.max()) + 1
        stats = moments(train, self.label, groups=classes, transform=normalize)
        self.means_ = stats.means
        self.precision_ = precision(train, stats, self.label, self.shrinkage, normalize)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""

        def nearest(f: Tensor) -> Tensor:
            u = normalize(f)
            return squared_mahalanobis(u, self.means_.to(u), self.precision_.to(u)).amin(dim=1)

        return in_blocks(outputs, nearest, "features", exact=True)


@register_detector("rmds-pp")
@dataclass
class RMDSPP(Detector):
    """Relative Mahalanobis distance of normalised features. Higher = more OOD; unbounded.

    Args:
        shrinkage: of the covariance within classes, as for ``mahalanobis-pp``; what it adds is
            added to the overall covariance too, as ``rmds`` does.

    Raises:
        BadScoresError: a class below the highest label has no training sample, or NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    paper: ClassVar[Paper | None] = replace(
        _PAPER,
        formula="s(x) = min_c d_c(u) - d_0(u), u = f/|f|, by class and overall",
    )

    shrinkage: Shrinkage = "none"
    means_: Tensor = learned()  # [C + 1, D], the overall mean last
    precision_: Tensor = learned()  # [D, D], within classes
    overall_precision_: Tensor = learned()  # [D, D]

    def fit(self, train: Outputs) -> Self:
        """Class and overall moments of normalised features ``[N, D]``."""
        classes = int(train.labels.max()) + 1
        within = moments(train, self.label, groups=classes, transform=normalize)
        whole = overall(within)
        self.means_ = torch.cat([within.means, whole.means])
        n = whole.counts.sum()
        shrunk = covariance(train, within, self.label, self.shrinkage, normalize)
        added = shrunk - within.scatter / n
        self.precision_ = pseudo_inverse(shrunk)
        self.overall_precision_ = pseudo_inverse(whole.scatter / n + added)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""

        def relative(f: Tensor) -> Tensor:
            u = normalize(f)
            means = self.means_.to(u)
            of_class = squared_mahalanobis(u, means[:-1], self.precision_.to(u)).amin(dim=1)
            of_all = squared_mahalanobis(u, means[-1:], self.overall_precision_.to(u))[:, 0]
            return of_class - of_all

        return in_blocks(outputs, relative, "features", exact=True)
