r"""ODIN: temperature-scaled softmax after a small step that makes the network more certain.

Paper: S. Liang, Y. Li, R. Srikant, "Enhancing The Reliability of Out-of-distribution Image
Detection in Neural Networks", ICLR 2018. arXiv:1706.02690

.. math:: \tilde x = x - \varepsilon \operatorname{sign}\bigl(-\nabla_x \log S_{\hat y}(x; T)\bigr),
    \quad s(x) = -\log \max_c S_c(\tilde x; T), \quad S(x; T) = \operatorname{softmax}(f(x) / T)

Differs from the paper: (1) the logarithm, which changes no order: at T = 1000 the probabilities
of all samples are within 1e-3 of 1/C. The step is the same in every channel of the image before
normalisation, as in the authors' code: divided by the channel's deviation in the network's input.
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.detector import Detector
from oodbench.errors import OptionError
from oodbench.networks.models import outputs_of
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._figures import openood
from ._network import input_std
from ._numerics import precise

AT_ONCE = 2**22
"""Values of inputs that have a gradient at a time, as of 27 images of 224 x 224 pixels."""


@register_detector("odin")
@dataclass
class ODIN(Detector):
    """Minus the log of the largest scaled probability after the step. Higher = more OOD.

    Range [0, log C]. Two forward passes and one backward pass per sample.

    Args:
        temperature: T > 0; 1000 in the paper.
        noise: epsilon, in pixel values of [0, 1]; 0.0014 in the paper.

    Raises:
        OptionError: a temperature that is not positive, or a negative noise.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    grid: ClassVar = {"temperature": (1.0, 10.0, 100.0, 1000.0), "noise": (0.0014, 0.0028)}
    paper: ClassVar[Paper | None] = Paper(
        title="Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks",
        authors="Liang, Shiyu and Li, Yixuan and Srikant, R.",
        venue="ICLR",
        year=2018,
        url="https://arxiv.org/abs/1706.02690",
        formula="s(x) = -log max_c softmax(f(x - eps sign(-grad log S_max)) / T)_c",
        figures=openood((82.87, 87.96), (79.90, 79.28)),
    )

    temperature: float = 1000.0
    noise: float = 0.0014

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise OptionError(
                f"{self.label}: temperature must be positive, not {self.temperature}."
            )
        if not self.noise >= 0:
            raise OptionError(f"{self.label}: noise must not be negative, but is {self.noise}.")

    def _direction(self, gradient: Tensor) -> Tensor:
        """Where the step goes, of the gradient ``[B, C, H, W]`` of the loss."""
        return gradient.sign()

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        """OOD scores ``[B]`` of inputs ``[B, C, H, W]``."""
        # what a gradient needs of a large batch of large images fills a RAM
        images = max(1, AT_ONCE * len(batch) // batch.numel())
        return torch.cat([self._scores(model, part) for part in batch.split(images)])

    def _scores(self, model: nn.Module, batch: Tensor) -> Tensor:
        # a caller may have switched gradients off, in either way
        with torch.inference_mode(mode=False), torch.enable_grad():
            x = batch.detach().clone().requires_grad_()
            logits = outputs_of(model)(x)["logits"]
            loss = F.cross_entropy(logits / self.temperature, logits.argmax(dim=1), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            stepped = batch - self.noise * self._direction(gradient) / input_std(model, batch)
            logits = outputs_of(model)(stepped)["logits"]
            logits = logits.to(precise(logits.device))
            return -(logits / self.temperature).log_softmax(dim=1).amax(dim=1)
