r"""NECO: the share of a feature's norm that lies in the subspace of neural collapse.

Paper: M. Ben Ammar et al., "NECO: NEural Collapse Based Out-of-distribution detection", ICLR 2024.
arXiv:2310.06823, equation 6

.. math:: s(x) = -\frac{\lVert P z \rVert}{\lVert z \rVert} \, \max_c f_c(x)

with z the standardised features and P the projection on the first ``dim`` principal axes of
training features.

Differs from the paper: (1) ``dim`` is chosen there by hand for each network; ours is C - 1, the
dimension of the simplex that collapsed class means span, and at most half of the features, or of
the dimensions that the training samples span;
(2) the authors' code multiplies by the largest logit for transformers and not for ResNets
(``maxlogit=False``); and it standardises for ResNets and ViT (``standardize=False`` otherwise).
Checked against: scikit-learn's StandardScaler and PCA (tests/detectors/test_neco.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._covariance import rank_of, warn_of_span
from ._numerics import in_blocks, moments, principal_axes


@register_detector("neco")
@dataclass
class NECO(Detector):
    """Minus the norm share in the principal subspace, times the largest logit. Higher = more OOD.

    Without the logit the range is [-1, 0].

    Args:
        dim: dimensions of the subspace; None for C - 1, at most half of the features, and of the
            dimensions that the training samples span.
        standardize: whether each feature is centred and divided by its deviation first.
        maxlogit: whether the share is multiplied by the largest logit.

    Raises:
        OptionError: dim is not in [1, D], or few training samples (N <= D) span no more dimensions:
            then all of each lies in the subspace.
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits"})
    grid: ClassVar = {
        "dim": (None, 5, 10, 20, 40, 80, 160, 320),
        "maxlogit": (True, False),
    }
    paper: ClassVar[Paper | None] = Paper(
        title="NECO: NEural Collapse Based Out-of-distribution detection",
        authors="Ben Ammar, Mouïn and Belkhir, Nacim and Popescu, Sebastian and "
        "Manzanera, Antoine and Franchi, Gianni",
        venue="ICLR",
        year=2024,
        url="https://arxiv.org/abs/2310.06823",
        formula="s(x) = -|P z| / |z| max_c f_c(x), P the first principal axes",
    )

    dim: int | None = None
    standardize: bool = True
    maxlogit: bool = True
    mean_: Tensor = learned()  # [D]
    scale_: Tensor = learned()  # [D]
    centre_: Tensor = learned()  # [D], of the scaled features
    axes_: Tensor = learned()  # [D, dim]

    @property
    def reads_level(self) -> bool:
        """With the largest logit: a log-probability is negative, and turns the share around."""
        return self.maxlogit

    def fit(self, train: Outputs) -> Self:
        """Principal axes of (standardised) features ``[N, D]``, in one pass."""
        width, classes = train.features.shape[1], train.logits.shape[1]
        dim = max(1, min(classes - 1, width // 2)) if self.dim is None else self.dim
        if not 1 <= dim <= width:
            raise OptionError(f"neco: dim={dim} must be in [1, {width}] for {width} features.")
        stats = moments(train, "neco")
        deviation = (stats.scatter.diagonal() / len(train)).sqrt()
        self.mean_, self.scale_ = torch.zeros_like(deviation), torch.ones_like(deviation)
        if self.standardize:
            self.mean_ = stats.means[0]
            self.scale_ = torch.where(deviation > 0, deviation, 1.0)
        stats.scatter /= torch.outer(self.scale_, self.scale_)
        stats.means = (stats.means - self.mean_) / self.scale_
        self.centre_ = stats.means[0]
        space = principal_axes(stats)
        rank = rank_of(space.variances, len(train) - 1)
        if len(train) <= width and dim >= rank > 1:
            if self.dim is not None:
                raise OptionError(
                    f"neco: dim={dim} leaves nothing outside of the subspace: the {len(train):,} "
                    f"training samples span {rank} dimensions. Choose one below {rank}, or leave "
                    "it out."
                )
            dim = max(1, rank // 2)
        warn_of_span(space.variances, len(train), "neco", f"{dim} of them are the subspace")
        self.axes_ = space.axes[:, :dim].contiguous()
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""

        def share(features: Tensor, f: Tensor) -> Tensor:
            z = (features - self.mean_.to(features)) / self.scale_.to(features)
            inside = ((z - self.centre_.to(z)) @ self.axes_.to(z)).norm(dim=1)
            ratio = inside / z.norm(dim=1).clamp(min=1e-12)
            return -ratio * f.amax(dim=1) if self.maxlogit else -ratio

        return in_blocks(outputs, share, "features", "logits")
