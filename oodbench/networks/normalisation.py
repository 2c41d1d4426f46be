"""Networks that normalise images themselves: found by what reaches their first layer.

Such a network wants pixels as they are, and what is normalised before it is normalised twice. Names
of modules and buffers say little of it, and constants in code say nothing, so constant images are
given to the network: of what comes to the first layer with weights, each value is
``(pixel - mean) / std`` of a mean and a deviation of the network's own, or it is the pixel.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from oodbench.data.transforms import Preprocess

_LAYERS = ("conv", "mm", "linear", "batch_norm", "layer_norm", "group_norm")
"""Parts of the names of PyTorch's operations that have weights."""


@dataclass(frozen=True)
class Normalisation:
    """What a network does to pixels before its first layer: ``(pixel - mean) / std``.

    Args:
        mean: one value per channel, or one for all.
        std: likewise.
        scale: the brightest pixel that it expects, 1 or 255.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:.4g}" for v in part) for part in (self.mean, self.std))
        return f"mean {mean}, std {std}, of pixels in [0, {self.scale:.0f}]"

    def is_like(self, other: Normalisation) -> bool:
        """Whether another is the same but for rounding."""
        return len(self.mean) == len(other.mean) and all(
            math.isclose(a, b, rel_tol=2e-3, abs_tol=1e-4)
            for a, b in zip(self.mean + self.std, other.mean + other.std, strict=True)
        )

    def plain(self, preprocess: Preprocess) -> Preprocess:
        """The preprocessing without a normalisation: pixels in ``[0, scale]``."""
        channels = len(preprocess.mean)
        return replace(preprocess, mean=(0.0,) * channels, std=(1 / self.scale,) * channels)


def own_normalisation(
    run_network: Callable[[Tensor], Any], channels: int, size: int = 224
) -> Normalisation | None:
    """The normalisation that a network applies itself; None if it applies none, or none is found.

    A learned scale, a change from one normalisation to another and statistics of the image at hand
    do not count.

    Args:
        run_network: runs the network on three images ``[3, channels, size, size]``. It is stopped
            after its first layers, and errors that it raises are ignored.
        channels: of the images.
        size: side of the images in pixels.
    """
    normalisation = _normalisation_at(run_network, (0.0, 0.5, 1.0), channels, size)
    again = normalisation and _normalisation_at(run_network, (0.25, 0.5, 1.0), channels, size)
    # two batches: a network that uses the statistics of the batch gives another result for each
    return normalisation if normalisation and again and normalisation.is_like(again) else None


def _normalisation_at(
    run_network: Callable[[Tensor], Any], levels: tuple[float, ...], channels: int, size: int
) -> Normalisation | None:
    images = torch.tensor(levels).view(3, 1, 1, 1).expand(3, channels, size, size)
    watch = _Watch()
    with contextlib.suppress(Exception), watch:  # whatever stops it, its first layer has run
        run_network(images.clone())
    if watch.first_input is None:
        return None
    low, half, high = watch.first_input.double().chunk(3)
    return _fitted(low, half, high, levels)


def _fitted(
    low: Tensor, half: Tensor, high: Tensor, levels: tuple[float, ...]
) -> Normalisation | None:
    inside = (high != low).flatten().nonzero().flatten()  # around it is a border of zeros
    few = torch.randint(len(inside), (20_000,), generator=torch.Generator().manual_seed(0))
    low, half, high = (part.flatten()[inside[few.sort().values]] for part in (low, half, high))
    slope = (high - low) / (levels[2] - levels[0])
    offset = low - levels[0] * slope
    pairs = torch.stack([-offset / slope, 1 / slope], dim=1)
    is_linear = torch.allclose(half, offset + levels[1] * slope, rtol=1e-3, atol=1e-3)
    if not is_linear or not pairs.isfinite().all():
        return None
    channels = _different(pairs)
    if not 1 <= len(channels) <= 4:
        return None
    mean, std = zip(*channels, strict=True)
    if all(0.02 < m < 0.98 for m in mean) and all(0 < s <= 1.001 for s in std):
        return Normalisation(mean, std)
    is_divided = all(abs(m) < 1e-3 and abs(s - 255) < 0.1 for m, s in channels)
    is_centred = all(2 < m < 250 for m in mean) and all(0 < s <= 256 for s in std)
    return Normalisation(mean, std, 255.0) if is_divided or is_centred else None


def _different(pairs: Tensor) -> list[tuple[float, float]]:
    """Means and deviations that many pixels share, in the order in which they come."""
    size = 10 ** (pairs.abs().clamp(min=1e-9).log10().floor() - 3)
    rounded = (pairs / size).round() * size
    # numbers of the values of each column, and of their pairs: rows are sorted ten times as slowly
    mean_place, std_place = (column.unique(return_inverse=True)[1] for column in rounded.T)
    _, place, count = (mean_place * len(pairs) + std_place).unique(
        return_inverse=True, return_counts=True
    )
    first = torch.full((len(count),), len(pairs)).scatter_reduce(
        0, place, torch.arange(len(pairs)), "amin"
    )
    shared: list[tuple[float, float]] = []
    # not what interpolation makes at a border, nor the other side of a rounding
    for index in first[count >= 0.01 * len(pairs)].sort().values.tolist()[:16]:
        mean, std = (float(f"{float(v):.4g}") + 0.0 for v in pairs[index])
        if not any(
            math.isclose(mean, m, rel_tol=2e-3, abs_tol=1e-4) and math.isclose(std, s, rel_tol=2e-3)
            for m, s in shared
        ):
            shared.append((mean, std))
    return shared


class _StopError(Exception):
    pass


class _Watch(TorchDispatchMode):
    """Stops at the first layer whose input depends on the image, and keeps that input."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.first_input: Tensor | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if any(part in name for part in _LAYERS):
            operands = [a for a in args if isinstance(a, Tensor)]
            value = operands[1 if "addmm" in name else 0].detach().float().cpu()
            if value.ndim > 1 and len(value) % 3 == 0:
                low, _, high = value.chunk(3)
                if not torch.equal(low, high):
                    self.first_input = value.clone()
                    raise _StopError
        return func(*args, **(kwargs or {}))


def fed(
    applied: Normalisation | None, preprocess: Preprocess, is_from_caller: bool
) -> tuple[Preprocess, str | None]:
    """The preprocessing for a network, and a note on it for the user, or None.

    A network that normalises images itself gets them plain, unless the caller says how.

    Args:
        applied: what it does itself; see :func:`own_normalisation`.
        preprocess: the benchmark's, or the caller's.
        is_from_caller: whether the caller or the network says how images are normalised for it.
    """
    if applied is None or applied.plain(preprocess) == preprocess:
        return preprocess, None
    plain = applied.plain(preprocess)
    if is_from_caller:
        return preprocess, (
            f"the network normalises images itself ({applied}), and the preprocessing that was "
            f"given normalises them before (mean {preprocess.mean}, std {preprocess.std}): they "
            f"are normalised twice. Leave it out, or give mean {plain.mean} and std {plain.std}."
        )
    return plain, (
        f"the network normalises images itself ({applied}); it is given pixels in "
        f"[0, {applied.scale:.0f}], without the benchmark's normalisation."
    )
