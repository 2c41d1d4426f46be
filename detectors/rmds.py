r"""RMDS: Mahalanobis distance to the nearest class, relative to that of all classes together.

Paper: J. Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection",
2021. arXiv:2106.09022

.. math:: s(x) = \min_c \bigl[ d_c(z) - d_0(z) \bigr]

with :math:`d_c` the squared Mahalanobis distance to class mean :math:`\mu_c` under the covariance
within classes, and :math:`d_0` that to the overall mean under the overall covariance.

Differs from the reference code: (1) pseudo-inverses, so that dead features do no harm; (2) fewer
than 2 D samples give a shrunk covariance within classes (``shrinkage``; why and how stands in
``_covariance.py``), to which the scatter of the class means is added for the overall one: what no
class tells apart counts the same in both distances, and cancels.
Checked against: pytorch-ood 0.4.0, whose scatters are not divided by N
(tests/detectors/test_parity.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._covariance import Shrinkage, covariance
from ._figures import openood
from ._numerics import Moments, in_blocks, moments, pseudo_inverse, squared_mahalanobis


def overall(stats: Moments) -> Moments:
    """Moments of all groups as one: scatter within them plus scatter of their means."""
    n = stats.counts.sum()
    mean = (stats.counts[:, None] * stats.means).sum(dim=0, keepdim=True) / n
    centred = stats.means - mean
    between = centred.T @ (stats.counts[:, None] * centred)
    return Moments(n[None], mean, stats.scatter + between)


@register_detector("rmds")
@dataclass
class RMDS(Detector):
    """Relative Mahalanobis distance. Higher = more OOD; unbounded.

    Args:
        shrinkage: of the covariance within classes: ``"ledoit-wolf"``, ``"oas"``, ``"none"``, or
            ``"auto"``, which is Ledoit-Wolf where N < 2 D and none otherwise.

    Raises:
        BadScoresError: a class below the highest label has no training sample, or NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    paper: ClassVar[Paper | None] = Paper(
        title="A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection",
        authors="Ren, Jie and Fort, Stanislav and Liu, Jeremiah and others",
        venue="arXiv",
        year=2021,
        url="https://arxiv.org/abs/2106.09022",
        formula="s(x) = min_c d_c(z) - d_0(z), Mahalanobis distances by class and overall",
        figures=openood((89.80, 92.20), (80.15, 82.92)),
    )

    shrinkage: Shrinkage = "auto"
    means_: Tensor = learned()  # [C + 1, D], the overall mean last
    precision_: Tensor = learned()  # [D, D], within classes
    overall_precision_: Tensor = learned()  # [D, D]

    def fit(self, train: Outputs) -> Self:
        """Class and overall moments of features ``[N, D]``, in one pass or two."""
        within = moments(train, "rmds", groups=int(train.labels.max()) + 1)
        whole = overall(within)
        self.means_ = torch.cat([within.means, whole.means])
        shrunk = covariance(train, within, "rmds", self.shrinkage)
        n = whole.counts.sum()
        added = shrunk - within.scatter / n  # zero, to the bit, where nothing is shrunk
        self.precision_ = pseudo_inverse(shrunk)
        self.overall_precision_ = pseudo_inverse(whole.scatter / n + added)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""

        def relative(z: Tensor) -> Tensor:
            means = self.means_.to(z)
            to_class = squared_mahalanobis(z, means[:-1], self.precision_.to(z)).amin(dim=1)
            to_all = squared_mahalanobis(z, means[-1:], self.overall_precision_.to(z))[:, 0]
            return to_class - to_all

        return in_blocks(outputs, relative, "features", exact=True)
