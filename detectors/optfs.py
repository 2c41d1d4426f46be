r"""OptFS: a factor for each size of feature, by what such features add to the largest logit.

Paper: Q. Zhao et al., "Towards Optimal Feature-Shaping Methods for Out-of-Distribution Detection",
ICLR 2024. arXiv:2402.00865
Code:  Qinyu-Allen-Zhao/OptFSOOD, written anew from the paper

The range from the 0.1th to the 99.9th percentile of all training activations is cut into B = 100
bins; with :math:`\hat y` the predicted class, on ID training data alone:

.. math:: I_i = \tfrac1N \sum_n \sum_{j : f_{nj} \in \text{bin } i} W_{\hat y_n j} f_{nj}, \quad
    \theta = 1000 \, I / \lVert I \rVert

.. math:: \tilde f_j = \theta_{\text{bin}(f_j)} f_j \text{ (0 outside of all bins)}, \quad
    s_V(x) = -\sum_j W_{\hat y j} \tilde f_j, \quad
    s_E(x) = -\log \sum_c \exp (W \tilde f + b)_c

with :math:`\hat y` of the logits before shaping, and no bias in V, the paper's own score.

Differs from the reference code: (1) all training samples count, of any number (theirs needs 10,000
to print a ratio that nothing reads); (2) there are always B bins (theirs has one more above the
last where ``numpy.arange`` rounds that way, for about one range in sixteen). As there, features
above the last bin become 0.
Checked against: the definition, sample by sample in NumPy, and a case by hand
(tests/detectors/test_optfs.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._numerics import at_work, blocks, in_blocks, percentiles, precise

SIZE = 1000.0
"""Norm of theta, in the authors' code; it is the energy's temperature, and no matter for V."""


@register_detector("optfs")
@dataclass
class OptFS(Detector):
    """Minus the largest logit, or log-sum-exp, of shaped features. Higher = more OOD; unbounded.

    Args:
        variant: ``"V"`` for the predicted class's logit without bias, ``"E"`` for the energy.
        bins: B; 100 in the paper.
        tail: share of activations beyond each end of the bins, in percent; 0.1 in the paper.

    Raises:
        OptionError: bins below 1, or a tail outside [0, 50).
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits", "head"})
    grid: ClassVar = {"variant": ("V", "E")}
    paper: ClassVar[Paper | None] = Paper(
        title="Towards Optimal Feature-Shaping Methods for Out-of-Distribution Detection",
        authors="Zhao, Qinyu and Xu, Ming and Gupta, Kartik and others",
        venue="ICLR",
        year=2024,
        url="https://arxiv.org/abs/2402.00865",
        formula="s(x) = -W_y (theta_bin(f) f), theta = I / |I|, I the bins' parts of the logit",
    )

    variant: Literal["V", "E"] = "V"
    bins: int = 100
    tail: float = 0.1
    low_: float = learned()
    width_: float = learned()
    theta_: Tensor = learned()  # [B + 1], the last one for what is in no bin

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise OptionError(f"optfs: bins must be at least 1, not {self.bins}.")
        if not 0 <= self.tail < 50:
            raise OptionError(f"optfs: tail is in [0, 50), not {self.tail}.")

    def _bin(self, f: Tensor) -> Tensor:
        """Which bin each of ``[N, D]`` is in; B for none. Bins are closed on the left."""
        place = ((f - self.low_) / self.width_).floor()
        inside = (place >= 0) & (place < self.bins)
        return torch.where(inside, place, float(self.bins)).long()

    def fit(self, train: Outputs) -> Self:
        """The bins and their factors, of features ``[N, D]`` and logits ``[N, C]``."""
        low, high = percentiles(train, [self.tail / 100, 1 - self.tail / 100])
        # features that are all the same are in the first bin, as there is no range to cut
        self.low_, self.width_ = low, (high - low or 1.0) / self.bins
        weight = train.linear_head().weight
        device = train.features.device
        importance = torch.zeros(self.bins + 1, dtype=precise(device), device=device)
        for batch in blocks(train, "features"):
            f = at_work(batch.features)
            part = f * weight.to(f)[batch.logits.argmax(dim=1)]
            importance += torch.bincount(
                self._bin(f).flatten(),
                weights=part.flatten().to(importance),
                minlength=self.bins + 1,
            )
        importance[-1] = 0.0
        self.theta_ = (
            SIZE * importance / importance.norm().clamp(min=torch.finfo(importance.dtype).tiny)
        )
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``, logits ``[N, C]`` and the head."""
        head = outputs.linear_head()

        def shaped(f: Tensor, z: Tensor) -> Tensor:
            new = f * self.theta_.to(f)[self._bin(f)]
            if self.variant == "E":
                return -head(new).logsumexp(dim=1)
            return -(new * head.weight.to(f)[z.argmax(dim=1)]).sum(dim=1)

        return in_blocks(outputs, shaped, "features", "logits")
