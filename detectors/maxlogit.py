r"""MaxLogit: the largest logit.

Paper: D. Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings",
ICML 2022. arXiv:1911.11132

.. math:: s(x) = -\max_c f_c(x)

Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from oodbench.detector import Detector
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector


@register_detector("maxlogit")
@dataclass
class MaxLogit(Detector):
    """Minus the largest logit. Higher = more OOD; unbounded."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    paper: ClassVar[Paper | None] = Paper(
        title="Scaling Out-of-Distribution Detection for Real-World Settings",
        authors="Hendrycks, Dan and Basart, Steven and Mazeika, Mantas and others",
        venue="ICML",
        year=2022,
        url="https://arxiv.org/abs/1911.11132",
        formula="s(x) = -max_c f_c(x)",
        figures=(
            "OpenOOD v1.5, ResNet-18, CIFAR-10: near-OOD AUROC 87.52, far-OOD AUROC 91.10",
            "OpenOOD v1.5, ResNet-18, CIFAR-100: near-OOD AUROC 81.05, far-OOD AUROC 79.67",
        ),
    )

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""
        return -outputs.logits.amax(dim=1)
