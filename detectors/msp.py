r"""MSP: maximum softmax probability.

Paper: D. Hendrycks, K. Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution
Examples in Neural Networks", ICLR 2017. arXiv:1610.02136

.. math:: s(x) = -\log \max_c \operatorname{softmax}(f(x))_c
    = \log \Bigl(1 + \sum_{c \ne \hat y} \exp(f_c - f_{\hat y}) \Bigr)

Differs from the paper: (1) the logarithm. It changes no order, but in float32 the probability
itself saturates at 1 and ties thousands of confident samples.
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

from ._numerics import in_blocks, msp_score


@register_detector("msp")
@dataclass
class MSP(Detector):
    """Minus the log of the largest softmax probability. Higher = more OOD; range [0, log C]."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    paper: ClassVar[Paper | None] = Paper(
        title="A Baseline for Detecting Misclassified and Out-of-Distribution Examples in "
        "Neural Networks",
        authors="Hendrycks, Dan and Gimpel, Kevin",
        venue="ICLR",
        year=2017,
        url="https://arxiv.org/abs/1610.02136",
        formula="s(x) = -log max_c softmax(f(x))_c",
        figures=(
            "OpenOOD v1.5, ResNet-18, CIFAR-10: near-OOD AUROC 88.03, far-OOD AUROC 90.73",
            "OpenOOD v1.5, ResNet-18, CIFAR-100: near-OOD AUROC 80.27, far-OOD AUROC 77.76",
        ),
    )

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""
        return in_blocks(outputs, msp_score, "logits")
