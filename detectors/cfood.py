r"""CFOOD: how large neighbourhoods of ID samples must be until enough of them hold a sample.

Code:  Jingkang50/OpenOOD (``cfood_postprocessor.py``), written anew from the definition; no
paper of that name is known to us

With unit features :math:`u = f / (\lVert f \rVert + 10^{-10})`, n reference samples
:math:`u_i` and the squared distance :math:`r_i(k)` of each to its (position(k) + 1)-th nearest
other one, :math:`\text{position}(k) = \lfloor k n - 1 \rfloor`:

.. math:: c(k) = \tfrac1n \bigl|\{i : r_i(k) \ge \lVert u - u_i \rVert^2\}\bigr|, \quad
    s(x) = \min \{k \in \text{grid} : c(k) \ge k_0\}, \text{ or } 1

on the grid of shares 0.001 … 0.1 (100), 0.105 … 0.5 (81), 0.51 … 0.99 (49), without those whose
position is not above that of the one before.

Differs from the reference code: (1) reference samples are drawn by a seed, in ``fit``; (2) the
share is found by bisection, as c rises with k; (3) distances are made of products, and radii are
16 roundings longer, so that a sample that is in the reference itself has one score in any batch.
Positions below 0 are 0, as there. There are few distinct scores, so many are tied.
Checked against: the definition, sample by sample in NumPy, and a case by hand
(tests/detectors/test_cfood.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._numerics import at_work, blocks, in_blocks, normalize

SLACK = 16
"""Roundings by which a radius is longer, so that it reaches the neighbour that it is made of."""

AT_ONCE = 2**19
"""Distances to reference samples at a time: few enough to stay in the cache between two passes."""

LEAST = 64
"""Samples that are taken at a time all the same, as the whole reference is read for each part."""


def grid_of_shares(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares k and their positions among the n sorted distances, both rising."""
    k = np.concatenate(
        [np.linspace(0.001, 0.1, 100), np.linspace(0.105, 0.5, 81), np.linspace(0.51, 0.99, 49)]
    )
    position = (k * n - 1).astype(np.int64)  # towards zero: -0.9 is 0
    kept = np.concatenate([[True], position[:-1] < position[1:]])
    return k[kept], position[kept]


def squared_distances(u: Tensor, bank: Tensor, squares: Tensor) -> Tensor:
    """``|u - b|^2``, ``[N, M]``, at least 0; ``squares`` are ``|b|^2``, ``[M]``."""
    sums = u.square().sum(dim=1)[:, None] + squares
    return torch.addmm(sums, u, bank.T, alpha=-2).clamp_(min=0)


@register_detector("cfood")
@dataclass
class CFOOD(Detector):
    """Least share of neighbours at which enough reference samples reach. Higher = more OOD; (0, 1].

    Keeps n reference samples ``[n, D]`` and 230 radii for each. They are drawn by position, so
    scores depend on the order of the training samples; with ``share=1`` they do not.

    Args:
        share: of the training samples that are the reference, in (0, 1]; 0.1 in OpenOOD, which also
            tries 0.5 and 1.
        k: k0, the share of reference samples that have to reach, in (0, 1); 0.01 in OpenOOD.
        seed: of the reference samples.

    Raises:
        OptionError: a share or k outside its range, or that leaves fewer than 2 reference samples.
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    grid: ClassVar = {"share": (0.1, 0.5, 1.0), "k": (0.001, 0.005, 0.01, 0.05)}
    paper: ClassVar[Paper | None] = Paper(
        title="OpenOOD v1.5: Enhanced Benchmark for Out-of-Distribution Detection",
        authors="Zhang, Jingyang and Yang, Jingkang and Wang, Pengyun and others",
        venue="DMLR",
        year=2024,
        url="https://arxiv.org/abs/2306.09301",
        formula="s(x) = least k with share_i(|u - u_i|^2 <= r_i(k)) >= k0, u = f/|f|",
    )

    share: float = 0.1
    k: float = 0.01
    seed: int = 0
    bank_: Tensor = learned()  # [n, D]
    radii_: Tensor = learned()  # [K, n], rising along K
    shares_: Tensor = learned()  # [K + 1], the last one 1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise OptionError(f"cfood: share must be in (0, 1], not {self.share}.")
        if not 0 < self.k < 1:
            raise OptionError(f"cfood: k must be in (0, 1), not {self.k}.")

    def fit(self, train: Outputs) -> Self:
        """Draw the reference among features ``[N, D]``, and its radii."""
        n = int(self.share * len(train)) if self.share < 1 else len(train)
        if n < 2:
            raise OptionError(
                f"cfood: share={self.share} of {len(train)} training samples leaves {n} reference "
                "samples; take a larger share."
            )
        rows = torch.arange(len(train))
        if n < len(train):
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))
            rows = order[:n].sort().values
        rows = rows.to(train.features.device)
        parts, start = [], 0
        for batch in blocks(train, "features"):
            here = rows[(rows >= start) & (rows < start + len(batch))] - start
            parts.append(normalize(at_work(batch.features[here])))
            start += len(batch)
        self.bank_ = torch.cat(parts)
        k, position = grid_of_shares(n)
        places = torch.from_numpy(position + 1).to(self.bank_.device)
        squares = self.bank_.square().sum(dim=1)
        radii = [
            squared_distances(some, self.bank_, squares).sort(dim=1).values[:, places]
            for some in self.bank_.split(max(LEAST, AT_ONCE // n))
        ]
        self.radii_ = torch.cat(radii).T.contiguous()
        # a product's last digits hang on how many rows it has, and would break such ties
        self.radii_ += SLACK * torch.finfo(self.radii_.dtype).eps
        self.shares_ = torch.from_numpy(np.append(k, 1.0)).to(self.bank_.device)
        return self

    def _need(self) -> float:
        """Reference samples that have to reach: count / n >= k, without the product's rounding."""
        return self.k * int(self.radii_.shape[1]) * (1 - 1e-12)

    def graph_score(self, outputs: Outputs) -> Tensor:
        """The score, of all samples at once."""
        squares = self.bank_.square().sum(dim=1)
        return self._search(normalize(at_work(outputs.features)), squares, self._need())

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""
        rows, need = max(LEAST, AT_ONCE // self.radii_.shape[1] + 1), self._need()
        squares = self.bank_.square().sum(dim=1)

        def least_share(f: Tensor) -> Tensor:
            parts = normalize(f).split(rows)
            return torch.cat([self._search(u, squares, need) for u in parts])

        return in_blocks(outputs, least_share, "features")

    def _search(self, u: Tensor, squares: Tensor, need: float) -> Tensor:
        distances = squared_distances(u, self.bank_.to(u), squares.to(u))  # [B, n]
        radii = self.radii_.to(u)
        low = torch.zeros_like(distances[:, 0], dtype=torch.int64)
        high = torch.full_like(low, len(radii))  # the first that is enough, or none
        for _ in range(len(radii).bit_length()):  # as many steps as a bisection may take
            middle = ((low + high) // 2).clamp(max=len(radii) - 1)
            enough = (radii[middle] >= distances).sum(dim=1) >= need
            active = low < high
            high = torch.where(active & enough, middle, high)
            low = torch.where(active & ~enough, middle + 1, low)
        return self.shares_.to(u.device)[low]
