"""Numerics that several detectors share: moments, subspaces, percentiles.

Everything reads its data in blocks, so that features larger than memory can be mapped from disk.
(That they are finite is checked by the base class, once for all.)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oodbench.errors import BadScoresError, OODBenchWarning, OptionError
from oodbench.outputs import Outputs
from oodbench.runtime.machine import free_memory

BLOCK = 2**20
"""Values read at a time, of the columns at hand: 2,048 rows of 512 features."""

EXPONENTS = 85.0
"""exp() of what is closer to zero neither overflows nor vanishes in float32."""


def blocks(outputs: Outputs, *columns: str, least: int = 256) -> Iterator[Outputs]:
    """Consecutive pieces of at most ``BLOCK`` values (but ``least`` rows) of those columns."""
    width = sum(getattr(outputs, column).shape[1] for column in columns)
    rows = max(least, BLOCK // max(width, 1))
    if 0 < len(outputs) <= rows:
        yield outputs
    else:
        yield from outputs.batches(rows)


def precise(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that have no float64 (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def normalize(features: Tensor, eps: float = 1e-10) -> Tensor:
    """Rows of ``[N, D]`` divided by (L2 norm + eps); a zero row stays zero."""
    return features / (features.norm(dim=1, keepdim=True) + eps)


@dataclass
class Moments:
    """Mean and scatter of features, grouped or not.

    Args:
        counts: samples per group, ``[G]``.
        means: ``[G, D]``.
        scatter: ``[D, D]``, the sum over samples of ``(z - mean_g)(z - mean_g)^T``.
    """

    counts: Tensor
    means: Tensor
    scatter: Tensor


def moments(
    outputs: Outputs,
    who: str,
    groups: int | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    exact: bool = True,
) -> Moments:
    """Means by class (or one mean, ``groups=None``) and the pooled within-group scatter, one pass.

    Each block's moments are merged into the running ones by the update of Chan, Golub and LeVeque
    (1979), in float64: numerically stable where the sum of squares minus squared sum is not. A
    merge costs what a row for each group does, so blocks have at least four times as many rows.

    Args:
        outputs: features ``[N, D]``, and labels when grouped.
        who: the detector, for messages.
        groups: number of classes C; None for one group.
        transform: applied to each block ``[B, D]`` first.
        exact: whether products within a block are taken in float64; else in float32 where the
            features are no wider. Sums over blocks are in float64 either way.

    Raises:
        BadScoresError: a class without a sample.
    """
    stats: Moments | None = None
    for batch in blocks(outputs, "features", least=max(256, 4 * (groups or 0))):
        z = at_work(batch.features, exact)  # [B, D]
        z = transform(z) if transform else z
        stats = merged(stats, z, batch.labels if groups else None, groups or 1)
    if stats is None:
        raise BadScoresError(f"{who}: fit got no training samples.")
    require_all_classes(stats.counts, who)
    return stats


def merged(stats: Moments | None, z: Tensor, y: Tensor | None, groups: int = 1) -> Moments:
    """Moments of what was seen before and of a further block, as :func:`moments` says.

    Args:
        stats: of what was seen before, changed in place; None at the beginning.
        z: the block, ``[B, D]``.
        y: its groups, ``[B]``; None where there is one.
        groups: how many there are.
    """
    if stats is None:
        means = torch.zeros(groups, z.shape[1], dtype=precise(z.device), device=z.device)
        scatter = means.new_zeros(z.shape[1], z.shape[1])
        stats = Moments(means.new_zeros(groups), means, scatter)
    means, scatter, counts = stats.means, stats.scatter, stats.counts
    if y is not None:
        n = torch.bincount(y, minlength=groups).to(means)  # [G]
        m = z.new_zeros(means.shape).index_add_(0, y, z) / n.clamp(min=1)[:, None].to(z)
        centred = z - m[y]
    else:
        n, m = counts.new_full((1,), len(z)), z.mean(dim=0, keepdim=True)
        centred = z - m
    total = counts + n
    delta = m.to(means) - means  # [G, D]
    weight = counts * n / total.clamp(min=1)  # [G]
    scatter += centred.T @ centred
    scatter += delta.T @ (weight[:, None] * delta)
    means += delta * (n / total.clamp(min=1))[:, None]
    return Moments(total, means, scatter)


def feature_mean(outputs: Outputs) -> Tensor:
    """The mean feature ``[D]``, in one pass."""
    total = torch.zeros(
        outputs.features.shape[1],
        dtype=precise(outputs.features.device),
        device=outputs.features.device,
    )
    for batch in blocks(outputs, "features"):
        total += at_work(batch.features).sum(dim=0)
    return total / len(outputs)


def require_all_classes(counts: Tensor, who: str) -> None:
    if (counts == 0).any():
        empty = (counts == 0).nonzero().flatten().tolist()
        raise BadScoresError(
            f"{who}: fit needs every class; no training sample of classes {empty[:10]}."
        )


def at_once(dim: int) -> int:
    """How many matrices ``[D, D]`` are worked on at a time: 2^25 values, or one."""
    return max(1, 2**25 // dim**2)


def require_room(z: Tensor, classes: int, who: str) -> None:
    """Check that a matrix ``[D, D]`` for each class fits into memory, twice for what is made of it.

    Raises:
        OptionError: it does not.
    """
    dim, free = z.shape[1], free_memory(z.device)
    taken = 2 * classes * dim**2 * z.element_size()
    if taken > free:
        raise OptionError(
            f"{who}: a covariance for each of {classes:,} classes of {dim:,} features takes "
            f"{taken / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. Have one for all "
            "(gmm: `covariance=tied`, ssd: `clusters=one`), or use a machine with more memory."
        )


def pseudo_inverse(symmetric: Tensor) -> Tensor:
    """Moore-Penrose inverse of a symmetric positive semi-definite ``[D, D]`` matrix."""
    return torch.linalg.pinv(symmetric, hermitian=True)


def squared_mahalanobis(z: Tensor, means: Tensor, precision: Tensor) -> Tensor:
    """``(z - mean_g)^T precision (z - mean_g)`` for all pairs: ``[N, D], [G, D] -> [N, G]``."""
    projected = z @ precision  # [N, D]
    own = (projected * z).sum(dim=1, keepdim=True)
    cross = projected @ means.T
    centre = ((means @ precision) * means).sum(dim=1)
    return (own - 2 * cross + centre).clamp(min=0)


def squared_mahalanobis_each(z: Tensor, means: Tensor, precisions: Tensor) -> Tensor:
    """:func:`squared_mahalanobis` with a precision ``[G, D, D]`` for each group: ``[N, G]``.

    As many rows at a time as keep G x rows x D below 2^22 values.
    """
    origin = means.mean(dim=0)  # what is squared stays small
    shifted = means - origin
    projected_means = (precisions @ shifted[:, :, None])[:, :, 0]  # [G, D]
    own_means = (projected_means * shifted).sum(dim=1)
    parts = []
    for part in (z - origin).split(max(1, 2**22 // means.numel())):
        own = ((part @ precisions) * part).sum(dim=2).T
        parts.append(own - 2 * part @ projected_means.T + own_means)
    return torch.cat(parts).clamp(min=0)


@dataclass
class Subspace:
    """Principal axes of features around a centre.

    Args:
        centre: ``[D]``.
        axes: ``[D, D]``, orthonormal columns, by falling variance.
        variances: ``[D]``, along the axes.
    """

    centre: Tensor
    axes: Tensor
    variances: Tensor


def principal_axes(stats: Moments, centre: Tensor | None = None) -> Subspace:
    """Eigenvectors of the second moment about a centre; about the mean, if that is None.

    Args:
        stats: moments of one group.
        centre: ``[D]``; the second moment about it is ``S + n (mean - c)(mean - c)^T``.
    """
    n, mean = stats.counts.sum(), stats.means[0]
    centre = mean if centre is None else centre.to(mean)
    shift = mean - centre
    variances, axes = torch.linalg.eigh(stats.scatter / n + torch.outer(shift, shift))
    return Subspace(centre, axes.flip(1).contiguous(), variances.flip(0).clamp(min=0))


def class_moments(
    outputs: Outputs,
    who: str,
    classes: int,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts ``[C]``, means ``[C, D]`` and each class's own scatter ``[C, D, D]``, in one pass.

    The rows of a block are laid out in segments of one class each, all of one length, so that one
    batched product gives their scatters, whether classes come mixed or one after the other; at
    most half of the layout is empty. Blocks are merged as in :func:`moments`.

    Raises:
        BadScoresError: a class without a sample.
        OptionError: the scatters of so many classes take more memory than is free.
    """
    if len(outputs):  # before anything of the size of all classes is made
        require_all_classes(torch.bincount(outputs.labels.long(), minlength=classes), who)
    means = scatter = counts = None
    for batch in blocks(outputs, "features"):
        z, y = at_work(batch.features, exact=True), batch.labels
        z = transform(z) if transform else z
        if means is None or counts is None or scatter is None:
            require_room(z, classes, who)
            means = z.new_zeros(classes, z.shape[1])
            scatter = z.new_zeros(classes, z.shape[1], z.shape[1])
            counts = z.new_zeros(classes)
        sizes = torch.bincount(y, minlength=classes)
        here = sizes.nonzero().flatten()
        n = sizes.to(z)
        m = z.new_zeros(means.shape).index_add_(0, y, z) / n.clamp(min=1)[:, None]
        length = -(-len(y) // len(here))
        segments = -(-sizes // length)
        order = y.argsort(stable=True)
        y = y[order]
        rank = torch.arange(len(y), device=y.device) - (sizes.cumsum(0) - sizes)[y]
        row = (segments.cumsum(0) - segments)[y] + rank // length
        laid = z.new_zeros(int(segments.sum()), length, z.shape[1])
        laid[row, rank % length] = z[order] - m[y]
        owner = torch.arange(classes, device=y.device).repeat_interleave(segments)
        for some in torch.arange(len(laid), device=y.device).split(at_once(z.shape[1])):
            scatter.index_add_(0, owner[some], laid[some].mT @ laid[some])
        total = counts + n
        delta = (m - means)[here]
        weighted = (counts * n / total.clamp(min=1))[here, None] * delta
        for some in torch.arange(len(here), device=y.device).split(at_once(z.shape[1])):
            scatter.index_add_(0, here[some], weighted[some, :, None] * delta[some, None, :])
        means[here] += delta * (n / total.clamp(min=1))[here, None]
        counts = total
    if means is None or counts is None or scatter is None:
        raise BadScoresError(f"{who}: fit got no training samples.")
    require_all_classes(counts, who)
    return counts, means, scatter


def percentiles(outputs: Outputs, shares: Sequence[float]) -> list[float]:
    """Percentiles over all activations ``[N x D]`` jointly: exact, in two passes, in 0.5 MB.

    A float32 has the order of an integer made of its bits. The first pass counts the activations
    by the upper 16 of them, the second those in the bins that matter by the lower 16; that gives
    the order statistics themselves. Between two of them it interpolates linearly, as
    ``numpy.percentile`` does. Of wider floats, a third pass tells apart those that are one float32.

    Args:
        outputs: features ``[N, D]``.
        shares: in [0, 1]; 0.9 for the 90th percentile.
    """

    def keys() -> Iterator[Tensor]:
        for batch in blocks(outputs, "features"):
            bits = batch.features.float().contiguous().view(torch.int32)
            yield _ordered(bits).flatten()

    coarse = torch.zeros(2**16, dtype=torch.int64, device=outputs.features.device)
    for key in keys():
        coarse += torch.bincount((key >> 16) + 2**15, minlength=2**16)
    ends = coarse.cumsum(0)
    positions = [share * (int(ends[-1]) - 1) for share in shares]
    ranks = sorted({whole for p in positions for whole in (math.floor(p), math.ceil(p))})
    bins = torch.searchsorted(ends, torch.tensor(ranks, device=ends.device), right=True)
    fine = {high: torch.zeros(2**16, dtype=torch.int64) for high in sorted(set(bins.tolist()))}
    for key in keys():
        high = (key >> 16) + 2**15
        for wanted in fine:  # one or two bins a percentile
            lower = key[high == wanted] & 0xFFFF
            fine[wanted] += torch.bincount(lower, minlength=2**16).cpu()
    values, places = {}, {}
    for rank, high in zip(ranks, bins.tolist(), strict=True):
        inside = rank - int(ends[high] - coarse[high])
        below = fine[high].cumsum(0)
        low = int(torch.searchsorted(below, inside, right=True))
        key = torch.tensor(((high - 2**15) << 16) | low, dtype=torch.int32)
        places[rank] = int(key), inside - int(below[low] - fine[high][low])
        values[rank] = float(_ordered(key).view(torch.float32))
    if outputs.features.dtype == torch.float64:
        values = _unrounded(outputs, places)
    return [
        values[math.floor(p)] + (p - math.floor(p)) * (values[math.ceil(p)] - values[math.floor(p)])
        for p in positions
    ]


def _unrounded(outputs: Outputs, places: dict[int, tuple[int, int]]) -> dict[int, float]:
    """The float64 activations that are order statistics, by their rank.

    Args:
        outputs: features ``[N, D]``.
        places: by rank, the key of the activation in float32, and its rank among those of that key.
    """
    parts: dict[int, list[tuple[Tensor, Tensor]]] = {key: [] for key, _ in places.values()}
    for batch in blocks(outputs, "features"):
        keys = _ordered(batch.features.float().contiguous().view(torch.int32))
        for key, found in parts.items():
            # zeros, behind a ReLU, are one value with its number
            found.append(batch.features[keys == key].unique(return_counts=True))
    values = {}
    for rank, (key, inside) in places.items():
        several, counts = (torch.cat(columns) for columns in zip(*parts[key], strict=True))
        order = several.argsort()
        values[rank] = float(several[order][int((counts[order].cumsum(0) <= inside).sum())])
    return values


def _ordered(bits: Tensor) -> Tensor:
    # negative floats fall as their bits rise; its own inverse
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def unit_percentiles(outputs: Outputs, shares: Sequence[float]) -> Tensor:
    """Percentiles of each unit by itself, ``[len(shares), D]``: exact, by stripes of units.

    A stripe holds at most 2^24 activations; the features are read once per stripe.
    """
    width = max(1, 2**24 // max(len(outputs), 1))
    stripes = []
    for start in range(0, outputs.features.shape[1], width):
        stripe = outputs.features[:, start : start + width].float()
        stripes.append(np.quantile(stripe.cpu().numpy(), shares, axis=0))
    return torch.from_numpy(np.concatenate(stripes, axis=1))


def in_blocks(
    outputs: Outputs, score: Callable[..., Tensor], *columns: str, exact: bool = False
) -> Tensor:
    """``score`` of each block of the columns, joined: ``[N]``.

    Args:
        outputs: what is scored.
        score: from ``[B, ...]`` tensors to ``[B]``.
        columns: ``"features"``, ``"logits"``, in the order of its arguments.
        exact: whether blocks come in float64; else in float32, and float64 where they are that
            already. Differences of large numbers want it.
    """
    whole, start = None, 0
    for batch in blocks(outputs, *columns):
        values = [getattr(batch, column) for column in columns]
        part = score(*(at_work(value, exact) for value in values))
        if len(part) == len(outputs):
            return part
        if whole is None:  # filled in place: small parts that are kept would split up the heap
            whole = part.new_empty(len(outputs), *part.shape[1:])
        whole[start : start + len(part)] = part
        start += len(part)
    return torch.empty(0) if whole is None else whole


def at_work(values: Tensor, exact: bool = False) -> Tensor:
    """In float64 if that is asked for or they are already, else in float32."""
    if exact:
        return values.to(precise(values.device))
    return values if values.dtype == torch.float64 else values.float()


def log_sum_exp(logits: Tensor, log_weights: Tensor | None = None) -> Tensor:
    """``log sum_c w_c exp f_c`` of ``[N, C]``; the weights are 1 unless given as logarithms.

    Logits that cannot overflow are stats as they are, with no largest one subtracted first: as
    exact, and twice as fast.
    """
    if log_weights is None:
        weights, span = logits.new_ones(logits.shape[1]), 0.0
    else:
        weights = log_weights.exp().to(logits)
        span = float(log_weights.nan_to_num(neginf=0.0).abs().amax())
    low, high = (float(end) for end in logits.aminmax()) if logits.numel() else (0.0, 0.0)
    if max(-low, high) + span + math.log(len(weights)) < EXPONENTS:
        return (logits.exp() @ weights).log()
    return (logits if log_weights is None else logits + log_weights.to(logits)).logsumexp(dim=1)


def msp_score(logits: Tensor) -> Tensor:
    """``-log max_c softmax(f)_c`` of ``[N, C]``, with no ties among confident samples.

    It is ``log(1 + sum over the other classes of exp(f_c - f_max))``: the sum keeps its digits
    where ``1 - p`` rounds to zero.
    """
    top = logits.max(dim=1, keepdim=True)
    others = (logits - top.values).exp().scatter(1, top.indices, 0.0)
    return others.sum(dim=1).log1p()


def number_of_classes(train: Outputs) -> int:
    """C: as many as there are logits, else up to the highest label."""
    return train.logits.shape[1] if train.has("logits") else int(train.labels.max()) + 1


def kept_units(width: int, share: float, who: str) -> int:
    """How many of ``width`` units remain when a share of them is pruned: ``n - round(n share)``.

    The rounding is NumPy's, as in the reference codes of ASH and SCALE.

    Raises:
        OptionError: none would remain.
    """
    kept = width - int(np.round(width * share))
    if kept < 1:
        raise OptionError(
            f"{who}: pruning {share:.0%} of {width} features leaves none; choose a smaller "
            "percentile."
        )
    return kept


def warn_if_signed(outputs: Outputs, who: str) -> None:
    """Say what share of the features is negative, of the first 4,096 samples, if any is.

    Args:
        outputs: features ``[N, D]``; those within 1e-6 of the largest of zero do not count.
        who: the detector, which takes them for those behind a ReLU.
    """
    z = outputs.features[:4096]
    if not z.numel():
        return
    low, high = (float(end) for end in z.aminmax())
    if low >= -1e-6 * max(-low, high):
        return
    share = 100 * float((z < 0).double().mean())
    warnings.warn(
        f"{who}: {share:.2g} % of the features are negative (of a ViT, an embedding, or behind a "
        f"SiLU?). {who} is made for features behind a ReLU, of which small ones tell nothing and "
        "sums tell the size: its score may be worse than the plain one. Compare it with energy.",
        OODBenchWarning,
        stacklevel=2,
    )
