r"""Relation: how strongly a sample is tied to the training set, in feature and in prediction.

Paper: J.-H. Kim, S. Yun, H. O. Song, "Neural Relation Graph: A Unified Framework for Identifying
Label Noise and Outlier Data", NeurIPS 2023. arXiv:2301.12321

.. math:: s(x) = -\sum_i r_i^{\,t} \, [r_i > \tau], \quad
    r_i = \max(\cos(z, z_i), 0) \, \langle p(x), p(x_i) \rangle

over all training samples.

Differs from the reference code: (1) the epsilon is added to the norm, not below the root.
Checked against: the formula, in NumPy (tests/test_posthoc.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Detector, Paper, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.registry import register_detector

from ._figures import openood
from ._numerics import blocks, normalize, require_finite

QUERIES, ROWS = 512, 8192


@register_detector("relation")
@dataclass
class Relation(Detector):
    """Minus the sum of relations to the training samples. Higher = more OOD; range [-N, 0].

    Does not stream: it keeps normalised features and probabilities, ``[N, D]`` and ``[N, C]``
    float32.

    Args:
        power: t, in (0, inf).
        threshold: tau, in [0, 1); relations up to it count as none.

    Raises:
        OptionError: power or threshold outside their ranges.
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits"})
    grid: ClassVar = {"power": (1.0, 2.0, 4.0, 6.0, 8.0)}
    paper: ClassVar[Paper | None] = Paper(
        title="Neural Relation Graph: A Unified Framework for Identifying Label Noise and Outlier "
        "Data",
        authors="Kim, Jang-Hyun and Yun, Sangdoo and Song, Hyun Oh",
        venue="NeurIPS",
        year=2023,
        url="https://arxiv.org/abs/2301.12321",
        formula="s(x) = -sum_i (max(cos(z, z_i), 0) <p, p_i>)^t over training samples above tau",
        figures=openood((89.77, 92.21), (80.67, 80.82)),
    )

    power: float = 1.0
    threshold: float = 0.03
    bank_: Tensor = learned()  # [N, D]
    probabilities_: Tensor = learned()  # [N, C]

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise OptionError(f"relation: power must be positive, not {self.power}.")
        if not 0 <= self.threshold < 1:
            raise OptionError(f"relation: threshold must be in [0, 1), not {self.threshold}.")

    def fit(self, train: Outputs) -> Self:
        """Keep normalised features of ``[N, D]`` and probabilities of ``[N, C]``."""
        batches = list(blocks(train, "features"))
        self.bank_ = torch.cat(
            [normalize(require_finite(b.features, "relation").float()) for b in batches]
        )
        self.probabilities_ = torch.cat([b.logits.float().softmax(dim=1) for b in batches])
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""
        bank, probabilities = self.bank_, self.probabilities_
        first, second = bank.new_empty(2, QUERIES * ROWS)
        parts = [torch.empty(0, dtype=torch.float64)]
        for batch in outputs.batches(QUERIES):
            z, p = normalize(batch.features.float()), batch.logits.float().softmax(dim=1)
            total = torch.zeros(len(z), dtype=torch.float64, device=z.device)
            for start in range(0, len(bank), ROWS):
                near, alike = bank[start : start + ROWS].to(z), probabilities[start : start + ROWS]
                size = len(z) * len(near)
                relation = first.to(z.device)[:size].view(len(z), -1)
                agreement = second.to(z.device)[:size].view(len(z), -1)
                torch.mm(z, near.T, out=relation)
                torch.mm(p, alike.to(z).T, out=agreement)
                # negative cosines fall below the threshold by themselves
                F.threshold(relation.mul_(agreement), self.threshold, 0.0, inplace=True)
                if self.power != 1:
                    relation.pow_(self.power)
                total += relation.sum(dim=1)
            parts.append(-total)
        return torch.cat(parts[1:] or parts)
