r"""GradUncertainty: the last layer's gradient for a target of all classes at once, in closed form.

Paper: J. Lee, G. AlRegib, "Gradients as a Measure of Uncertainty in Neural Networks", ICIP 2020.
arXiv:2008.08030

With the binary cross-entropy of the softmax p against a target of ones, whose gradient by the
logits is :math:`C p - 1`:

.. math:: L = -\sum_c \log p_c, \quad s(x) = -\Bigl\lVert \frac{\partial L}{\partial (W, b)}
    \Bigr\rVert_2^2 = -\sum_c (C p_c - 1)^2 \, \bigl(\lVert f \rVert_2^2 + 1\bigr)

Differs from the paper: (1) no classifier of ID and OOD gradients is trained on the norms by layer:
their sum is the score, with the sign that needs no OOD data (pytorch-ood does the same); (2) the
last layer alone, where the gradient is an outer product and no backward pass is needed (pytorch-ood
takes all layers, unless ``param_filter`` chooses). ``bias=False`` leaves the bias out.
Differs from pytorch-ood: its binary cross-entropy clamps in float32, so that half of a confident
network's scores are off by more than 1 %; ours is exact.
Checked against: autograd, and pytorch-ood 0.4.0 in float64
(tests/detectors/test_grad_uncertainty.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from oodbench.detector import Detector
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._numerics import in_blocks


@register_detector("grad-uncertainty")
@dataclass
class GradUncertainty(Detector):
    """Minus the squared norm of the last layer's gradient for all ones. Higher = more OOD.

    Range (-inf, 0].

    Args:
        bias: whether the gradient by the bias counts.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits"})
    grid: ClassVar = {"bias": (True, False)}
    paper: ClassVar[Paper | None] = Paper(
        title="Gradients as a Measure of Uncertainty in Neural Networks",
        authors="Lee, Jinsol and AlRegib, Ghassan",
        venue="ICIP",
        year=2020,
        url="https://arxiv.org/abs/2008.08030",
        formula="s(x) = -sum_c (C p_c - 1)^2 (|f|^2 + 1)",
    )

    bias: bool = True

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""

        def squared(f: Tensor, z: Tensor) -> Tensor:
            off = z.shape[1] * z.softmax(dim=1) - 1
            return -off.square().sum(dim=1) * (f.square().sum(dim=1) + float(self.bias))

        return in_blocks(outputs, squared, "features", "logits", exact=True)
