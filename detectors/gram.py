r"""Gram: how far the correlations between feature maps leave the range they have on training data.

Paper: C. S. Sastry, S. Oore, "Detecting Out-of-Distribution Examples with Gram Matrices", ICML
2020. arXiv:1912.12510

For a layer's map :math:`F \in R^{C \times HW}` and order p, the statistics are the row sums of

.. math:: G^p = \bigl(F^p (F^p)^\top\bigr)^{1/p}, \quad
    g^p = \operatorname{sign}\Bigl|F^p \bigl((F^p)^\top 1\bigr)\Bigr|^{1/p}

(the root is taken of the sums, as in the authors' code), which needs no Gram matrix. Their
smallest and largest values over training samples predicted as class c give

.. math:: \delta_l(x) = \sum_{p, d} \frac{[\min - g]_+}{|\min|} + \frac{[g - \max]_+}{|\max|},
    \quad s(x) = \frac{1}{\max_c p_c(x)} \sum_l \frac{\delta_l(x)}{\operatorname{mean} \delta_l}

with the mean over held-out training samples, and the minimum and maximum those of the predicted
class.

Differs from the reference code: (1) each map is divided by its largest value first and the
statistic multiplied back, so that no power overflows; (2) held out is every tenth training sample,
2,000 at most, not a random tenth; a class that no training sample is predicted as takes the range
of all. Differs from pytorch-ood: ranges by predicted class (there: by label), and the division by
the largest probability (``confidence=False`` there).
Checked against: pytorch-ood 0.4.0's statistics (tests/detectors/test_gram.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from oodbench.detector import Detector, learned
from oodbench.errors import BadScoresError, MissingOutputError, OptionError
from oodbench.networks.models import outputs_of
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._figures import openood
from ._network import hooked, modules_of
from ._numerics import precise

HELD_OUT = 2000
AT_ONCE = 2**20
"""Values of maps that are raised to powers at a time by a CPU: they stay in its caches, and threads
wait for each other seldom enough to share their cores with other work."""
ON_DEVICE = 2**26
"""The same on an accelerator, which is quickest with much to do at once."""
SINGLE = 5
"""The highest order that single precision holds: higher powers of small values vanish in it."""


def gram_statistics(maps: Tensor, powers: Sequence[int]) -> Tensor:
    """``g^p`` of maps ``[B, C, H, W]`` for all orders: ``[B, P x C]``, float64 where there is that.

    Powers are taken in the maps' own precision up to order 5, and in float64 beyond.
    """
    x = maps.flatten(2)
    wide = precise(x.device)
    x = x.to(wide) if max(powers) > SINGLE else x.float() if x.itemsize < 4 else x
    values = AT_ONCE if x.device.type == "cpu" else ON_DEVICE
    images = max(1, values * len(x) // x.numel())
    return torch.cat([_statistics(part, powers).to(wide) for part in x.split(images)])


def _statistics(x: Tensor, powers: Sequence[int]) -> Tensor:
    """``[B, P x C]`` of maps ``[B, C, HW]``; each power is made of the one before."""
    low, high = x.amin(dim=(1, 2), keepdim=True), x.amax(dim=(1, 2), keepdim=True)
    scale = torch.maximum(-low, high).clamp(min=1e-30)  # the largest |x|, without a copy of it
    x = x / scale
    ones = x.new_ones(len(x), 1, x.shape[1])
    power, sums = x, {}
    for p in range(1, max(powers) + 1):
        if p > 1:
            power = torch.mul(power, x, out=None if p == 2 else power)
        if p in powers:
            # a row times a matrix, both times: several times as quick as a matrix times a column
            sums[p] = (ones @ power @ power.mT)[:, 0]  # [B, C], F^p ((F^p)^T 1)
    squared = scale.square()[:, :, 0]
    return torch.cat([squared * sums[p].sign() * sums[p].abs() ** (1 / p) for p in powers], dim=1)


@register_detector("gram")
@dataclass
class Gram(Detector):
    """Deviation of Gram statistics, over the confidence. Higher = more OOD; range [0, inf).

    Keeps two numbers per class, order and channel, and the statistics of 2,000 training samples
    while it is fitted. Every tenth sample is held out, so scores depend on the samples' order.

    One forward pass; on a CPU the statistics take less than another of a small network.

    Args:
        powers: orders p; 1 to 5 in OpenOOD, 1 to 10 in the paper.
        layers: modules whose maps are read; empty for all convolutions and ReLU modules.
        confidence: whether the deviation is divided by the largest probability.

    Raises:
        OptionError: an order below 1, or a layer that the network does not have.
        MissingOutputError: none of the layers gives maps.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    paper: ClassVar[Paper | None] = Paper(
        title="Detecting Out-of-Distribution Examples with Gram Matrices",
        authors="Sastry, Chandramouli Shama and Oore, Sageev",
        venue="ICML",
        year=2020,
        url="https://arxiv.org/abs/1912.12510",
        formula="s(x) = sum over layers of the deviation of Gram statistics from their range",
        figures=openood((58.66, 71.73), (51.66, 73.36)),
    )

    powers: tuple[int, ...] = (1, 2, 3, 4, 5)
    layers: tuple[str, ...] = ()
    confidence: bool = True
    low_: dict[str, Tensor] = learned()  # [C, P x channels] by layer
    high_: dict[str, Tensor] = learned()
    expected_: dict[str, float] = learned()

    def __post_init__(self) -> None:
        if not self.powers or min(self.powers) < 1:
            raise OptionError("gram: powers are whole numbers from 1 on.")

    def _modules(self, model: nn.Module) -> dict[str, nn.Module]:
        if self.layers:
            return modules_of(model, self.layers, "gram")
        kinds = nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ReLU
        return {name: m for name, m in model.named_modules() if isinstance(m, kinds)}

    def _read(self, model: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Statistics by layer, and the logits."""
        gathered: dict[str, list[Tensor]] = {}

        def note(name: str, maps: Tensor) -> None:
            if maps.ndim >= 3:
                # a module that is used several times, such as a shared ReLU, has several maps
                gathered.setdefault(name, []).append(gram_statistics(maps, self.powers))

        with torch.no_grad(), hooked(self._modules(model), note):
            logits = outputs_of(model)(images)["logits"]
            logits = logits.to(precise(logits.device))
        if not gathered:
            raise MissingOutputError(
                "gram needs a network with feature maps; none of its layers gives one. "
                "Choose another detector."
            )
        return {name: torch.cat(parts, dim=1) for name, parts in gathered.items()}, logits

    def fit_batches(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Self:
        """Ranges by predicted class of the statistics of training images, in one pass."""
        low: dict[str, Tensor] = {}
        high: dict[str, Tensor] = {}
        held: list[tuple[dict[str, Tensor], Tensor]] = []
        kept = rows_read = 0
        for images, _ in batches:
            statistics, logits = self._read(model, images)
            predicted = logits.argmax(dim=1)
            place = torch.arange(rows_read, rows_read + len(images), device=images.device)
            rows_read += len(images)
            out = place % 10 == 9
            if kept < HELD_OUT and out.any():
                held.append(({n: g[out].float() for n, g in statistics.items()}, predicted[out]))
                kept += int(out.sum())
            else:
                out[:] = False
            for name, g in statistics.items():
                if name not in low:
                    shape = (logits.shape[1], g.shape[1])
                    low[name], high[name] = (
                        g.new_full(shape, torch.inf),
                        g.new_full(shape, -torch.inf),
                    )
                rows = predicted[~out, None].expand(-1, g.shape[1])
                low[name].scatter_reduce_(0, rows, g[~out], "amin")
                high[name].scatter_reduce_(0, rows, g[~out], "amax")
        if not low:
            raise BadScoresError("gram: fit got no training samples.")
        for name in low:
            never = low[name].isinf().any(dim=1)
            low[name][never] = low[name].amin(dim=0)
            high[name][never] = high[name].amax(dim=0)
        self.low_, self.high_ = low, high
        self.expected_ = dict.fromkeys(low, 1.0)
        if held:
            deviations = [self._deviations(g, predicted) for g, predicted in held]
            for name in low:
                mean = float(torch.cat([d[name] for d in deviations]).mean())
                self.expected_[name] = mean if mean > 0 else 1.0
        return self

    def _deviations(self, statistics: dict[str, Tensor], predicted: Tensor) -> dict[str, Tensor]:
        deviations = {}
        for name, g in statistics.items():
            low, high = self.low_[name].to(g.device), self.high_[name].to(g.device)
            low, high = low[predicted], high[predicted]
            below = (low - g).relu() / (low + 1e-6).abs().clamp(min=1e-12)
            above = (g - high).relu() / (high + 1e-6).abs().clamp(min=1e-12)
            deviations[name] = (below + above).sum(dim=1)
        return deviations

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        """OOD scores ``[B]`` of inputs ``[B, C, H, W]``."""
        statistics, logits = self._read(model, batch)
        deviations = self._deviations(statistics, logits.argmax(dim=1))
        total = sum(
            (d / self.expected_[name] for name, d in deviations.items()),
            logits.new_zeros(len(batch)),
        )
        return total / logits.softmax(dim=1).amax(dim=1) if self.confidence else total
