r"""ActSub: the energy of what the head sees of a feature, times a neighbour score of the rest.

Paper: B. Zöngür, R. Hesse, S. Roth, "Activation Subspaces for Out-of-Distribution Detection", ICCV
2025. arXiv:2508.21695
Code:  visinf/actsub, written anew from the paper

With the head's singular value decomposition :math:`W = U S V^\top` and, for k directions,
:math:`P_{dec} = V_{<k} V_{<k}^\top` and :math:`P_{ins} = I - P_{dec}` (equation 4):

.. math:: k^* = \arg\min_k \Bigl| \operatorname{mean}_i \lVert P_{dec} f_i \rVert
    - \operatorname{mean}_i \lVert P_{ins} f_i \rVert \Bigr|

.. math:: I = -\log(1 - c), \quad
    E = \log \sum_c \exp \bigl(W (h \, e^r) + b\bigr)_c, \quad s(x) = -E \, I^\lambda

with c the mean of the 10 largest cosines of :math:`P_{ins} f` to those of the training features
(equation 7), :math:`h = P_{dec} f`, and r the sum of h over that of its K largest,
:math:`K = D - \operatorname{round}(D \, p / 100)` (equations 9 and 10).

Differs from the reference code: (1) k is at most the rank of W, which C bounds. Theirs tries all of
D; beyond the rank V is an arbitrary basis of the null space, of which another moves the AUROC by
ten points; (2) r is held in [-50, 50] and 1 where its denominator vanishes, so that no logit
overflows: h may be negative; (3) 1 - c is made of differences of unit vectors, which keeps its
digits, and is never 0; a batch of one sample works; (4) where c is negative, and with it I, the
power is of the size of I and keeps its sign (theirs: an even power takes such a sample for a more
similar one, a fractional one gives NaN). K is of the D units, as theirs, and at least one.
Checked against: the definition, sample by sample in NumPy, and a case by hand
(tests/detectors/test_actsub.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Head, Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._neighbours import MANY, check_k, most_similar
from ._numerics import at_work, blocks, log_sum_exp, normalize, precise

STEEPEST = 50.0
"""What r is held within: exp(50) times a logit is finite in single precision."""


def balanced_rank(train: Outputs, axes: Tensor, rank: int) -> int:
    """``k*`` in [0, rank]: where the mean norms of the two parts of the features come closest.

    Args:
        train: features ``[N, D]``.
        axes: V, ``[D, D]``.
        rank: of the head.
    """
    gap = axes.new_zeros(rank + 1)
    for batch in blocks(train, "features"):
        squares = (at_work(batch.features, exact=True) @ axes).square()
        decisive = squares.cumsum(dim=1)[:, :rank]
        decisive = torch.cat([decisive.new_zeros(len(squares), 1), decisive], dim=1)
        rest = squares.flip(1).cumsum(dim=1).flip(1)  # what lies from k on
        rest = torch.cat([rest, rest.new_zeros(len(squares), 1)], dim=1)[:, : rank + 1]
        gap += (decisive.sqrt() - rest.sqrt()).sum(dim=0)
    return int(gap.abs().argmin())


@register_detector("actsub")
@dataclass
class ActSub(Detector):
    """Minus the decisive energy times the insignificant score's power. Higher = more OOD.

    Unbounded. Does not stream: it keeps the training features' part outside of the decisive
    subspace, ``[N, D - k]``.

    Args:
        percentile: p, share of units that does not count in r, in percent; 95 in the paper for
            ResNets, 97.5 for ViTs.
        power: lambda; 2 in the paper for ResNets, 1 for ViTs.
        neighbours: cosines that are averaged; 10 in the authors' code.

    Raises:
        OptionError: a percentile outside [0, 100], a power that is not positive, or neighbours
            below 1 or above the number of training samples.
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "head"})
    grid: ClassVar = {
        "percentile": (85.0, 90.0, 92.5, 95.0, 97.5),
        "power": (0.5, 1.0, 1.5, 2.0),
    }
    paper: ClassVar[Paper | None] = Paper(
        title="Activation Subspaces for Out-of-Distribution Detection",
        authors="Zöngür, Baris and Hesse, Robin and Roth, Stefan",
        venue="ICCV",
        year=2025,
        url="https://arxiv.org/abs/2508.21695",
        formula="s(x) = -E(P_dec f) (-log(1 - c(P_ins f)))^lambda, P of the head's SVD",
    )

    percentile: float = 95.0
    power: float = 2.0
    neighbours: int = 10
    decisive_: Tensor = learned()  # [D, k]
    insignificant_: Tensor = learned()  # [D, D - k]
    bank_: Tensor = learned()  # [N, D - k]

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100:
            raise OptionError(f"actsub: percentile is in [0, 100], not {self.percentile}.")
        if not self.power > 0:
            raise OptionError(f"actsub: power must be positive, not {self.power}.")
        if self.neighbours < 1:
            raise OptionError(f"actsub: neighbours must be at least 1, not {self.neighbours}.")

    def fit(self, train: Outputs) -> Self:
        """The two subspaces, and the insignificant part of features ``[N, D]``, in two passes."""
        check_k(self.neighbours, train.labels, "actsub")
        weight = train.linear_head().weight
        weight = weight.to(precise(weight.device))
        _, values, axes = torch.linalg.svd(weight, full_matrices=True)
        axes = axes.T.contiguous().to(train.features.device)
        least = values[0] * max(weight.shape) * torch.finfo(values.dtype).eps
        rank = min(int((values > least).sum()), len(axes) - 1)
        k = balanced_rank(train, axes, rank)
        self.decisive_, self.insignificant_ = axes[:, :k].clone(), axes[:, k:].clone()
        # filled in place: parts that are joined would take the room twice
        self.bank_ = at_work(train.features[:0]).new_empty(len(train), axes.shape[1] - k)
        rest = self.bank_
        for batch in blocks(train, "features"):
            z = at_work(batch.features)
            rest[: len(z)] = normalize(z @ self.insignificant_.to(z))
            rest = rest[len(z) :]
        return self

    def _logits(self, z: Tensor, head: Head) -> Tensor:
        axes = self.decisive_.to(z)
        h = (z @ axes) @ axes.T
        width = int(h.shape[1])  # a number where a graph is recorded, too
        kept = max(1, width - round(width * self.percentile / 100))
        top = h.topk(kept, dim=1, sorted=False).values.sum(dim=1)
        r = (h.sum(dim=1) / top).nan_to_num(nan=1.0).clamp(-STEEPEST, STEEPEST)
        # W (h e^r) + b, with the factor taken on C logits instead of D features
        logits: Tensor = (h @ head.weight.to(z).T) * r.exp()[:, None] + head.bias.to(z)
        return logits

    def _insignificant(self, g: Tensor, rows: Tensor) -> Tensor:
        """I of normalised parts ``[B, D - k]``, whose nearest are these rows of the bank."""
        total = torch.zeros_like(g[:, 0])
        for row in rows.T:  # |a - b|^2 / 2 is 1 - cos for unit vectors, and 1 beside a zero one
            near = self.bank_.to(g)[row]
            off = (g - near).square().sum(dim=1) / 2
            # != 0, since ONNX's any() is of whole numbers, and takes 0.9 for 0
            is_unit = (g != 0).any(dim=1) & (near != 0).any(dim=1)
            total = total + torch.where(is_unit, off, 1.0)
        distance = (total / self.neighbours).clamp(min=torch.finfo(g.dtype).tiny)
        return -distance.log()

    def _together(self, energy: Tensor, near: Tensor) -> Tensor:
        return -energy * near.sign() * near.abs() ** self.power

    def graph_score(self, outputs: Outputs) -> Tensor:
        """The score, with the nearest of all training samples found in one product."""
        z = at_work(outputs.features)
        g = normalize(z @ self.insignificant_.to(z))
        rows = (g @ self.bank_.to(z).T).topk(self.neighbours, dim=1).indices
        energy = self._logits(z, outputs.linear_head()).logsumexp(dim=1)
        return self._together(energy, self._insignificant(g, rows))

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and the head."""
        head = outputs.linear_head()
        parts = [torch.empty(0)]
        for batch in blocks(outputs, "features", least=MANY):
            z = at_work(batch.features)
            g = normalize(z @ self.insignificant_.to(z))
            rows = most_similar(g, self.bank_.to(z), self.neighbours)[1]
            energy = log_sum_exp(self._logits(z, head))
            parts.append(self._together(energy, self._insignificant(g, rows)))
        return torch.cat(parts[1:] or parts)
