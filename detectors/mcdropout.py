r"""MC dropout: predictions under several dropout masks, their mean or their variance.

Paper: Y. Gal, Z. Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty
in Deep Learning", ICML 2016. arXiv:1506.02142

.. math:: s_{\text{mean}}(x) = -\max_c \frac1S \sum_s p_c(x; m_s), \quad
    s_{\text{var}}(x) = \frac1C \sum_c \operatorname{Var}_s p_c(x; m_s)

Differs from the usual code: (1) the S masks are drawn once, from ``seed``, and are the same for
all samples, so that a score does not depend on the batch or on the run; (2) a network without
dropout layers gets one of rate ``p`` before its linear head, as OpenOOD's ``dropout`` does; in
pytorch-ood all its scores would be zero.
Checked against: the formula (tests/detectors/test_mcdropout.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from oodbench.detector import Detector
from oodbench.errors import MissingOutputError, OptionError
from oodbench.networks.models import network_of, outputs_of
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._network import hooked


@register_detector("mcdropout")
@dataclass
class MCDropout(Detector):
    """Uncertainty under dropout. Higher = more OOD; range [-1, 0], or [0, 0.25] for ``var``.

    ``samples`` forward passes of a network with dropout layers; one of any other.

    Args:
        samples: masks S.
        p: rate of the dropout before the head, in (0, 1), where the network has none.
        mode: ``"mean"``: minus the largest mean probability; ``"var"``: mean variance.
        seed: of the masks.

    Raises:
        OptionError: samples below 2, or p outside (0, 1).
        MissingOutputError: a network with neither dropout layers nor a linear head.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    grid: ClassVar = {"p": (0.1, 0.3, 0.5), "mode": ("mean", "var")}
    paper: ClassVar[Paper | None] = Paper(
        title="Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep "
        "Learning",
        authors="Gal, Yarin and Ghahramani, Zoubin",
        venue="ICML",
        year=2016,
        url="https://arxiv.org/abs/1506.02142",
        formula="s(x) = -max_c mean_s p_c(x; mask s)",
    )

    samples: int = 30
    p: float = 0.5
    mode: Literal["mean", "var"] = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise OptionError(f"mcdropout: samples must be at least 2, not {self.samples}.")
        if not 0 < self.p < 1:
            raise OptionError(f"mcdropout: p must be in (0, 1), not {self.p}.")

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        """OOD scores ``[B]`` of inputs ``[B, C, H, W]``."""
        kinds = nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d
        layers: dict[str, nn.Module] = {
            name: m for name, m in model.named_modules() if isinstance(m, kinds) and m.p > 0
        }
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            draws = (
                self._through_layers(model, batch, layers, generator)
                if layers
                else self._before_head(model, batch, generator)
            )
            p = torch.stack([logits.double().softmax(dim=1) for logits in draws])  # [S, B, C]
        return p.var(dim=0).mean(dim=1) if self.mode == "var" else -p.mean(dim=0).amax(dim=1)

    def _through_layers(
        self,
        model: nn.Module,
        batch: Tensor,
        layers: dict[str, nn.Module],
        generator: torch.Generator,
    ) -> list[Tensor]:
        def drop(name: str, x: Tensor) -> Tensor:
            whole_channels = not isinstance(layers[name], nn.Dropout)
            shape = (1, x.shape[1], *(1,) * (x.ndim - 2)) if whole_channels else (1, *x.shape[1:])
            return x * _mask(shape, float(layers[name].p), generator).to(x)  # type: ignore[arg-type]

        with hooked(layers, drop):
            return [outputs_of(model)(batch)["logits"] for _ in range(self.samples)]

    def _before_head(
        self, model: nn.Module, batch: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        features = outputs_of(model)(batch).get("features")
        head = network_of(model).head()  # known once a batch was seen
        if head is None or features is None:
            raise MissingOutputError(
                "mcdropout needs a network with dropout layers, or with features and a linear head."
            )
        masks = _mask((self.samples, features.shape[1]), self.p, generator).to(features)
        return [head(features * mask) for mask in masks]


def _mask(shape: tuple[int, ...], p: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) >= p).float() / (1 - p)
