r"""Relation: how strongly a sample is tied to the training set, in feature and in prediction.

Paper: J.-H. Kim, S. Yun, H. O. Song, "Neural Relation Graph: A Unified Framework for Identifying
Label Noise and Outlier Data", NeurIPS 2023. arXiv:2301.12321

.. math:: s(x) = -\sum_i r_i^{\,t} \, [r_i > \tau], \quad
    r_i = \max(\cos(z, z_i), 0) \, \langle p(x), p(x_i) \rangle

over all training samples.

Differs from the reference code: (1) the epsilon is added to the norm, not below the root.
Checked against: the formula, in NumPy (tests/detectors/test_relation.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._figures import openood
from ._neighbours import Kept, bank_of
from ._numerics import blocks, normalize

CHUNK, QUERIES, ROWS = 8192, 256, 1024


@register_detector("relation")
@dataclass
class Relation(Detector):
    """Minus the sum of relations to the training samples. Higher = more OOD; range [-N, 0].

    Does not stream: it keeps normalised features and probabilities, ``[N, D]`` and ``[N, C]``
    float32; of outputs in half precision the features and logits as they came, from which both are
    made anew in each call. Samples whose largest probability is tau at most are left out.

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
    bank_: Tensor = learned()  # [N, D], rows by predicted class and confidence, or their features
    probabilities_: Tensor = learned()  # [N, C], in the same order, or their logits
    largest_: Tensor = learned()  # [blocks, C], the largest probability of each class in a block

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise OptionError(f"relation: power must be positive, not {self.power}.")
        if not 0 <= self.threshold < 1:
            raise OptionError(f"relation: threshold must be in [0, 1), not {self.threshold}.")

    def fit(self, train: Outputs) -> Self:
        """Keep normalised features of ``[N, D]`` and probabilities of ``[N, C]``."""
        # filled in place: small results between large pieces would keep these from being freed
        confidence = torch.empty(len(train), device=train.logits.device)
        predicted = torch.empty_like(confidence, dtype=torch.int64)
        start = 0
        for batch in blocks(train, "logits"):
            rows = slice(start, start + len(batch))
            confidence[rows], predicted[rows] = _probabilities(batch.logits).max(dim=1)
            start += len(batch)
        order = _by_prediction(confidence, predicted)
        # <p, p_i> is at most the largest probability of i: with less it is related to no sample
        order = order[confidence[order] > self.threshold]
        place = torch.full_like(predicted, -1)
        place[order] = torch.arange(len(order), device=order.device)
        self.bank_ = bank_of(train, _unit, place=place)
        self.probabilities_ = bank_of(train, _probabilities, column="logits", place=place)
        probabilities = Kept.of(self.probabilities_, _probabilities)
        starts = range(0, len(probabilities), ROWS)
        self.largest_ = torch.empty(len(starts), train.logits.shape[1], device=order.device)
        for block, start in enumerate(starts):
            self.largest_[block] = probabilities[start : start + ROWS].amax(dim=0)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``.

        Queries and bank are in the order of predictions, so that whole blocks of one do not agree
        with blocks of the other: where no ``<p, p_i>`` can exceed the threshold, no relation can,
        as no cosine exceeds 1, and the product of features is left out.
        """
        bank = Kept.of(self.bank_, _unit)
        probabilities = Kept.of(self.probabilities_, _probabilities)
        parts = [torch.empty(0, dtype=torch.float64)]
        for batch in outputs.batches(CHUNK):
            p = _probabilities(batch.logits)
            order = _by_prediction(*p.max(dim=1))
            z, p = _unit(batch.features)[order], p[order]
            bound = _largest_by_block(p, QUERIES) @ self.largest_.to(p).T
            total = torch.zeros(len(p), dtype=torch.float64, device=p.device)
            rows = -1
            for j, i in (bound > self.threshold).T.nonzero().tolist():
                q, b = slice(i * QUERIES, (i + 1) * QUERIES), slice(j * ROWS, (j + 1) * ROWS)
                if j != rows:
                    z_i, p_i, rows = bank[b].to(z), probabilities[b].to(p), j
                # negative cosines fall below the threshold by themselves
                relation = (z[q] @ z_i.T).mul_(p[q] @ p_i.T)
                F.threshold(relation, self.threshold, 0.0, inplace=True)
                if self.power != 1:
                    relation.pow_(self.power)
                total[q] += relation.sum(dim=1)
            parts.append(torch.empty_like(total).scatter_(0, order, -total))
        return torch.cat(parts[1:] or parts)


def _unit(features: Tensor) -> Tensor:
    return normalize(features.float())


def _probabilities(logits: Tensor) -> Tensor:
    return logits.float().softmax(dim=1)


def _by_prediction(confidence: Tensor, predicted: Tensor) -> Tensor:
    """An order of samples ``[N]``: by predicted class, the confident ones first."""
    order = confidence.argsort(descending=True, stable=True)
    return order[predicted[order].argsort(stable=True)]


def _largest_by_block(p: Tensor, rows: int) -> Tensor:
    """The largest probability of each class in each block of rows: ``[blocks, C]``."""
    return torch.stack([block.amax(dim=0) for block in p.split(rows)])
