r"""WeiPer + KLD: what a head's random perturbations say, and how its values are distributed.

Paper: M. Granz, M. Heurich, T. Landgraf, "WeiPer: OOD Detection using Weight Perturbations of Class
Projections", NeurIPS 2024. arXiv:2405.17164
Code:  mgranz/weiper, written anew from the paper

R copies of the head, each row turned by a unit Gaussian direction n of its own, the bias unchanged:

.. math:: \tilde w^{(r)}_c = w_c + \delta \lVert w_c \rVert n_{rc}, \quad
    w = \bigl(\tilde W^{(1)} f + b, \dots, \tilde W^{(R)} f + b\bigr) \in R^{RC}

Two histograms of a **sample's own** coordinates, of f and of w, over the range of all training
values in ``bins`` equal bins; entries beyond it are in none, but count. With the training mean
:math:`\bar p` and the sample's q, smoothed by a moving average of s bins (ends repeated), both with
:math:`\epsilon` added and normalised again:

.. math:: K = \operatorname{KL}(\bar p \Vert q) + \operatorname{KL}(q \Vert \bar p), \quad
    s(x) = K_f + \lambda_1 K_w - \lambda_2 \tfrac1R \sum_r \max_c
    \operatorname{softmax}(\tilde W^{(r)} f + b)_c

Differs from the reference code: (1) the directions are drawn once, in ``fit``, from ``seed``:
theirs passes them under a wrong keyword, so that each call scores with other heads; (2) the largest
training value is in the last bin in single precision too, where the 1e-8 that theirs adds to the
range is lost; (3) all training samples count alike in the mean (theirs: all batches, so that those
of a last, smaller one count more).
Checked against: the definition, sample by sample in NumPy with the same heads, and a case by hand
(tests/detectors/test_weiper.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Head, Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._numerics import at_work, precise

EPS_F, EPS_W = 0.01, 0.025
"""What is added to the shares in the bins of features and of perturbed logits."""

AT_ONCE = 2**21
"""Perturbed logits at a time, but those of ``LEAST`` samples: all heads are read for each part."""
LEAST = 64


def perturbed_heads(weight: Tensor, delta: float, repeats: int, seed: int) -> Tensor:
    """``[R, C, D]``: copies of the rows ``[C, D]``, each turned by a direction of its own.

    Args:
        weight: of the head.
        delta: length of what is added, relative to the row's.
        repeats: R.
        seed: of the directions, which are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(repeats, *weight.shape, generator=generator, dtype=torch.float64)
    rows = weight.detach().cpu().double()
    # in place, as it is 0.8 GB for ImageNet's classes and 1,024 features
    noise /= noise.norm(dim=2, keepdim=True)
    noise *= delta * rows.norm(dim=1)[:, None]
    noise += rows
    return noise.to(weight)


def shares(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """Share of each row of ``[N, M]`` in each bin of [low, high + 1e-8], ``[N, bins]``."""
    place = ((values - low) * (bins / (high + 1e-8 - low))).floor().long().clamp_(max=bins - 1)
    place[(values < low) | (values > high)] = bins  # beyond: a bin that is dropped
    place += (bins + 1) * torch.arange(len(values), device=values.device)[:, None]
    counts = torch.bincount(place.flatten(), minlength=len(values) * (bins + 1))
    return counts.view(len(values), bins + 1)[:, :bins].to(values) / values.shape[1]


def moving_average(q: Tensor, size: int) -> Tensor:
    """Mean of ``size`` neighbouring columns of ``[N, bins]``, the end ones repeated.

    Of an even size one more lies to the right.
    """
    left = (size - 1) // 2
    whole = torch.cat([q[:, :1].expand(-1, left), q, q[:, -1:].expand(-1, size - 1 - left)], dim=1)
    return whole.unfold(1, size, 1).mean(dim=2)


def divergence(p: Tensor, q: Tensor, eps: float) -> Tensor:
    """``KL(p || q) + KL(q || p)`` of shares ``[bins]`` and ``[N, bins]`` after eps is added."""
    p, q = p + eps, q + eps
    p, q = p / p.sum(), q / q.sum(dim=1, keepdim=True)
    return ((p - q) * (p.log() - q.log())).sum(dim=1)


@register_detector("weiper")
@dataclass
class WeiPer(Detector):
    """Divergences of a sample's histograms, minus the perturbed MSP. Higher = more OOD; unbounded.

    Keeps the perturbed heads, ``[R, C, D]``; of perturbed logits there are at most 2^21 at a time,
    or those of 64 samples. Directions are drawn row by row, so scores depend on the order of the
    classes.

    Args:
        repeats: R; 100 in the paper.
        delta: length of the perturbation, relative to the row's; 1.8 in the authors' settings.
        bins: of both histograms.
        smoothing: s for features.
        smoothing_perturbed: s for perturbed logits.
        lambda_1: weight of the perturbed logits' divergence.
        lambda_2: weight of the perturbed MSP.
        seed: of the directions.

    Raises:
        OptionError: a number below 1, or smoothing of more than there are bins.
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "head"})
    grid: ClassVar = {
        "delta": (1.8, 2.0, 2.2, 2.4),
        "smoothing": (4, 8, 12, 20, 40),
        "smoothing_perturbed": (15, 25, 40),
        "lambda_1": (0.1, 1.0, 2.5, 4.0),
        "lambda_2": (0.1, 0.25, 1.0, 2.5, 5.0),
    }
    paper: ClassVar[Paper | None] = Paper(
        title="WeiPer: OOD Detection using Weight Perturbations of Class Projections",
        authors="Granz, Maximilian and Heurich, Manuel and Landgraf, Tim",
        venue="NeurIPS",
        year=2024,
        url="https://arxiv.org/abs/2405.17164",
        formula="s(x) = KLD_f + lambda_1 KLD_w - lambda_2 MSP_w, w the logits of perturbed heads",
        figures=(
            "ResNet-18, CIFAR-10: near-OOD AUROC 90.54, far-OOD AUROC 93.12",
            "ResNet-18, CIFAR-100: near-OOD AUROC 81.37, far-OOD AUROC 79.01",
        ),
    )

    repeats: int = 100
    delta: float = 1.8
    bins: int = 100
    smoothing: int = 4
    smoothing_perturbed: int = 15
    lambda_1: float = 2.5
    lambda_2: float = 0.1
    seed: int = 0
    weights_: Tensor = learned()  # [R, C, D]
    ranges_: tuple[float, float, float, float] = learned()  # of f and of w
    p_f_: Tensor = learned()  # [bins]
    p_w_: Tensor = learned()  # [bins]

    def __post_init__(self) -> None:
        for name in ("repeats", "bins", "smoothing", "smoothing_perturbed"):
            if getattr(self, name) < 1:
                raise OptionError(f"weiper: {name} must be at least 1, not {getattr(self, name)}.")
        if max(self.smoothing, self.smoothing_perturbed) > self.bins:
            raise OptionError(f"weiper: smoothing is over {self.bins} bins at most; see bins.")

    def _both(self, outputs: Outputs, head: Head) -> Iterator[tuple[Tensor, Tensor]]:
        """Features ``[B, D]`` and perturbed logits ``[B, R, C]``, block by block."""
        repeats, classes, width = self.weights_.shape
        rows = max(LEAST, AT_ONCE // max(repeats * classes, width))
        for batch in outputs.batches(rows):
            f = at_work(batch.features)
            w = f @ self.weights_.to(f).flatten(0, 1).T
            yield f, w.view(len(f), repeats, classes) + head.bias.to(f)

    def fit(self, train: Outputs) -> Self:
        """The perturbed heads, and ranges and mean shares of features ``[N, D]``, in two passes."""
        head = train.linear_head()
        weight = at_work(head.weight, exact=train.features.dtype == torch.float64)
        self.weights_ = perturbed_heads(weight, self.delta, self.repeats, self.seed)
        ends: list[list[float]] = []
        for f, w in self._both(train, head):
            ends.append([float(end) for end in (*f.aminmax(), *w.aminmax())])
        low_f, high_f, low_w, high_w = zip(*ends, strict=True)
        self.ranges_ = min(low_f), max(high_f), min(low_w), max(high_w)
        total_f: Tensor | float = 0.0
        total_w: Tensor | float = 0.0
        for f, w in self._both(train, head):
            q_f, q_w = self._shares(f, w)
            wide = precise(f.device)
            total_f = total_f + q_f.sum(dim=0, dtype=wide)
            total_w = total_w + q_w.sum(dim=0, dtype=wide)
        self.p_f_, self.p_w_ = (torch.as_tensor(t) / len(train) for t in (total_f, total_w))
        return self

    def _shares(self, f: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        low_f, high_f, low_w, high_w = self.ranges_
        return (
            shares(f, low_f, high_f, self.bins),
            shares(w.flatten(1), low_w, high_w, self.bins),
        )

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and the head."""
        parts = [torch.empty(0)]
        for f, w in self._both(outputs, outputs.linear_head()):
            q_f, q_w = self._shares(f, w)
            k_f = divergence(self.p_f_.to(f), moving_average(q_f, self.smoothing), EPS_F)
            k_w = divergence(self.p_w_.to(f), moving_average(q_w, self.smoothing_perturbed), EPS_W)
            # the largest of softmax(w) is 1 / sum exp(w - max w)
            msp = 1 / (w - w.amax(dim=2, keepdim=True)).exp_().sum(dim=2)
            parts.append(k_f + self.lambda_1 * k_w - self.lambda_2 * msp.mean(dim=1))
        return torch.cat(parts[1:] or parts)
