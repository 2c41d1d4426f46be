r"""Activation shaping: ReAct, VRA, ASH, SCALE, LTS, and DICE, with any logit score behind them.

Penultimate features :math:`z` (``[N, D]``, after a ReLU in all these papers) are shaped, or the
head :math:`(W, b)` is made sparse, and a score of the new logits is taken: the energy, unless
``score`` names another detector that reads logits alone.

VRA, ASH, SCALE and LTS presume features that are not negative, and warn of others with their share:
small activations are pruned as the least, and sums tell how much there is. ReAct and DICE do not.

Papers and what differs from their codes stand with each class. All work on the pooled penultimate
features, as OpenOOD does; the ASH and SCALE papers shape the feature map before pooling.
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py, docs/parity.md).
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Detector, create_detector, learned
from oodbench.errors import OODBenchWarning, OptionError
from oodbench.options import option
from oodbench.outputs import Head, Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._figures import openood
from ._modalities import modality_slices
from ._numerics import (
    at_work,
    blocks,
    feature_mean,
    kept_units,
    percentiles,
    unit_percentiles,
    warn_if_signed,
)

NARROW = 16
"""So few remaining units make ASH-S and SCALE fall below plain energy; see docs/parity.md."""


def scale_ratio(total: Tensor, top: Tensor, most: float) -> Tensor:
    """``s_1 / s_2`` of sums of all and of the largest units, ``[N]``.

    It is in [1, D / k] = [1, most] for features that are not negative, and is held there for
    others; it is 1 where all features are zero.
    """
    return (total / top).nan_to_num(nan=1.0).clamp(1.0, most)


def sparse_logits(head: Head, units: Tensor, values: Tensor) -> Tensor:
    """Logits ``[N, C]`` of features that are zero but in k units each.

    Args:
        head: the linear head.
        units: which they are, ``[N, k]``.
        values: of the features there, ``[N, k]``.
    """
    columns = head.weight.T.to(values).contiguous()
    stats = F.embedding_bag(units, columns, per_sample_weights=values, mode="sum")
    return stats + head.bias.to(stats)


@dataclass
class _Shaping(Detector):
    """Logits of shaped features, scored by another detector, ``scorer`` (option ``score``)."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "head"})
    learns: ClassVar[bool] = False

    scorer: str = option("energy", "score")

    def __post_init__(self) -> None:
        self.behind_ = create_detector(self.scorer)
        if self.behind_.needs != {"logits"}:
            raise OptionError(
                f"{self.label}: the score behind it must read logits alone, such as energy, msp or "
                f"gen; {self.scorer} needs {', '.join(sorted(self.behind_.needs))}."
            )
        object.__setattr__(self.behind_, "name", self.label)  # in what it says of its scores
        for name, value in self.options().items():
            if (name.startswith("percentile") or name == "p") and not 0 <= value <= 100:
                raise OptionError(f"{self.label}: {name} is in [0, 100], not {value}.")

    @property
    def rectified(self) -> bool:
        """Whether it takes the features for those behind a ReLU."""
        return False

    @property
    def needs_fit(self) -> bool:
        """Whether the shaping or the score behind it learns from ID training outputs."""
        return self.learns or self.behind_.needs_fit

    def fit(self, train: Outputs) -> Self:
        """What the shaping learns, and the score behind it on the shaped logits."""
        if self.rectified:
            warn_if_signed(train, self.label)
        self._learn(train)
        if self.behind_.needs_fit:
            self.behind_.fit(Outputs(logits=self._shaped_logits(train), labels=train.labels))
        return self

    def _learn(self, train: Outputs) -> None:
        pass

    def _shape(self, z: Tensor) -> Tensor:
        return z

    def _logits(self, z: Tensor, head: Head) -> Tensor:
        return head(self._shape(z))

    def _shaped_logits(self, outputs: Outputs) -> Tensor:
        head = outputs.linear_head()
        parts = [
            self._logits(at_work(batch.features), head) for batch in blocks(outputs, "features")
        ]
        return torch.cat(parts)

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and the head."""
        if not len(outputs):
            return torch.empty(0, dtype=torch.float64)
        if self.rectified:
            warn_if_signed(outputs, self.label)
        parts = [
            self.behind_.score(Outputs(logits=self._shaped_logits(batch)))
            for batch in blocks(outputs, "features")
        ]
        return torch.cat(parts)

    def _warn_if_narrow(self, width: int, kept: int) -> None:
        if kept < NARROW:
            warnings.warn(
                f"{self.label}: percentile={self.options()['percentile']:g} keeps {kept} of "
                f"{width} features; scaling by so few is known to fall below plain energy. "
                "Choose a smaller percentile (oodbench tune), or a network with wider features.",
                OODBenchWarning,
                stacklevel=2,
            )


@register_detector("react")
@dataclass
class ReAct(_Shaping):
    r"""Features clipped from above at a percentile of ID activations. Higher = more OOD; unbounded.

    .. math:: \bar z = \min(z, c), \quad c \text{ the percentile over all units and samples}

    Args:
        percentile: in percent; 90 in the paper.
        score: the detector of logits behind it.
        fit_split: the ID split whose activations count: the paper's code takes training data,
            OpenOOD and MultiOOD validation data.
        per_modality: whether each modality's features have a percentile of their own, as in
            MultiOOD; one for all otherwise.
    """

    learns: ClassVar[bool] = True
    grid: ClassVar = {"percentile": (85.0, 90.0, 95.0, 99.0)}
    paper: ClassVar[Paper | None] = Paper(
        title="ReAct: Out-of-distribution Detection With Rectified Activations",
        authors="Sun, Yiyou and Guo, Chuan and Li, Yixuan",
        venue="NeurIPS",
        year=2021,
        url="https://arxiv.org/abs/2111.12797",
        formula="s(x) = energy(W min(z, c) + b)",
        figures=openood((87.11, 90.42), (80.77, 80.39)),
    )

    percentile: float = 90.0
    fit_split: Literal["train", "val"] = "train"
    per_modality: bool = False
    threshold_: float | Tensor = learned()  # [D] with per_modality

    def _learn(self, train: Outputs) -> None:
        share = [self.percentile / 100]
        if not self.per_modality:
            (self.threshold_,) = percentiles(train, share)
            return
        whole = torch.empty(train.features.shape[1])
        for part in modality_slices(train, self.label):
            of_part = Outputs(features=train.features[:, part])
            (whole[part],) = torch.tensor(percentiles(of_part, share))
        self.threshold_ = whole

    def _shape(self, z: Tensor) -> Tensor:
        if isinstance(self.threshold_, Tensor):
            return z.minimum(self.threshold_.to(z))
        return z.clamp(max=self.threshold_)


@register_detector("vra")
@dataclass
class VRA(_Shaping):
    r"""Features clipped from above and suppressed from below. Higher = more OOD; unbounded.

    .. math:: \bar z = 0 \text{ for } z < l, \quad \min(z, h) \text{ otherwise}

    OpenOOD clips to [l, h] instead of suppressing (``below="clip"``); pytorch-ood does, and with
    the percentiles of each unit by itself (``per_unit``), by default the first and the 99th.

    Args:
        percentile_low: of l, in percent.
        percentile_high: of h, in percent.
        below: what becomes of features under l.
        per_unit: whether l and h are each unit's own; one pair for all units otherwise.
        score: the detector of logits behind it.
        fit_split: the ID split whose activations count; OpenOOD takes validation data.

    Raises:
        OptionError: percentile_low above percentile_high.
    """

    learns: ClassVar[bool] = True
    grid: ClassVar = {
        "percentile_high": (85.0, 90.0, 95.0, 99.0),
        "percentile_low": (1.0, 5.0, 10.0, 15.0),
    }
    paper: ClassVar[Paper | None] = Paper(
        title="VRA: Variational Rectified Activation for Out-of-distribution Detection",
        authors="Xu, Mingyu and Lian, Zheng and Liu, Bin and Tao, Jianhua",
        venue="NeurIPS",
        year=2023,
        url="https://arxiv.org/abs/2302.11803",
        formula="s(x) = energy(W z' + b), z' = 0 below l, min(z, h) above",
    )

    percentile_low: float = 10.0
    percentile_high: float = 90.0
    below: Literal["zero", "clip"] = "zero"
    per_unit: bool = False
    fit_split: Literal["train", "val"] = "train"
    low_: Tensor = learned()  # [] or [D]
    high_: Tensor = learned()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.percentile_low > self.percentile_high:
            raise OptionError(
                f"vra: percentile_low={self.percentile_low} is above "
                f"percentile_high={self.percentile_high}."
            )

    @property
    def rectified(self) -> bool:
        """True where small activations become zero."""
        return self.below == "zero"

    def _learn(self, train: Outputs) -> None:
        shares = [self.percentile_low / 100, self.percentile_high / 100]
        if self.per_unit:
            self.low_, self.high_ = unit_percentiles(train, shares)
        else:
            self.low_, self.high_ = torch.tensor(percentiles(train, shares), dtype=torch.float64)

    def _shape(self, z: Tensor) -> Tensor:
        low, high = self.low_.to(z), self.high_.to(z)
        clipped = z.minimum(high)
        if self.below == "clip":
            return clipped.maximum(low)
        return torch.where(z < low, 0.0, clipped)


_ASH = Paper(
    title="Extremely Simple Activation Shaping for Out-of-Distribution Detection",
    authors="Djurisic, Andrija and Bozanic, Nebojsa and Ashok, Arjun and Liu, Rosanne",
    venue="ICLR",
    year=2023,
    url="https://arxiv.org/abs/2209.09858",
    formula="s(x) = energy(W shaped(z) + b), small activations pruned",
)
_SHARES = (65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0)


@register_detector("ash-p")
@dataclass
class ASHP(_Shaping):
    """All but the largest activations pruned. Higher = more OOD; unbounded.

    Args:
        percentile: share of units that is pruned, in percent.
        score: the detector of logits behind it.

    Raises:
        OptionError: no unit would remain.
    """

    grid: ClassVar = {"percentile": _SHARES}
    paper: ClassVar[Paper | None] = _ASH

    percentile: float = 90.0

    @property
    def rectified(self) -> bool:
        """Whether it takes the features for those behind a ReLU: it does."""
        return True

    def _logits(self, z: Tensor, head: Head) -> Tensor:
        kept = kept_units(z.shape[1], self.percentile / 100, "ash-p")
        top = z.topk(kept, dim=1, sorted=False)
        return sparse_logits(head, top.indices, top.values)


@register_detector("ash-b")
@dataclass
class ASHB(_Shaping):
    r"""The largest activations set to one value, others pruned. Higher = more OOD; unbounded.

    The value is :math:`\sum_d z_d / k`, with k units remaining. This is what OpenOOD calls ``ash``.

    Args:
        percentile: share of units that is pruned, in percent.
        score: the detector of logits behind it.
        per_modality: whether each modality's features are shaped by themselves, as in MultiOOD;
            all together otherwise.

    Raises:
        OptionError: no unit would remain.
    """

    grid: ClassVar = {"percentile": _SHARES}
    paper: ClassVar[Paper | None] = dataclasses.replace(
        _ASH, figures=openood((75.27, 78.49), (78.20, 80.58))
    )

    percentile: float = 90.0
    per_modality: bool = False

    def _shaped_logits(self, outputs: Outputs) -> Tensor:
        if not self.per_modality:
            return super()._shaped_logits(outputs)
        head, slices = outputs.linear_head(), modality_slices(outputs, self.label)
        parts = [Head(head.weight[:, part]) for part in slices]
        logits = []
        for batch in blocks(outputs, "features"):
            z = at_work(batch.features)
            each = [self._logits(z[:, s], one) for s, one in zip(slices, parts, strict=True)]
            logits.append(torch.stack(each).sum(dim=0) + head.bias.to(z))
        return torch.cat(logits)

    @property
    def rectified(self) -> bool:
        """Whether it takes the features for those behind a ReLU: it does."""
        return True

    def _logits(self, z: Tensor, head: Head) -> Tensor:
        kept = kept_units(z.shape[1], self.percentile / 100, "ash-b")
        units = z.topk(kept, dim=1, sorted=False).indices
        fill = (z.sum(dim=1, keepdim=True) / kept).expand(-1, kept)
        return sparse_logits(head, units, fill.contiguous())


@register_detector("ash-s")
@dataclass
class ASHS(_Shaping):
    r"""Small activations pruned, the others scaled up. Higher = more OOD; unbounded.

    The factor is :math:`\exp(s_1 / s_2)`, with the sums before and after pruning.

    Warns where fewer than 16 units remain: scaling by so few tells how peaked the features are,
    not how large.

    Args:
        percentile: share of units that is pruned, in percent; 90 in the paper, whose networks have
            512 to 2,048 units.
        score: the detector of logits behind it.

    Raises:
        OptionError: no unit would remain.
    """

    grid: ClassVar = {"percentile": _SHARES}
    paper: ClassVar[Paper | None] = _ASH

    percentile: float = 90.0

    @property
    def rectified(self) -> bool:
        """Whether it takes the features for those behind a ReLU: it does."""
        return True

    def _logits(self, z: Tensor, head: Head) -> Tensor:
        kept = kept_units(z.shape[1], self.percentile / 100, "ash-s")
        self._warn_if_narrow(z.shape[1], kept)
        top = z.topk(kept, dim=1, sorted=False)
        ratio = scale_ratio(z.sum(dim=1), top.values.sum(dim=1), z.shape[1] / kept)
        return sparse_logits(head, top.indices, top.values * ratio.exp()[:, None])


@register_detector("scale")
@dataclass
class SCALE(_Shaping):
    r"""All activations scaled up, none pruned. Higher = more OOD; unbounded.

    The factor is :math:`\exp(s_1 / s_2)`, with the sum of all and of the largest activations. Warns
    where these are fewer than 16, as ``ash-s`` does.

    Args:
        percentile: share of units that does not count in s2, in percent; 85 in the paper.
        score: the detector of logits behind it.

    Raises:
        OptionError: no unit would remain.
    """

    grid: ClassVar = {"percentile": _SHARES}
    paper: ClassVar[Paper | None] = Paper(
        title="Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement",
        authors="Xu, Kai and Chen, Rongyu and Franchi, Gianni and Yao, Angela",
        venue="ICLR",
        year=2024,
        url="https://arxiv.org/abs/2310.00227",
        formula="s(x) = energy(W z exp(r) + b), r = sum(z) / sum of the top (100 - p) % of z",
        figures=openood((82.55, 86.39), (80.99, 81.42)),
    )

    percentile: float = 85.0

    @property
    def rectified(self) -> bool:
        """Whether it takes the features for those behind a ReLU: it does."""
        return True

    def _logits(self, z: Tensor, head: Head) -> Tensor:
        kept = kept_units(z.shape[1], self.percentile / 100, "scale")
        self._warn_if_narrow(z.shape[1], kept)
        top = z.topk(kept, dim=1, sorted=False).values.sum(dim=1)
        ratio = scale_ratio(z.sum(dim=1), top, z.shape[1] / kept)
        # W (z e^r) + b, with the factor taken on C logits instead of D features
        return F.linear(z, head.weight.to(z)) * ratio.exp()[:, None] + head.bias.to(z)


@register_detector("lts")
@dataclass
class LTS(_Shaping):
    r"""Logits scaled by the features' concentration. Higher = more OOD; unbounded.

    The factor is :math:`(s_1 / s_2)^2`, with the sum of the rectified features and of the largest
    of them.

    Args:
        percentile: share of units that does not count in s2, in percent; 95 in the paper. At least
            one unit counts.
        score: the detector of logits behind it.
    """

    grid: ClassVar = {"percentile": (80.0, 85.0, 90.0, 95.0)}
    paper: ClassVar[Paper | None] = Paper(
        title="Logit Scaling for Out-of-Distribution Detection",
        authors="Djurisic, Andrija and Liu, Rosanne and Nikolic, Mladen",
        venue="arXiv",
        year=2024,
        url="https://arxiv.org/abs/2409.01175",
        formula="s(x) = energy(S f), S = (sum(z) / sum of the top (100 - p) % of z)^2",
    )

    percentile: float = 95.0

    @property
    def rectified(self) -> bool:
        """Whether it takes the features for those behind a ReLU: it does."""
        return True

    def _logits(self, z: Tensor, head: Head) -> Tensor:
        kept = max(1, z.shape[1] - round(z.shape[1] * self.percentile / 100))
        r = z.relu()
        top = r.topk(kept, dim=1, sorted=False).values.sum(dim=1)
        ratio = scale_ratio(r.sum(dim=1), top, z.shape[1] / kept)
        return head(z) * ratio.square()[:, None]


@register_detector("dice")
@dataclass
class DICE(_Shaping):
    r"""The head with its unimportant weights set to zero. Higher = more OOD; unbounded.

    .. math:: f = (W \odot M) z + b, \quad M_{cd} = [W_{cd} \bar z_d > \text{percentile}]

    with :math:`\bar z` the mean ID training feature.

    Args:
        p: the percentile of contributions below which weights are cut, in percent; 90 in the paper.
        score: the detector of logits behind it.
    """

    learns: ClassVar[bool] = True
    grid: ClassVar = {"p": (10.0, 30.0, 50.0, 70.0, 90.0)}
    paper: ClassVar[Paper | None] = Paper(
        title="DICE: Leveraging Sparsification for Out-of-Distribution Detection",
        authors="Sun, Yiyou and Li, Yixuan",
        venue="ECCV",
        year=2022,
        url="https://arxiv.org/abs/2111.09805",
        formula="s(x) = energy((W * M) z + b), M the largest contributions W * mean(z)",
        figures=openood((78.34, 84.23), (79.38, 80.01)),
    )

    p: float = 90.0
    mask_: Tensor = learned()  # [C, D]

    def _learn(self, train: Outputs) -> None:
        head = train.linear_head()
        mean = feature_mean(train)
        contribution = head.weight.to(mean) * mean  # [C, D]
        cut = np.percentile(contribution.cpu().numpy(), self.p)
        self.mask_ = contribution > float(cut)

    def _logits(self, z: Tensor, head: Head) -> Tensor:
        sparse = Head(head.weight * self.mask_.to(head.weight), head.bias)
        return sparse(self._shape(z))


@register_detector("react-dice")
@dataclass
class ReActDICE(DICE):
    """DICE's sparse head on ReAct's clipped features. Higher = more OOD; unbounded.

    The mean feature that the mask is made of is that of features before clipping, as in the
    authors' code.

    Args:
        p: DICE's percentile of contributions, in percent.
        percentile: ReAct's percentile of activations, in percent.
        score: the detector of logits behind it.
    """

    grid: ClassVar = {**DICE.grid, **ReAct.grid}
    paper: ClassVar[Paper | None] = dataclasses.replace(
        DICE.paper,  # type: ignore[type-var]
        formula="s(x) = energy((W * M) min(z, c) + b)",
        figures=(),
    )

    percentile: float = 90.0
    threshold_: float = learned()

    def _learn(self, train: Outputs) -> None:
        super()._learn(train)
        (self.threshold_,) = percentiles(train, [self.percentile / 100])

    def _shape(self, z: Tensor) -> Tensor:
        return z.clamp(max=self.threshold_)
