r"""Scores of features and the linear head in closed form: fDBD, NCI, GradNorm, pNML.

With :math:`z` the penultimate features, :math:`f = W z + b` the logits,
:math:`p = \operatorname{softmax}(f)`, :math:`\hat y = \arg\max_c f_c`, and :math:`\mu` the mean
training feature.

Papers and what differs from their codes stand with each class.
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py), autograd
(tests/detectors/test_head_scores.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._covariance import warn_of_span
from ._figures import openood
from ._numerics import Moments, feature_mean, in_blocks, moments, normalize, pseudo_inverse


@register_detector("fdbd")
@dataclass
class FDBD(Detector):
    r"""Distance to the decision boundaries, over that to the training mean. Higher = more OOD.

    .. math:: s(x) = -\frac{1}{\lVert z - \mu \rVert} \frac{1}{C - 1}
        \sum_{c \ne \hat y} \frac{f_{\hat y} - f_c}{\lVert w_{\hat y} - w_c \rVert}

    Range (-inf, 0]. Classes with equal weights have no boundary and do not count.

    Args:
        normalizer: ``"distance"`` to the training mean (the paper), or the feature's ``"norm"``;
            OpenOOD chooses between the two on validation data.

    Raises:
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits", "head"})
    grid: ClassVar = {"normalizer": ("distance", "norm")}
    paper: ClassVar[Paper | None] = Paper(
        title="Fast Decision Boundary based Out-of-Distribution Detector",
        authors="Liu, Litian and Qin, Yao",
        venue="ICML",
        year=2024,
        url="https://arxiv.org/abs/2312.11536",
        formula="s(x) = -mean_c (f_max - f_c) / |w_max - w_c| / |z - mean z|",
        figures=openood((90.42, 93.16), (81.26, 79.85)),
    )

    normalizer: Literal["distance", "norm"] = "distance"
    mean_: Tensor = learned()  # [D]

    def fit(self, train: Outputs) -> Self:
        """The mean feature ``[D]``, in one pass."""
        self.mean_ = feature_mean(train)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""
        weight = outputs.linear_head().weight.to(self.mean_)
        between = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        inverse = torch.where(between > 0, 1 / between, 0.0)  # [C, C]
        others = max(len(weight) - 1, 1)
        origin = self.mean_ if self.normalizer == "distance" else torch.zeros_like(self.mean_)

        def boundary(z: Tensor, f: Tensor) -> Tensor:
            top = f.max(dim=1)
            gaps = (top.values[:, None] - f) * inverse.to(f)[top.indices]
            far = (z - origin.to(z)).norm(dim=1).clamp(min=1e-8)
            return -gaps.sum(dim=1) / (others * far)

        return in_blocks(outputs, boundary, "features", "logits")


@register_detector("nci")
@dataclass
class NCI(Detector):
    r"""Proximity of the feature to its class's weight vector, and its norm. Higher = more OOD.

    .. math:: s(x) = -\frac{\langle w_{\hat y}, z - \mu \rangle}{\lVert z - \mu \rVert}
        - \alpha \lVert z \rVert_1

    Unbounded.

    Args:
        alpha: weight of the norm, in [0, inf); 0.0001 in OpenOOD, 0 in pytorch-ood.

    Raises:
        OptionError: a negative alpha.
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits", "head"})
    grid: ClassVar = {"alpha": (0.0001, 0.001, 0.01, 0.1)}
    paper: ClassVar[Paper | None] = Paper(
        title="Detecting Out-of-Distribution through the Lens of Neural Collapse",
        authors="Liu, Litian and Qin, Yao",
        venue="CVPR",
        year=2025,
        url="https://arxiv.org/abs/2311.01479",
        formula="s(x) = -<w_max, z - mean z> / |z - mean z| - alpha |z|_1",
        figures=openood((88.86, 91.27), (81.03, 81.32)),
    )

    alpha: float = 0.0001
    mean_: Tensor = learned()  # [D]

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise OptionError(f"nci: alpha must not be negative, but is {self.alpha}.")

    def fit(self, train: Outputs) -> Self:
        """The mean feature ``[D]``, in one pass."""
        self.mean_ = feature_mean(train)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""
        weight = outputs.linear_head().weight

        def proximity(z: Tensor, f: Tensor) -> Tensor:
            centred = z - self.mean_.to(z)
            along = (centred * weight.to(z)[f.argmax(dim=1)]).sum(dim=1)
            near = along / centred.norm(dim=1).clamp(min=1e-12)
            return -near - self.alpha * z.abs().sum(dim=1)

        return in_blocks(outputs, proximity, "features", "logits")


@register_detector("gradnorm")
@dataclass
class GradNorm(Detector):
    r"""Norm of the last layer's gradient for a uniform target, in closed form. Higher = more OOD.

    .. math:: s(x) = -\Bigl\lVert \frac{\partial}{\partial W}
        \operatorname{KL}(u \Vert \operatorname{softmax}(f / T)) \Bigr\rVert_1
        = -\frac1T \lVert z \rVert_1 \sum_c \bigl\lvert p_c - \tfrac1C \bigr\rvert

    Range (-inf, 0]. No backward pass: the gradient is the outer product of p - 1/C and z. OpenOOD
    sums over classes where the paper takes the mean: C times this, in the same order.
    pytorch-ood's default takes the gradient with respect to all parameters of the network; with
    ``param_filter`` for the last layer's weight it is this.

    Args:
        temperature: T > 0; 1 in the paper.

    Raises:
        OptionError: a temperature that is not positive.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits"})
    grid: ClassVar = {"temperature": (0.5, 1.0, 2.0, 4.0)}
    paper: ClassVar[Paper | None] = Paper(
        title="On the Importance of Gradients for Detecting Distributional Shifts in the Wild",
        authors="Huang, Rui and Geng, Andrew and Li, Yixuan",
        venue="NeurIPS",
        year=2021,
        url="https://arxiv.org/abs/2110.00218",
        formula="s(x) = -|d KL(u || softmax(f)) / dW|_1 = -|z|_1 sum_c |p_c - 1/C|",
        figures=openood((54.90, 57.55), (70.13, 69.14)),
    )

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise OptionError(f"gradnorm: temperature must be positive, not {self.temperature}.")

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""

        def norm(z: Tensor, f: Tensor) -> Tensor:
            off = (f / self.temperature).softmax(dim=1) - 1 / f.shape[1]
            return -z.abs().sum(dim=1) * off.abs().sum(dim=1) / self.temperature

        return in_blocks(outputs, norm, "features", "logits", exact=True)


@register_detector("pnml")
@dataclass
class PNML(Detector):
    r"""Regret of the predictive normalised maximum likelihood learner. Higher = more OOD.

    .. math:: s(x) = \frac{1}{\log C} \log \sum_c \frac{p_c}{p_c + p_c^{\,g} (1 - p_c)}, \quad
        g = \frac{x^\top P x}{1 + x^\top P x}, \quad P = \Bigl(\sum_i x_i x_i^\top\Bigr)^{+}

    with :math:`x = z / \lVert z \rVert` and p the softmax of the head on x. Range [0, 1].

    Differs from pytorch-ood: probabilities are not clipped at 1e-12, and the range is the same.

    Raises:
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "head"})
    paper: ClassVar[Paper | None] = Paper(
        title="Single Layer Predictive Normalized Maximum Likelihood for Out-of-Distribution "
        "Detection",
        authors="Bibas, Koby and Feder, Meir and Hassner, Tal",
        venue="NeurIPS",
        year=2021,
        url="https://arxiv.org/abs/2110.09246",
        formula="s(x) = log sum_c p_c / (p_c + p_c^g (1 - p_c)) / log C, g from x^T (X^T X)^+ x",
    )

    projector_: Tensor = learned()  # [D, D]

    def fit(self, train: Outputs) -> Self:
        """Inverse second moment of normalised features ``[N, D]``, in one pass."""
        stats: Moments = moments(train, "pnml", transform=normalize, exact=False)
        second = stats.scatter + stats.counts * torch.outer(stats.means[0], stats.means[0])
        variances = torch.linalg.eigvalsh(second).flip(0)
        warn_of_span(variances, len(train), "pnml", "regret outside of them is none")
        self.projector_ = pseudo_inverse(second)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""
        head = outputs.linear_head()

        def regret(features: Tensor) -> Tensor:
            x = normalize(features)
            log_p = head(x).log_softmax(dim=1)
            own = ((x @ self.projector_.to(x)) * x).sum(dim=1).clamp(min=0)
            g = (own / (1 + own))[:, None]
            # p / (p + p^g (1 - p)) = 1 / (1 + p^(g - 1) (1 - p)); 1 - p = -expm1(log p)
            ratio = ((g - 1) * log_p).exp() * -torch.expm1(log_p)
            return (1 / (1 + ratio)).sum(dim=1).log() / max(math.log(log_p.shape[1]), 1e-12)

        return in_blocks(outputs, regret, "features")
