r"""OpenMax: the probability that extreme-value theory leaves to an unknown class.

Paper: A. Bendale, T. Boult, "Towards Open Set Deep Networks", CVPR 2016. arXiv:1511.06233
Code:  abhijitbendale/OSDN, written anew from the paper; libMR's Weibull fit by maximum likelihood

With the activation vector :math:`v(x)` (the logits), its mean :math:`\mu_c` over correctly
classified training samples of class c, and a Weibull distribution :math:`F_c` fitted to the
``tail`` largest distances :math:`\lVert v - \mu_c \rVert` (Algorithm 1):

.. math::
    \omega_{c}(x) = 1 - \frac{\alpha + 1 - r_c}{\alpha} F_c(\lVert v(x) - \mu_c \rVert)
    \text{ for the } \alpha \text{ top classes (rank } r_c = 1, 2, \dots), \text{ else } 1

.. math::
    \hat v_c = \omega_c v_c, \quad \hat v_0 = \sum_c (1 - \omega_c) v_c, \quad
    s(x) = \operatorname{softmax}(\hat v)_0

Differs from the paper: (1) the Euclidean distance; the paper and libMR's demos add a cosine
distance (``euclid_weight=1`` in pytorch-ood and ``distance: euclidean`` in OpenOOD are ours);
(2) (alpha + 1 - r) / alpha instead of the paper's (alpha - r) / alpha, as the authors' code has it;
(3) the score is the log-odds of the unknown class, which has the order of its probability and does
not saturate.
Differs from pytorch-ood: that takes all training samples, not the correctly classified alone
(``correct_only=False``), tail 25 and alpha 10, and scipy's generic optimiser. OpenOOD has the
defaults here (tail 20, alpha 3).
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py, docs/parity.md).
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

from ._figures import openood
from ._numerics import blocks, in_blocks, precise

SHIFT = 10_000.0
"""libMR moves the tail so that its smallest value lies here, before the Weibull is fitted."""


def fit_weibull(tails: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum-likelihood Weibull shape and log-scale of each row, location zero.

    The shape k solves ``sum t^k log t / sum t^k - 1/k = mean log t`` (monotone in k), by Newton's
    method on log k, with all sums taken relative to the largest t so that t^k does not overflow.

    Args:
        tails: positive values ``[C, T]``; only the first ``counts`` of a row count.
        counts: ``[C]``, at least 1.

    Returns:
        Shapes ``[C]`` (at most 1e9, where all values of a row are equal) and log-scales ``[C]``.
    """
    valid = torch.arange(tails.shape[1], device=tails.device) < counts[:, None]
    log_t = tails.clamp(min=torch.finfo(tails.dtype).tiny).log()
    top = log_t.masked_fill(~valid, -torch.inf).amax(dim=1, keepdim=True)
    y = torch.where(valid, log_t - top, 0.0)  # [C, T], at most 0
    n = counts.to(tails)
    mean = y.sum(dim=1) / n
    spread = torch.where(valid, (y - mean[:, None]).square(), 0.0).sum(dim=1) / n
    log_k = -(spread.sqrt() + 1e-12).log()  # of the order of pi / (sqrt 6 std(log t))
    for _ in range(60):
        k = log_k.exp()
        weight = torch.where(valid, (k[:, None] * y).exp(), 0.0)
        total = weight.sum(dim=1)
        first = (weight * y).sum(dim=1) / total
        second = (weight * y.square()).sum(dim=1) / total - first.square()
        value = first - 1 / k - mean
        slope = (second + 1 / k.square()) * k  # with respect to log k
        step = (value / slope).clamp(-1, 1)
        log_k = (log_k - step).clamp(-20, 20.7)
        if step.abs().max() < 1e-12:
            break
    k = log_k.exp()
    total = torch.where(valid, (k[:, None] * y).exp(), 0.0).sum(dim=1)
    return k, (total / n).log() / k + top[:, 0]


@register_detector("openmax")
@dataclass
class OpenMax(Detector):
    """Log-odds of OpenMax's unknown class. Higher = more OOD; unbounded.

    Args:
        tail: how many of a class's largest distances its Weibull is fitted to; all, where a class
            has fewer.
        alpha: how many top classes are revised; all, where there are fewer.
        correct_only: whether means and tails are of correctly classified samples alone. (A class
            without one takes all of its samples.)

    Raises:
        OptionError: tail or alpha below 1.
        BadScoresError: a class without a training sample.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    paper: ClassVar[Paper | None] = Paper(
        title="Towards Open Set Deep Networks",
        authors="Bendale, Abhijit and Boult, Terrance E.",
        venue="CVPR",
        year=2016,
        url="https://arxiv.org/abs/1511.06233",
        formula="s(x) = log-odds of the unknown class after Weibull revision of the top logits",
        figures=openood((87.62, 89.62), (76.41, 79.48)),
    )

    tail: int = 20
    alpha: int = 3
    correct_only: bool = True
    means_: Tensor = learned()  # [C, C]
    lowest_: Tensor = learned()  # [C], smallest distance of the tail
    shape_: Tensor = learned()  # [C]
    log_scale_: Tensor = learned()  # [C]

    def __post_init__(self) -> None:
        for name in ("tail", "alpha"):
            if getattr(self, name) < 1:
                raise OptionError(f"openmax: {name} must be at least 1.")

    def fit(self, train: Outputs) -> Self:
        """Class means and Weibull tails of logits ``[N, C]``, in two passes."""
        classes = train.logits.shape[1]
        kept = self._kept(train, classes)
        sums = torch.zeros(classes, classes, dtype=precise(train.logits.device))
        sums = sums.to(train.logits.device)
        start = 0
        for batch in blocks(train, "logits"):
            use = kept[start : start + len(batch)]
            start += len(batch)
            f = batch.logits.to(sums)
            sums.index_add_(0, batch.labels[use], f[use])
        labels = train.labels[kept]
        counts = torch.bincount(labels, minlength=classes)
        present = counts > 0
        self.means_ = sums / counts.clamp(min=1)[:, None]
        distances = torch.cat(
            [
                (batch.logits.to(sums) - self.means_[batch.labels]).norm(dim=1)
                for batch in blocks(train, "logits")
            ]
        )[kept]
        # rows by class, the largest distance first; the place within the class is the rank
        order = distances.argsort(descending=True, stable=True)
        order = order[labels[order].argsort(stable=True)]
        rank = (
            torch.arange(len(order), device=order.device)
            - (counts.cumsum(0) - counts)[labels[order]]
        )
        order, rank = order[rank < self.tail], rank[rank < self.tail]
        tails = sums.new_zeros(classes, self.tail)
        tails[labels[order], rank] = distances[order]
        sizes = counts.clamp(max=self.tail)
        self.lowest_ = tails.gather(1, (sizes - 1).clamp(min=0)[:, None])[:, 0]
        shape, log_scale = fit_weibull(tails + SHIFT - self.lowest_[:, None], sizes.clamp(min=1))
        self.shape_ = shape
        # a class that was never seen has no distances to compare with: it is never revised
        self.log_scale_ = torch.where(present, log_scale, torch.inf)
        return self

    def _kept(self, train: Outputs, classes: int) -> Tensor:
        if not self.correct_only:
            return torch.ones(len(train), dtype=torch.bool, device=train.labels.device)
        correct = torch.cat(
            [batch.logits.argmax(dim=1) == batch.labels for batch in blocks(train, "logits")]
        )
        correct_by_class = torch.bincount(train.labels[correct], minlength=classes)
        return correct | (correct_by_class[train.labels] == 0)

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""

        def unknown(v: Tensor) -> Tensor:
            distance = torch.cdist(v, self.means_.to(v))  # [N, C]
            shifted = (distance + SHIFT - self.lowest_.to(v)).clamp(min=1e-300)
            log_hazard = self.shape_.to(v) * (shifted.log() - self.log_scale_.to(v))
            F = -torch.expm1(-log_hazard.exp())
            alpha = min(self.alpha, v.shape[1])
            ranked = v.topk(alpha, dim=1).indices
            share = torch.arange(alpha, 0, -1, device=v.device).to(v) / alpha
            weight = torch.zeros_like(v).scatter(1, ranked, share.expand(len(v), alpha))
            lost = F * weight  # 1 - omega
            return (lost * v).sum(dim=1) - ((1 - lost) * v).logsumexp(dim=1)

        return in_blocks(outputs, unknown, "logits", exact=True)
