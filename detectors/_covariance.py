r"""Covariances of few samples: what their rank is, and estimates that shrink them.

N samples in G groups (classes) tell of N - G directions at most. Where that is less than D, the
inverse of the covariance does not exist, and the pseudo-inverse ignores the other directions: those
in which OOD samples, and new ID samples, differ from the training samples. So who uses one says so
(:func:`warn_if_short`), and can shrink the covariance S towards the mean variance:

.. math:: \Sigma = (1 - \rho) S + \rho \, \tfrac{\operatorname{tr} S}{D} I

- ``"ledoit-wolf"``: O. Ledoit, M. Wolf, "A well-conditioned estimator for large-dimensional
  covariance matrices", Journal of Multivariate Analysis 88, 2004, Lemma 3.3 with its consistent
  estimates;
- ``"oas"``: Y. Chen, A. Wiesel, Y. C. Eldar, A. O. Hero, "Shrinkage Algorithms for MMSE Covariance
  Estimation", IEEE Transactions on Signal Processing 58, 2010, equation 23, as scikit-learn has it
  (without the terms in 2/D, which vanish for large D);
- ``"none"``: rho = 0;
- ``"auto"``: Ledoit-Wolf where N < 2 D, none otherwise.

Why that default: by five-fold cross-validation on ID training data alone, no OOD set seen. Within
classes, held-out samples have these log-densities by dimension, squared distances by dimension (1
is calibrated; the pseudo-inverse of 1,280 features makes them smaller than the training samples'
own) and accuracies of the nearest mean, with none -> Ledoit-Wolf (OAS is within 0.1 of it in all):

==================================  =====  ====  ==============  =============  ============
features                            N      N/D   log-density     distance       accuracy, %
==================================  =====  ====  ==============  =============  ============
textures10, EfficientNet-Lite0      160    0.13  none -> 0.56    0.07 -> 1.28   72.0 -> 80.0
CIFAR-10, ResNet-20 (64 features)   80     1.25  -8.58 -> 0.81   21.2 -> 1.09   63.0 -> 99.0
the same                            96     1.5   -0.92 -> 0.81   5.62 -> 1.04   83.3 -> 97.5
the same                            200    3.1   0.82 -> 0.93    1.71 -> 0.94   96.8 -> 98.0
the same                            4,000  62    0.984 -> 0.984  1.02 -> 0.99   99.1 -> 99.2
==================================  =====  ====  ==============  =============  ============

Beyond 2 D the papers' own estimate stays, with the papers' figures.

N and D count samples (of a class, where each has a covariance of its own) and features that are not
the same for all of them. Both estimates need moments alone, Ledoit-Wolf that of fourth order too:
one more pass over the features.
Checked against: scikit-learn (tests/detectors/test_covariance.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from oodbench.errors import OODBenchWarning
from oodbench.outputs import Outputs

from ._numerics import Moments, at_work, blocks, pseudo_inverse

Shrinkage = Literal["auto", "none", "ledoit-wolf", "oas"]
"""How covariances are estimated; see the module."""


def precision(
    train: Outputs,
    stats: Moments,
    who: str,
    shrinkage: Shrinkage,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Pseudo-inverse ``[D, D]`` of :func:`covariance`, which has the arguments."""
    return pseudo_inverse(covariance(train, stats, who, shrinkage, transform))


def covariance(
    train: Outputs,
    stats: Moments,
    who: str,
    shrinkage: Shrinkage,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Covariance ``[D, D]`` within groups, shrunk as is asked for.

    Warns where there are fewer samples than it takes.

    Args:
        train: what the moments are of, for another pass.
        stats: the moments, by class or of one group.
        who: the detector, for the warning.
        shrinkage: how.
        transform: what was applied to the features ``[B, D]`` before.
    """
    groups = len(stats.counts)
    n = stats.counts.sum()
    covariances = (stats.scatter / n)[None]
    kind, short = _chosen(covariances, n[None], groups, shrinkage)
    fourth = None
    if kind == "ledoit-wolf":
        fourth = fourth_moment(train, stats.means, transform).sum()[None]
    shrunk, share = shrunk_to_mean(covariances, n[None], kind, fourth)
    warn_if_short(short, int(n), stats.means.shape[1], groups, who, kind, float(share))
    return shrunk[0]


def shrunk_each(
    train: Outputs,
    counts: Tensor,
    means: Tensor,
    covariances: Tensor,
    who: str,
    shrinkage: Shrinkage,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Covariances ``[G, D, D]``, of a class each, shrunk where their class is small.

    Warns where a class has fewer samples than it takes.

    Args:
        train: the samples, for another pass.
        counts: of each class, ``[G]``.
        means: ``[G, D]``.
        covariances: ``[G, D, D]``; changed in place.
        who: the detector, for the warning.
        shrinkage: how.
        transform: what was applied to the features ``[B, D]`` before.
    """
    kind, short = _chosen(covariances, counts, 1, shrinkage)
    small = torch.ones_like(counts, dtype=torch.bool)
    if shrinkage == "auto":
        small = counts < 2 * _varying(covariances)
    fourth = fourth_moment(train, means, transform) if kind == "ledoit-wolf" else None
    shrunk, share = shrunk_to_mean(covariances, counts, kind, fourth, small)
    least = int(counts.amin())
    warn_if_short(short, least, means.shape[1], 1, who, kind, float(share.amax()))
    return shrunk


def _chosen(
    covariances: Tensor, counts: Tensor, groups: int, shrinkage: Shrinkage
) -> tuple[Shrinkage, bool]:
    """The estimate that is meant, and whether the rank of one of the covariances is not enough."""
    varying = _varying(covariances)
    short = bool((counts - groups < varying).any())
    if shrinkage == "auto":
        return ("ledoit-wolf" if bool((counts < 2 * varying).any()) else "none"), short
    return shrinkage, short


def _varying(covariances: Tensor) -> Tensor:
    """How many features are not the same for all samples, ``[G]``."""
    diagonal = covariances.diagonal(dim1=1, dim2=2)
    return (diagonal > 1e-12 * diagonal.amax(dim=1, keepdim=True)).sum(dim=1)


def fourth_moment(
    train: Outputs, means: Tensor, transform: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """``sum |z - mean|^4`` over the samples of each of G groups, ``[G]``, by their labels."""
    total = means.new_zeros(len(means))
    for batch in blocks(train, "features"):
        z = at_work(batch.features, exact=True)
        z = transform(z) if transform else z
        y = batch.labels if len(means) > 1 else torch.zeros_like(batch.labels)
        squared = (z - means.to(z)[y]).square().sum(dim=1)
        total.index_add_(0, y, squared.square().to(total))
    return total


def shrunk_to_mean(
    covariances: Tensor,
    counts: Tensor,
    kind: Shrinkage,
    fourth: Tensor | None = None,
    small: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``(1 - rho) S + rho tr(S)/D I`` and rho in [0, 1], of G covariances at once.

    Args:
        covariances: S, ``[G, D, D]``, biased (over N); changed in place, as they may be large.
        counts: N of each, ``[G]``.
        kind: ``"ledoit-wolf"``, ``"oas"`` or ``"none"``.
        fourth: ``sum |x|^4`` over the centred samples of each, ``[G]``, for Ledoit-Wolf.
        small: ``[G]``, which are shrunk; None for all.

    Returns:
        ``[G, D, D]`` and ``[G]``.
    """
    n, dim = counts.to(covariances), covariances.shape[1]
    mean = covariances.diagonal(dim1=1, dim2=2).mean(dim=1)  # tr(S) / D
    if kind == "none":
        return covariances, torch.zeros_like(mean)
    size = torch.linalg.vector_norm(covariances, dim=(1, 2)).square()  # |S|^2
    if kind == "oas":
        alpha = size / dim**2
        over, under = alpha + mean.square(), (n + 1) * (alpha - mean.square() / dim)
    else:
        assert fourth is not None  # noqa: S101 - the callers see to it
        under = size / dim - mean.square()
        over = (fourth.to(n) / n - size) / (n * dim)
    share = torch.where(under > 0, over / under.clamp(min=1e-300), 1.0).clamp(0.0, 1.0)
    if small is not None:
        share = torch.where(small, share, 0.0)
    covariances.mul_((1 - share)[:, None, None]).diagonal(dim1=1, dim2=2).add_(
        (share * mean)[:, None]
    )
    return covariances, share


def rank_of(variances: Tensor, most: int) -> int:
    """How many of the variances along principal axes ``[D]``, falling, are more than rounding.

    Args:
        variances: eigenvalues of a second moment.
        most: what its rank is at most, by the number of samples.
    """
    least = variances[:1] * len(variances) * 8 * torch.finfo(variances.dtype).eps
    return min(int((variances > least).sum()), max(most, 0))


def warn_of_span(
    variances: Tensor, n: int, who: str, done: str, features: str = "features"
) -> None:
    """Say that samples are fewer than the features that they differ in.

    Args:
        variances: along principal axes, ``[D]``, falling.
        n: samples.
        who: the detector.
        done: what that made of it.
        features: what they are.
    """
    rank = rank_of(variances, len(variances))
    if n > len(variances) or rank < n - 1:  # it is the features, then, that span no more
        return
    warnings.warn(
        f"{who}: {n:,} training samples have {len(variances):,} {features}, so they span "
        f"{min(rank, n):,} dimensions ({done}). New ID samples lie outside of that span, as OOD "
        "samples do, so less tells these apart than with more training samples.",
        OODBenchWarning,
        stacklevel=2,
    )


def warn_if_short(
    short: bool, n: int, dim: int, groups: int, who: str, kind: Shrinkage, share: float
) -> None:
    """Say that samples are too few for a covariance.

    Args:
        short: whether they are.
        n: samples.
        dim: features.
        groups: how many means they have.
        who: the detector.
        kind: how the covariance was estimated.
        share: rho.
    """
    if not short:
        return
    done = (
        "directions outside of their span do not count, and distances of new ID samples are not "
        "those of training samples. Set shrinkage to 'auto', 'ledoit-wolf' or 'oas'"
        if kind == "none"
        else f"it is shrunk by {kind} (share {share:.2g} of the mean variance)"
    )
    warnings.warn(
        f"{who}: {n:,} training samples are too few for a covariance of {dim:,} features (rank "
        f"{max(n - groups, 0):,} at most): {done}.",
        OODBenchWarning,
        stacklevel=2,
    )
