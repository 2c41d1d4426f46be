r"""AdaSCALE: SCALE and LTS with a percentile of each sample's own, by how its features give way.

Paper: S. Regmi, "AdaSCALE: Adaptive Scaling for OOD Detection", 2025. arXiv:2503.08023
Code:  sudarshanregmi/adascale and Jingkang50/OpenOOD, written anew from the definition

With :math:`g = \partial f_{\hat y} / \partial x`, the share o of the input's entries (each channel
counts) with the smallest :math:`\lvert g \rvert` is pushed, in the units of the network's input:
:math:`\tilde x = x + \tfrac12 \operatorname{sign}(g)` there. With the features z and
:math:`\tilde z` of the two, and their entries at the k largest of z:

.. math:: Q'(x) = \sum_{j \in \text{top}_{k_a}(z)} \operatorname{relu}(\tilde z_j)
    + \lambda \sum_{j \in \text{top}_{k_b}(z)} \lvert z_j - \tilde z_j \rvert, \quad
    p = p_{min} + (1 - F(Q')) (p_{max} - p_{min})

with F the empirical distribution (:math:`\le`) of Q' over ID data. Then, with
:math:`K = D - \operatorname{round}(D p / 100)`, the sum of all rectified features over that of
the K largest is the ratio r, and

.. math:: s_A(x) = -\log \sum_c \exp \bigl(W (z e^r) + b\bigr)_c, \quad
    s_L(x) = -\log \sum_c \exp \bigl((W z + b) r^2\bigr)_c

Where codes disagree: OpenOOD takes k_a = 5 % for :math:`\operatorname{relu}(\tilde z)` and k_b =
1 % for the shift, as the paper; the authors' repository has the two the other way round.
Differs from both: (1) at least one unit counts in each sum: 1 % of 64 features is none; (2) all
samples that ``fit`` sees make F (OpenOOD: 5,000 at random); they are those of the ``fit_split``,
the validation data as in OpenOOD, or training data. As in SCALE, r is 1 where all features are 0.
Checked against: the definition, sample by sample in NumPy and autograd
(tests/detectors/test_adascale.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from oodbench.detector import Detector, learned
from oodbench.errors import BadScoresError, MissingOutputError, OptionError
from oodbench.networks.models import network_of, outputs_of
from oodbench.outputs import Head
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._numerics import precise
from .odin import AT_ONCE

STEP = 0.5
"""Length of the push, in the units of the network's input."""


def ratios(z: Tensor, percentile: Tensor) -> Tensor:
    """Sum of rectified features ``[N, D]`` over that of the K largest, K by each percentile."""
    z, width = z.relu(), z.shape[1]
    kept = (width - (width * percentile / 100).round()).long().clamp(min=1)
    sums = z.sort(dim=1, descending=True).values.cumsum(dim=1)
    top = sums.gather(1, kept[:, None] - 1)[:, 0]
    return (sums[:, -1] / top).nan_to_num(nan=1.0)


@dataclass
class _AdaScale(Detector):
    """What both variants share: the push, its statistic and the percentile that it gives."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    grid: ClassVar = {
        "low": (60.0, 65.0, 70.0, 75.0, 80.0),
        "high": (85.0, 90.0, 95.0, 99.0),
    }

    low: float = 75.0
    high: float = 85.0
    k_a: float = 5.0
    k_b: float = 1.0
    weight: float = 10.0
    share: float = 0.05
    fit_split: Literal["train", "val"] = "val"
    sorted_: Tensor = learned()  # [N], Q' of ID data, rising

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 100:
            raise OptionError(
                f"{self.label}: 0 <= low <= high < 100, not low={self.low} and high={self.high}."
            )
        for name in ("k_a", "k_b"):
            if not 0 < getattr(self, name) <= 100:
                raise OptionError(
                    f"{self.label}: {name} is in (0, 100], not {getattr(self, name)}."
                )
        if not 0 < self.share <= 1:
            raise OptionError(f"{self.label}: share must be in (0, 1], not {self.share}.")

    def _read(self, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, D]`` and logits ``[B, C]``."""
        outputs = outputs_of(model)(images)
        if "features" not in outputs or "logits" not in outputs:
            raise MissingOutputError(
                f"{self.label} needs a network that gives features and logits. Choose another "
                "detector."
            )
        return outputs["features"], outputs["logits"]

    def _statistic(self, model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, D]`` and ``Q'`` ``[B]`` of a batch."""
        # a caller may have switched gradients off, in either way
        with torch.inference_mode(mode=False), torch.enable_grad():
            x = batch.detach().clone().requires_grad_()
            z, logits = self._read(model, x)
            (gradient,) = torch.autograd.grad(logits.amax(dim=1).sum(), x)
        z = z.detach()
        with torch.no_grad():
            flat = gradient.flatten(1)
            count = int(flat.shape[1] * self.share)
            least = flat.abs().topk(count, dim=1, largest=False, sorted=False).indices
            push = torch.zeros_like(flat).scatter_(1, least, STEP * flat.gather(1, least).sign())
            pushed, _ = self._read(model, batch + push.view_as(batch))
        z, pushed = z.to(precise(z.device)), pushed.to(precise(z.device))
        width = z.shape[1]
        a, b = (max(1, int(width * k / 100)) for k in (self.k_a, self.k_b))
        top = z.topk(max(a, b), dim=1).indices
        kept = pushed.relu().gather(1, top[:, :a]).sum(dim=1)
        shift = (z - pushed).abs().gather(1, top[:, :b]).sum(dim=1)
        return z, kept + self.weight * shift

    def fit_batches(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Self:
        """``Q'`` of ID images, in one pass of two forward passes and one backward pass."""
        parts = [
            self._statistic(model, part)[1]
            for images, _ in batches
            for part in images.split(_at_once(images))
        ]
        if not parts:
            raise BadScoresError(f"{self.label}: fit got no samples.")
        self.sorted_ = torch.cat(parts).sort().values
        return self

    def _percentile(self, statistic: Tensor) -> Tensor:
        reference = self.sorted_.to(statistic)
        below = torch.searchsorted(reference, statistic.contiguous(), right=True)
        share = below.to(statistic) / len(reference)
        return self.low + (1 - share) * (self.high - self.low)

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        """OOD scores ``[B]`` of inputs ``[B, C, H, W]``."""
        parts = []
        for images in batch.split(_at_once(batch)):
            z, statistic = self._statistic(model, images)
            head = network_of(model).head()  # known once a batch was seen
            if head is None or getattr(head, "norm_eps", None) is not None:
                raise MissingOutputError(
                    f"{self.label} needs a network with a linear head, and this one has "
                    f"{'none' if head is None else 'one of cosines'}. Choose another detector."
                )
            linear = Head(head.weight.detach(), head.bias.detach())
            parts.append(self._shaped(z, linear, ratios(z, self._percentile(statistic))))
        return torch.cat(parts)

    def _shaped(self, z: Tensor, head: Head, r: Tensor) -> Tensor:
        raise NotImplementedError


def _at_once(images: Tensor) -> int:
    """How many images have a gradient at a time: what a large batch needs fills a RAM."""
    return max(1, AT_ONCE * len(images) // images.numel())


_PAPER = Paper(
    title="AdaSCALE: Adaptive Scaling for OOD Detection",
    authors="Regmi, Sudarshan",
    venue="arXiv",
    year=2025,
    url="https://arxiv.org/abs/2503.08023",
    formula="s(x) = energy(W z exp(r_p) + b), p by the shift of the features under a push",
)


@register_detector("adascale-a")
@dataclass
class AdaScaleA(_AdaScale):
    """Energy of features scaled by a percentile of their own. Higher = more OOD; unbounded.

    Two forward passes and one backward pass per sample.

    Args:
        low: p_min, in percent; 75 in OpenOOD, which tries 60 to 95.
        high: p_max, in percent; 85 in OpenOOD, which tries 65 to 99.
        k_a: share of units in the sum of pushed features, in percent.
        k_b: share of units in the sum of shifts, in percent.
        weight: lambda of the shifts.
        share: o, of the input's entries that are pushed.
        fit_split: the ID split that makes F.

    Raises:
        OptionError: shares or percentiles outside their ranges.
        MissingOutputError: the network gives no features, no logits or has no linear head.
    """

    paper: ClassVar[Paper | None] = _PAPER

    def _shaped(self, z: Tensor, head: Head, r: Tensor) -> Tensor:
        return -head(z * r.exp()[:, None]).logsumexp(dim=1)


@register_detector("adascale-l")
@dataclass
class AdaScaleL(_AdaScale):
    """Energy of logits scaled by a percentile of their own. Higher = more OOD; unbounded.

    Two forward passes and one backward pass per sample.

    Args:
        low: p_min, in percent; 75 in OpenOOD, which tries 60 to 95.
        high: p_max, in percent; 85 in OpenOOD, which tries 65 to 99.
        k_a: share of units in the sum of pushed features, in percent.
        k_b: share of units in the sum of shifts, in percent.
        weight: lambda of the shifts.
        share: o, of the input's entries that are pushed.
        fit_split: the ID split that makes F.

    Raises:
        OptionError: shares or percentiles outside their ranges.
        MissingOutputError: the network gives no features, no logits or has no linear head.
    """

    paper: ClassVar[Paper | None] = replace(
        _PAPER,
        formula="s(x) = energy((W z + b) r_p^2), p by the shift of the features under a push",
    )

    def _shaped(self, z: Tensor, head: Head, r: Tensor) -> Tensor:
        return -(head(z) * r.square()[:, None]).logsumexp(dim=1)
