r"""i-ODIN: ODIN's step in the one entry of the input that the prediction hangs on most.

Paper: S. Regmi, "Going Beyond Conventional OOD Detection", 2024. arXiv:2411.10794
Code:  Jingkang50/OpenOOD (``iodin_postprocessor.py``), written anew from the definition

With :math:`g = \nabla_x \bigl(-\log S_{\hat y}(x; T)\bigr)` and j the entry (pixel and channel)
with the largest :math:`\lvert g_j \rvert`:

.. math:: \tilde x = x - \varepsilon \, s \, e_j / \sigma, \quad
    s = 1 \text{ if } g_j \ge 0, \text{ else } -1, \quad
    s(x) = -\log \max_c \operatorname{softmax}(f(\tilde x) / T)_c

with :math:`\sigma` the deviation that the channel was divided by.

Differs from the reference code: (1) the logarithm, as in ``odin.py``: at T = 1000 all probabilities
lie within 0.003, where single precision has few digits; the logits are in double precision.
Checked against: the definition, on a linear network by hand and on a small convolutional one by
autograd, entry by entry (tests/detectors/test_iodin.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oodbench.papers import Paper
from oodbench.registry import register_detector

from .odin import ODIN


@register_detector("iodin")
@dataclass
class IODIN(ODIN):
    """Minus the log of the largest scaled probability after one entry's step. Higher = more OOD.

    Range [0, log C]. Two forward passes and one backward pass per sample.

    Args:
        temperature: T > 0; 1000 in OpenOOD, which tries 1, 10, 100 and 1000.
        noise: epsilon, in pixel values of [0, 1]; 0.0014 in OpenOOD, which also tries 0.0028.

    Raises:
        OptionError: a temperature that is not positive, or a negative noise.
    """

    paper: ClassVar[Paper | None] = Paper(
        title="Going Beyond Conventional OOD Detection",
        authors="Regmi, Sudarshan",
        venue="arXiv",
        year=2024,
        url="https://arxiv.org/abs/2411.10794",
        formula="s(x) = -log max_c softmax(f(x - eps s e_j) / T)_c, j the largest |gradient|",
    )

    def _direction(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten(1)
        top = flat.abs().argmax(dim=1, keepdim=True)
        sign = torch.where(flat.gather(1, top) >= 0, 1.0, -1.0).to(flat)
        return torch.zeros_like(flat).scatter_(1, top, sign).view_as(gradient)
