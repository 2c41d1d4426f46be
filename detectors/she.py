r"""SHE: simplified Hopfield energy, the inner product with the predicted class's stored pattern.

Paper: J. Zhang et al., "Out-of-Distribution Detection based on In-Distribution Data Patterns
Memorization with Modern Hopfield Energy", ICLR 2023. OpenReview KkazG4lgKL

.. math:: s(x) = -\langle z, \mu_{\hat y(x)} \rangle

with :math:`\mu_c` the mean feature of correctly classified training samples of class c.

Differs from the reference code: (1) a class without a correctly classified sample stores the mean
of all its samples (the code's mean would be NaN; pytorch-ood raises).
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Detector, learned
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._figures import openood
from ._numerics import blocks, in_blocks, precise, require_all_classes


@register_detector("she")
@dataclass
class SHE(Detector):
    """Minus the likeness to the predicted class's pattern. Higher = more OOD; unbounded.

    Args:
        metric: likeness: ``"inner_product"`` (the paper), ``"cosine"`` (range [-1, 1]), or
            ``"euclidean"`` (minus the distance), as OpenOOD offers.

    Raises:
        BadScoresError: a class without a training sample, or NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits"})
    grid: ClassVar = {"metric": ("inner_product", "cosine", "euclidean")}
    paper: ClassVar[Paper | None] = Paper(
        title="Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization "
        "with Modern Hopfield Energy",
        authors="Zhang, Jinsong and Fu, Qiang and Chen, Xu and others",
        venue="ICLR",
        year=2023,
        url="https://openreview.net/forum?id=KkazG4lgKL",
        formula="s(x) = -<z, mean feature of the predicted class>",
        figures=openood((81.54, 85.32), (78.95, 76.92)),
    )

    metric: Literal["inner_product", "cosine", "euclidean"] = "inner_product"
    patterns_: Tensor = learned()  # [C, D]

    def fit(self, train: Outputs) -> Self:
        """Mean feature ``[D]`` of each class's correctly classified samples, in one pass."""
        classes, width = train.logits.shape[1], train.features.shape[1]
        device = train.features.device
        sums = torch.zeros(2, classes, width, dtype=precise(device), device=device)
        counts = sums.new_zeros(2, classes)  # of all samples, and of the correct ones
        for batch in blocks(train, "features"):
            z = batch.features.to(sums)
            y, correct = batch.labels, batch.logits.argmax(dim=1) == batch.labels
            sums[0].index_add_(0, y, z)
            sums[1].index_add_(0, y[correct], z[correct])
            counts[0] += torch.bincount(y, minlength=classes)
            counts[1] += torch.bincount(y[correct], minlength=classes)
        require_all_classes(counts[0], "she")
        which = (counts[1] > 0).long()
        index = torch.arange(classes, device=device)
        self.patterns_ = sums[which, index] / counts[which, index][:, None]
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""

        def unlikeness(z: Tensor, f: Tensor) -> Tensor:
            pattern = self.patterns_.to(z)[f.argmax(dim=1)]
            if self.metric == "euclidean":
                return (z - pattern).norm(dim=1)
            if self.metric == "cosine":
                return -F.cosine_similarity(z, pattern)
            return -(z * pattern).sum(dim=1)

        return in_blocks(outputs, unlikeness, "features", "logits")
