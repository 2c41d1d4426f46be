r"""Scores of the logits alone: entropy, GEN, temperature scaling, KL matching, weighted energy.

With :math:`f` the logits, :math:`p = \operatorname{softmax}(f)`, from sums of the small
probabilities, so that confident samples are not tied at a rounded 1 or 0.

Papers and what differs from their codes stand with each class. (MSP, MaxLogit and Energy have
files of their own.)
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py, docs/parity.md).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OODBenchWarning, OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._figures import openood
from ._numerics import blocks, in_blocks, log_sum_exp, msp_score, number_of_classes, precise


def log_complement(log_p: Tensor) -> Tensor:
    """``log(1 - p)`` of log-probabilities ``[N, C]``, exact for p near 1.

    For the largest p it is the log of the sum of the others, which does not round to zero as the
    difference does. No other p exceeds a half.
    """
    p = log_p.exp()
    top = log_p.argmax(dim=1, keepdim=True)
    others = p.scatter(1, top, 0.0)
    return torch.log1p(-others).scatter(1, top, others.sum(dim=1, keepdim=True).log())


@register_detector("entropy")
@dataclass
class Entropy(Detector):
    r"""Entropy of the softmax. Higher = more OOD; range [0, log C].

    .. math:: s(x) = -\sum_c p_c \log p_c

    Differs from pytorch-ood: nothing is clipped (there, p at 1e-7).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    paper: ClassVar[Paper | None] = Paper(
        title="Entropy Maximization and Meta Classification for Out-of-Distribution Detection in "
        "Semantic Segmentation",
        authors="Chan, Robin and Rottmann, Matthias and Gottschalk, Hanno",
        venue="ICCV",
        year=2021,
        url="https://arxiv.org/abs/2012.06575",
        formula="s(x) = -sum_c p_c log p_c",
    )

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""

        def entropy(f: Tensor) -> Tensor:
            log_p = f.log_softmax(dim=1)
            return -(log_p.exp() * log_p).sum(dim=1)

        return in_blocks(outputs, entropy, "logits")


@register_detector("gen")
@dataclass
class GEN(Detector):
    r"""Generalised entropy of the M largest probabilities. Higher = more OOD; range [0, inf).

    .. math:: s(x) = \sum_{c \in \text{top } M} p_c^\gamma (1 - p_c)^\gamma

    ``1 - p`` of the largest is computed as the sum of the others: in float32 the difference is
    zero for confident samples. pytorch-ood clips p to [1e-7, 1 - 1e-7] and takes the mean;
    ``clip=1e-7`` gives its order. The paper's code and OpenOOD clip nothing.

    Args:
        gamma: exponent in (0, inf); 0.1 in the paper.
        M: how many of the largest probabilities; all, where there are fewer. 100 in the paper.
        clip: probabilities are clipped to [clip, 1 - clip]; 0 for not at all.

    Raises:
        OptionError: gamma not positive, M below 1, or clip outside [0, 0.5).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    grid: ClassVar = {
        "gamma": (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0),
        "M": (10, 50, 100, 200, 500, 1000),
    }
    paper: ClassVar[Paper | None] = Paper(
        title="GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection",
        authors="Liu, Xixi and Lochman, Yaroslava and Zach, Christopher",
        venue="CVPR",
        year=2023,
        url="https://openaccess.thecvf.com/content/CVPR2023/html/"
        "Liu_GEN_Pushing_the_Limits_of_Softmax-Based_Out-of-Distribution_Detection_CVPR_2023_"
        "paper.html",
        formula="s(x) = sum over the M largest p of p^gamma (1 - p)^gamma",
        figures=openood((88.20, 91.35), (81.31, 79.68)),
    )

    gamma: float = 0.1
    M: int = 100
    clip: float = 0.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise OptionError(f"gen: gamma must be positive, not {self.gamma}.")
        if self.M < 1:
            raise OptionError(f"gen: M must be at least 1, not {self.M}.")
        if not 0 <= self.clip < 0.5:
            raise OptionError(f"gen: clip must be in [0, 0.5), not {self.clip}.")

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""

        def generalised_entropy(f: Tensor) -> Tensor:
            log_p = f.log_softmax(dim=1)
            log_q = log_complement(log_p)
            if self.clip:
                low, high = math.log(self.clip), math.log1p(-self.clip)
                log_p, log_q = log_p.clamp(low, high), log_q.clamp(low, high)
            log_pq = log_p + log_q
            if f.shape[1] > self.M:
                log_pq = log_pq.gather(1, log_p.topk(self.M, dim=1).indices)
            return (self.gamma * log_pq).exp().sum(dim=1)

        return in_blocks(outputs, generalised_entropy, "logits")


@register_detector("tempscale")
@dataclass
class TempScale(Detector):
    r"""MSP after temperature scaling. Higher = more OOD; range [0, log C].

    .. math:: s(x) = -\log \max_c \operatorname{softmax}(f / T^*)_c

    :math:`T^*` in [0.01, 100] minimises the negative
    log-likelihood of the labels. That is convex in :math:`1/T`, and is solved by Newton's method
    inside a shrinking bracket, one pass over the logits per step (the reference code and
    pytorch-ood run at most 50 steps of L-BFGS, which may stop short of the minimum).

    There is no minimum where the network is right about every sample that T is fitted on, as
    networks often are about training images: the likelihood rises until T is at its bound, 0.01.
    That is taken, and warned about; scores of confident samples then tie at zero. Fit on the
    validation split instead.

    Args:
        fit_split: the ID split that T is fitted on. The paper and OpenOOD take validation data
            (a network is overconfident on what it was trained on); pytorch-ood what it is given.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    paper: ClassVar[Paper | None] = Paper(
        title="On Calibration of Modern Neural Networks",
        authors="Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.",
        venue="ICML",
        year=2017,
        url="https://arxiv.org/abs/1706.04599",
        formula="s(x) = -log max_c softmax(f / T)_c, T fitted by likelihood",
        figures=openood((88.09, 90.97), (80.90, 78.74)),
    )

    _LEAST: ClassVar[float] = 0.01
    _MOST: ClassVar[float] = 100.0

    fit_split: Literal["train", "val"] = "train"
    temperature_: float = learned()

    def fit(self, train: Outputs) -> Self:
        """The temperature that minimises the negative log-likelihood of labels ``[N]``."""
        low, high, beta = 1 / self._MOST, 1 / self._LEAST, 1.0  # beta = 1 / T
        if bound := self._bound(train, low, high):
            self.temperature_, why = bound
            other = "more validation images" if self.fit_split == "val" else "fit_split='val'"
            warnings.warn(
                f"tempscale: {why}, so no temperature is the likeliest; it is {self.temperature_:g}"
                f", the bound. Choose {other} for one that means something.",
                OODBenchWarning,
                stacklevel=2,
            )
            return self
        for _ in range(60):
            slope, curvature = self._derivatives(train, beta)
            if slope < 0:
                low = beta
            else:
                high = beta
            newton = beta - slope / curvature if curvature > 0 else beta
            step = newton if low < newton < high else math.sqrt(low * high)
            if slope == 0 or abs(step - beta) <= 1e-9 * beta:
                break
            beta = step
        self.temperature_ = 1 / beta
        return self

    def _bound(self, train: Outputs, low: float, high: float) -> tuple[float, str] | None:
        """The bound that the likelihood rises to, and why it does; None if its top is between."""
        best = -math.inf  # by how much a sample's highest other logit is above its own
        least = math.inf
        for batch in blocks(train, "logits"):
            above = _above_own(batch)
            others = above.scatter(1, batch.labels[:, None], -torch.inf)
            best = max(best, float(others.amax()))
            least = min(least, float(above.amin()))
        n = f"{len(train)} samples that it is fitted on"
        if best == 0 == least or train.logits.shape[1] == 1:
            return 1.0, f"the logits are the same for all classes on the {n}"
        if best <= 0:
            return self._LEAST, f"the network is right about all {n}"
        if self._derivatives(train, high)[0] < 0:
            return self._LEAST, f"the network is wrong about hardly any of the {n}"
        if self._derivatives(train, low)[0] >= 0:
            return self._MOST, f"the network knows no more than chance of the {n}"
        return None

    @staticmethod
    def _derivatives(train: Outputs, beta: float) -> tuple[float, float]:
        """First and second derivative of the negative log-likelihood in beta."""
        slope = curvature = 0.0
        for batch in blocks(train, "logits"):
            above = _above_own(batch)
            p = (beta * above).softmax(dim=1)
            mean = (p * above).sum(dim=1)
            slope += float(mean.sum())
            curvature += float((p * (above - mean[:, None]).square()).sum())
        return slope, curvature

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""
        return in_blocks(outputs, lambda f: msp_score(f / self.temperature_), "logits")


def _above_own(batch: Outputs) -> Tensor:
    """Logits minus that of the label, ``[B, C]``: a constant added to all makes no difference."""
    f = batch.logits.to(precise(batch.logits.device))
    return f - f.gather(1, batch.labels[:, None])


@register_detector("klm")
@dataclass
class KLMatching(Detector):
    r"""KL divergence to the nearest class template. Higher = more OOD; range [0, inf).

    .. math:: s(x) = \min_k \operatorname{KL}(p(x) \Vert d_k), \quad
        d_k = \operatorname{mean}\{p(x_i) : \arg\max f(x_i) = k\}

    A class that is never predicted has no template (OpenOOD gives it a one-hot one, whose
    divergence is infinite for every p that is not one-hot itself).

    Args:
        fit_split: the ID split that templates are made of; OpenOOD takes validation data, since
            probabilities on training data are nearly one-hot.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    paper: ClassVar[Paper | None] = Paper(
        title="Scaling Out-of-Distribution Detection for Real-World Settings",
        authors="Hendrycks, Dan and Basart, Steven and Mazeika, Mantas and others",
        venue="ICML",
        year=2022,
        url="https://arxiv.org/abs/1911.11132",
        formula="s(x) = min_k KL(p(x) || d_k), d_k the mean p of samples predicted as k",
        figures=openood((79.19, 82.68), (76.56, 76.24)),
    )

    fit_split: Literal["train", "val"] = "train"
    log_templates_: Tensor = learned()  # [K, C]

    def fit(self, train: Outputs) -> Self:
        """Mean softmax by predicted class, of logits ``[N, C]``."""
        classes = train.logits.shape[1]
        sums = torch.zeros(classes, classes, dtype=precise(train.logits.device))
        sums = sums.to(train.logits.device)
        counts = sums.new_zeros(classes)
        for batch in blocks(train, "logits"):
            p = batch.logits.to(sums).softmax(dim=1)
            predicted = p.argmax(dim=1)
            sums.index_add_(0, predicted, p)
            counts += torch.bincount(predicted, minlength=classes)
        templates = sums[counts > 0] / counts[counts > 0][:, None]
        # a probability that underflowed would make its class's divergence infinite
        self.log_templates_ = templates.clamp(min=torch.finfo(templates.dtype).tiny).log()
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""

        def divergence(f: Tensor) -> Tensor:
            log_p = f.log_softmax(dim=1)
            p = log_p.exp()
            cross = p @ self.log_templates_.to(f).T  # [N, K]
            return ((p * log_p).sum(dim=1, keepdim=True) - cross).amin(dim=1)

        return in_blocks(outputs, divergence, "logits", exact=True)


@register_detector("weighted-energy")
@dataclass
class WeightedEnergy(Detector):
    r"""Energy with a weight for each class. Higher = more OOD; unbounded.

    .. math:: s(x) = -\log \sum_c w_c \exp f_c(x)

    In VOS the weights are learned during training, against virtual outliers; give those as
    ``weights``. Without them they are fitted after training, from ID data alone, so that no class
    has a low energy for its frequency only: :math:`w_c = (1/C) / \operatorname{mean}_i p_c(x_i)`,
    which is 1 where the network predicts all classes equally often. That choice is ours.

    Args:
        weights: one per class, not negative, not all zero; negative ones count as zero
            (VOS's code and pytorch-ood apply a ReLU); empty to fit them.

    Raises:
        OptionError: no positive weight, or not as many weights as classes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    paper: ClassVar[Paper | None] = Paper(
        title="VOS: Learning What You Don't Know by Virtual Outlier Synthesis",
        authors="Du, Xuefeng and Wang, Zhaoning and Cai, Mu and Li, Yixuan",
        venue="ICLR",
        year=2022,
        url="https://arxiv.org/abs/2202.01197",
        formula="s(x) = -log sum_c w_c exp f_c(x)",
    )

    weights: tuple[float, ...] = ()
    log_weights_: Tensor = learned()  # [C]

    def __post_init__(self) -> None:
        if self.weights and not max(self.weights) > 0:
            raise OptionError("weighted-energy: at least one weight must be positive.")

    @property
    def reads_level(self) -> bool:
        """Yes: the score is a log-sum-exp of logits, but for the weights."""
        return True

    def fit(self, train: Outputs) -> Self:
        """The weights ``[C]``, given or from the mean softmax of logits ``[N, C]``."""
        classes = number_of_classes(train)
        dtype = precise(train.logits.device)
        if self.weights:
            if len(self.weights) != classes:
                raise OptionError(
                    f"weighted-energy: {len(self.weights)} weights for {classes} classes; give "
                    "one per class."
                )
            weights = torch.tensor(self.weights, dtype=dtype, device=train.logits.device)
            self.log_weights_ = weights.relu().log()
            return self
        total = torch.zeros(classes, dtype=dtype, device=train.logits.device)
        for batch in blocks(train, "logits"):
            total += batch.logits.to(dtype).softmax(dim=1).sum(dim=0)
        mean = (total / len(train)).clamp(min=1e-12)
        self.log_weights_ = -(classes * mean).log()
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]``."""

        def energy(f: Tensor) -> Tensor:
            return -log_sum_exp(f, self.log_weights_)

        return in_blocks(outputs, energy, "logits")
