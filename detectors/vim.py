r"""ViM and its residual: how far features lie from the principal subspace of ID features.

Paper: H. Wang, Z. Li, L. Feng, W. Zhang, "ViM: Out-Of-Distribution with Virtual-logit Matching",
CVPR 2022. arXiv:2203.10807
Code:  haoqiwang/vim, written anew from the paper

With the origin :math:`u = -W^{+} b` and R the axes of least variance of :math:`z - u` on training
data (all but the first ``dim``):

.. math:: s_{\text{residual}}(x) = \lVert R^\top (z - u) \rVert, \quad
    s_{\text{ViM}}(x) = \alpha \lVert R^\top (z - u) \rVert - \log \sum_c \exp f_c(x)

.. math:: \alpha = \frac{\sum_i \max_c f_c(x_i)}{\sum_i \lVert R^\top (z_i - u) \rVert}

Differs from the reference code: (1) the paper's score is the virtual logit's probability; as in the
authors' code the order is that of the formula above; (2) alpha is taken over all training samples
(the authors' code: 200,000 at random for ImageNet); (3) where the N training samples span r < D
dimensions, the rule for ``dim`` is held at r/2 if N is below D or the rule above r: with all r of
them in the principal subspace nothing is left of training data but rounding, alpha is its inverse,
and ViM the residual alone. A ``dim`` of r or more is refused.
Differs from OpenOOD: its ``residual`` fits the subspace on validation data (``fit_split="val"``)
with 512 dimensions, and reads the ID test set during setup; ours never does.
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OODBenchWarning, OptionError
from oodbench.outputs import Head, Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._covariance import rank_of, warn_of_span
from ._figures import openood
from ._numerics import in_blocks, moments, principal_axes

ROUNDING = 1e-6
"""A residual that is no larger, relative to the features, is what single precision lost."""


def default_dim(width: int) -> int:
    """Dimensions of the principal subspace: 1000 of 2048 or more, 512 of 768 or more, else half.

    The paper's rule. It gives the 256 of 512 that OpenOOD takes for CIFAR, and its 1000 for
    ImageNet's ResNet-50.
    """
    if width >= 2048:
        return 1000
    return 512 if width >= 768 else width // 2


@dataclass
class _Null:
    """Axes ``[D, D - dim]`` orthogonal to the principal subspace, and the origin along them."""

    axes: Tensor
    shift: Tensor

    def residual(self, z: Tensor) -> Tensor:
        axes = self.axes.to(z)
        return (z @ axes - self.shift.to(z)).norm(dim=1)


def null_space(train: Outputs, head: Head, dim: int | None, who: str) -> _Null:
    """What lies outside the ``dim`` principal axes of training features about ``u = -pinv(W) b``.

    Warns where the training samples are fewer than the features.

    Raises:
        OptionError: dim below 1, or not below the number of features, or so large that no training
            sample has a residual.
    """
    n, width = len(train), train.features.shape[1]
    kept = default_dim(width) if dim is None else dim
    if not 1 <= kept < width:
        raise OptionError(
            f"{who}: dim={kept} must be in [1, {width - 1}] for {width} features; leave it out for "
            "the paper's rule."
        )
    stats = moments(train, who, exact=n < 2 * width)
    weight, bias = head.weight.to(stats.means), head.bias.to(stats.means)
    origin = -torch.linalg.pinv(weight) @ bias
    space = principal_axes(stats, origin)
    rank = rank_of(space.variances, n)
    if dim is None and (n <= width or kept >= rank):
        kept = max(1, min(kept, rank // 2))
    elif kept >= rank > 1:
        raise OptionError(
            f"{who}: dim={kept} leaves no residual: the {n:,} training samples span {rank} "
            f"dimensions. Choose one below {rank}, or leave it out."
        )
    warn_of_span(space.variances, n, who, f"{kept} of them are the principal subspace")
    axes = space.axes[:, kept:].contiguous()
    return _Null(axes, origin @ axes)


_FORMULA = "s(x) = alpha |R^T (z - u)| - logsumexp(f), R the axes of least variance"
_PAPER = Paper(
    title="ViM: Out-Of-Distribution with Virtual-logit Matching",
    authors="Wang, Haoqi and Li, Zhizhong and Feng, Litong and Zhang, Wayne",
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2203.10807",
    formula=_FORMULA,
    figures=openood((88.68, 93.48), (74.98, 81.70)),
)


@register_detector("vim")
@dataclass
class ViM(Detector):
    """Virtual logit minus log-sum-exp of the logits. Higher = more OOD; unbounded.

    Args:
        dim: dimensions D' of the principal subspace; None for the paper's rule: 1000 of 2048
            features or more, 512 of 768 or more, else half of them; but at most half of what few
            training samples span.

    Raises:
        OptionError: dim is not in [1, D - 1], or the training samples span no more dimensions.
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits", "head"})
    grid: ClassVar = {"dim": (None, 8, 16, 32, 64, 128, 256, 512, 1000)}
    paper: ClassVar[Paper | None] = _PAPER

    dim: int | None = None
    null_: _Null = learned()
    alpha_: float = learned()

    @property
    def reads_level(self) -> bool:
        """Yes: the log-sum-exp is subtracted, and the virtual logit scaled to the largest one."""
        return True

    def fit(self, train: Outputs) -> Self:
        """The subspace of features ``[N, D]`` and the scale of the virtual logit, in two passes."""
        self.null_ = null_space(train, train.linear_head(), self.dim, "vim")
        null = self.null_

        def both(z: Tensor, f: Tensor) -> Tensor:
            return torch.stack([f.amax(dim=1), null.residual(z), z.norm(dim=1)], dim=1)

        means = in_blocks(train, both, "features", "logits").double().mean(dim=0)
        largest, residual, size = means.tolist()
        # features that lie in the principal subspace all of them have no residual to scale
        self.alpha_ = largest / residual if residual > ROUNDING * size else 0.0
        if self.alpha_ == 0.0:
            warnings.warn(
                "vim: training features have no residual outside of their principal subspace, so "
                "there is no virtual logit, and the score is the energy.",
                OODBenchWarning,
                stacklevel=2,
            )
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""

        def virtual(z: Tensor, f: Tensor) -> Tensor:
            return self.alpha_ * self.null_.residual(z) - f.logsumexp(dim=1)

        return in_blocks(outputs, virtual, "features", "logits")


@register_detector("residual")
@dataclass
class Residual(Detector):
    """Norm of the features outside the principal subspace. Higher = more OOD; range [0, inf).

    Args:
        dim: dimensions of the principal subspace; None for ViM's rule, and at most half of what few
            training samples span.
        fit_split: the ID split that the subspace is of; OpenOOD takes validation data.

    Raises:
        OptionError: dim is not in [1, D - 1], or the training samples span no more dimensions.
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "head"})
    grid: ClassVar = {"dim": (None, 8, 16, 32, 64, 128, 256, 512, 1000)}
    paper: ClassVar[Paper | None] = replace(
        _PAPER,
        figures=(),  # those are of another score
        formula="s(x) = |R^T (z - u)|, R the axes of least variance",
    )

    dim: int | None = None
    fit_split: Literal["train", "val"] = "train"
    null_: _Null = learned()

    def fit(self, train: Outputs) -> Self:
        """The subspace of features ``[N, D]``, in one pass."""
        self.null_ = null_space(train, train.linear_head(), self.dim, "residual")
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""
        return in_blocks(outputs, self.null_.residual, "features")
