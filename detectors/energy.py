r"""Energy: the free energy of the logits.

Paper: W. Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020. arXiv:2010.03759

.. math:: s(x) = -T \log \sum_c \exp(f_c(x) / T)

Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from oodbench.detector import Detector
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._numerics import in_blocks, log_sum_exp


@register_detector("energy")
@dataclass
class Energy(Detector):
    """Free energy of the logits. Higher = more OOD; unbounded.

    Args:
        temperature: T > 0; 1 in the paper's main results.

    Raises:
        OptionError: a temperature that is not positive.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    paper: ClassVar[Paper | None] = Paper(
        title="Energy-based Out-of-distribution Detection",
        authors="Liu, Weitang and Wang, Xiaoyun and Owens, John D. and Li, Yixuan",
        venue="NeurIPS",
        year=2020,
        url="https://arxiv.org/abs/2010.03759",
        formula="s(x) = -T log sum_c exp(f_c(x) / T)",
        figures=(
            "OpenOOD v1.5, ResNet-18, CIFAR-10: near-OOD AUROC 87.58, far-OOD AUROC 91.21",
            "OpenOOD v1.5, ResNet-18, CIFAR-100: near-OOD AUROC 80.91, far-OOD AUROC 79.77",
        ),
    )

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise OptionError(f"energy: temperature must be positive, not {self.temperature}.")

    @property
    def reads_level(self) -> bool:
        """At T = 1; at others log-probabilities keep an order, that of a Rényi entropy."""
        return self.temperature == 1

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""
        t = self.temperature
        if t == 1:
            return in_blocks(outputs, lambda f: -log_sum_exp(f), "logits")
        return in_blocks(outputs, lambda f: -t * log_sum_exp(f / t), "logits")
