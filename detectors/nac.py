r"""NAC: how often training data put the neurons into the states that a sample puts them into.

Paper: Y. Liu et al., "Neuron Activation Coverage: Rethinking Out-of-distribution Detection and
Generalization", ICLR 2024. arXiv:2306.02879 (NAC-UE)

The state of neuron d is its activation times its gradient, squashed:

.. math:: \hat z_d = \sigma\Bigl(\alpha \, z_d
    \frac{\partial \operatorname{KL}(u \Vert p)}{\partial z_d}\Bigr), \quad
    \frac{\partial \operatorname{KL}(u \Vert p)}{\partial z} = W^\top (p - \tfrac1C)

in closed form for penultimate features. With :math:`O_d(\cdot)` the number of training samples in
the same of M bins of [0, 1]:

.. math:: s(x) = -\frac1D \sum_d \min\bigl(O_d(\hat z_d) / O^*, 1\bigr)

Differs from the paper: (1) the penultimate layer alone (the paper adds coverage over four layers).
Differs from pytorch-ood: its bins are geometric, finest at 0 and 1 (``bins="geometric"``), and it
differentiates log(p + 1e-12) (``eps=1e-12``), which cuts off the gradient of all classes whose
probability is smaller: of every third one, for a confident classifier.
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._figures import openood
from ._numerics import blocks, in_blocks, precise


@register_detector("nac")
@dataclass
class NAC(Detector):
    """Minus the mean coverage of the neurons' states. Higher = more OOD; range [-1, 0].

    Args:
        alpha: steepness of the sigmoid; 100 in the paper for CIFAR and pytorch-ood.
        M: bins; 50.
        o_star: training samples that cover a bin fully; 50.
        bins: ``"uniform"`` (the paper) or ``"geometric"`` (pytorch-ood).
        eps: added to p inside the logarithm of the divergence; 0 in the paper.

    Raises:
        OptionError: alpha, M or o_star not positive.
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits", "head"})
    grid: ClassVar = {
        "alpha": (1.0, 10.0, 100.0, 1000.0),
        "M": (50, 500),
        "o_star": (5, 50, 500),
    }
    paper: ClassVar[Paper | None] = Paper(
        title="Neuron Activation Coverage: Rethinking Out-of-distribution Detection and "
        "Generalization",
        authors="Liu, Yibing and Tian, Chris Xing and Li, Haoliang and Ma, Lei and Wang, Shiqi",
        venue="ICLR",
        year=2024,
        url="https://arxiv.org/abs/2306.02879",
        formula="s(x) = -mean_d min(O_d(sigmoid(alpha z_d dKL/dz_d)) / O*, 1)",
        figures=openood((90.93, 94.60), (75.90, 86.98)),
    )

    alpha: float = 100.0
    M: int = 50
    o_star: int = 50
    bins: Literal["uniform", "geometric"] = "uniform"
    eps: float = 0.0
    coverage_: Tensor = learned()  # [D, M], in [0, 1]

    def __post_init__(self) -> None:
        for name in ("alpha", "M", "o_star"):
            if not getattr(self, name) > 0:
                raise OptionError(f"nac: {name} must be positive, not {getattr(self, name)}.")

    def _bins(self, z: Tensor, f: Tensor, weight: Tensor) -> Tensor:
        """The bin ``[N, D]`` of each neuron's state."""
        p = f.softmax(dim=1)
        gradient = (p - 1 / f.shape[1]) @ weight.to(f)
        if self.eps:
            r = p / (p + self.eps)
            gradient = (p * r.mean(dim=1, keepdim=True) - r / f.shape[1]) @ weight.to(f)
        state = torch.sigmoid(self.alpha * z * gradient)
        if self.bins == "uniform":
            return (state * self.M).long().clamp(max=self.M - 1)
        low = self.M // 2
        eps = 1e-6
        left = torch.logspace(math.log10(eps), math.log10(0.5), low + 1, dtype=z.dtype)
        edges = torch.cat([left, (1 - left.flip(0))[1:]]).to(z.device)
        return (torch.bucketize(state.clamp(eps, 1 - eps), edges) - 1).clamp(0, self.M - 1)

    def fit(self, train: Outputs) -> Self:
        """Counts of the states of features ``[N, D]``, in one pass."""
        head = train.linear_head()
        width, device = train.features.shape[1], train.features.device
        counts = torch.zeros(width * self.M, dtype=torch.int64, device=device)
        first = torch.arange(width, device=device) * self.M
        for batch in blocks(train, "features"):
            z = batch.features.to(precise(device))
            index = self._bins(z, batch.logits.to(z), head.weight) + first
            counts += torch.bincount(index.flatten(), minlength=len(counts))
        self.coverage_ = (counts.double() / self.o_star).clamp(max=1).view(width, self.M)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""
        weight = outputs.linear_head().weight

        def uncovered(z: Tensor, f: Tensor) -> Tensor:
            bins = self._bins(z, f, weight)
            return -self.coverage_.to(z).gather(1, bins.T).mean(dim=0)

        return in_blocks(outputs, uncovered, "features", "logits")
