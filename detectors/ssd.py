r"""SSD: Mahalanobis distance of normalised features to one Gaussian, or to one per class.

Paper: V. Sehwag, M. Chiang, P. Mittal, "SSD: A Unified Framework for Self-Supervised Outlier
Detection", ICLR 2021. arXiv:2103.12051

.. math:: s(x) = \min_m (z - \mu_m)^\top \Sigma_m^{+} (z - \mu_m), \quad z = f(x) / \|f(x)\|_2

with one Gaussian over all training features (the paper's choice), or one per class.

Differs from the paper: (1) clusters are all samples or the classes; the paper also tries k-means
with m > 1 and finds m = 1 best; (2) a pseudo-inverse; (3) fewer than 2 D samples give a
shrunk covariance (``shrinkage``; why and how stands in ``_covariance.py``).
Checked against: the formula, sample by sample, in NumPy (tests/detectors/test_ssd.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._covariance import Shrinkage, precision, shrunk_each
from ._numerics import (
    class_moments,
    in_blocks,
    moments,
    normalize,
    pseudo_inverse,
    squared_mahalanobis_each,
)


@register_detector("ssd")
@dataclass
class SSD(Detector):
    """Mahalanobis distance of normalised features. Higher = more OOD; range [0, inf).

    Args:
        clusters: ``"one"`` Gaussian over all training features, or one for each of the
            ``"classes"`` with a covariance of its own (``[C, D, D]`` in memory).
        shrinkage: of the covariances: ``"ledoit-wolf"``, ``"oas"``, ``"none"``, or ``"auto"``,
            which is Ledoit-Wolf where N < 2 D (of a class, where each has its own), none otherwise.

    Raises:
        BadScoresError: a class without a training sample (by classes), or NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    grid: ClassVar = {"clusters": ("one", "classes")}
    paper: ClassVar[Paper | None] = Paper(
        title="SSD: A Unified Framework for Self-Supervised Outlier Detection",
        authors="Sehwag, Vikash and Chiang, Mung and Mittal, Prateek",
        venue="ICLR",
        year=2021,
        url="https://arxiv.org/abs/2103.12051",
        formula="s(x) = min_m (z - mu_m)^T S_m^+ (z - mu_m), z = f(x)/|f(x)|",
    )

    clusters: Literal["one", "classes"] = "one"
    shrinkage: Shrinkage = "auto"
    means_: Tensor = learned()  # [m, D]
    precisions_: Tensor = learned()  # [m, D, D]

    def fit(self, train: Outputs) -> Self:
        """Means and covariances of normalised features ``[N, D]``, in one pass or two."""
        if self.clusters == "one":
            stats = moments(train, "ssd", transform=normalize)
            self.means_ = stats.means
            self.precisions_ = precision(train, stats, "ssd", self.shrinkage, normalize)[None]
            return self
        classes = int(train.labels.max()) + 1
        counts, self.means_, scatter = class_moments(train, "ssd", classes, normalize)
        covariances = shrunk_each(
            train,
            counts,
            self.means_,
            scatter / counts[:, None, None],
            "ssd",
            self.shrinkage,
            normalize,
        )
        self.precisions_ = pseudo_inverse(covariances)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""

        def nearest(features: Tensor) -> Tensor:
            z = normalize(features)
            means, precisions = self.means_.to(z), self.precisions_.to(z)
            return squared_mahalanobis_each(z, means, precisions).amin(dim=1)

        return in_blocks(outputs, nearest, "features", exact=True)
