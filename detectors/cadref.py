r"""CARef and CADRef: a feature's relative error against the mean of its predicted class.

Paper: Z. Ling et al., "CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled
Relative Feature Leveraging", CVPR 2025. arXiv:2503.00325
Code:  LingAndZero/CADRef, written anew from the paper

With the mean feature :math:`m_c` of the training samples that are **predicted** as c,
:math:`d = f - m_{\hat y}` and :math:`s = \operatorname{sign}(w_{\hat y})`:

.. math:: s_{\text{CARef}}(x) = \frac{\lVert d \rVert_1}{\lVert f \rVert_1}, \quad
    E^{\pm} = \frac{\lVert \operatorname{relu}(\pm d \circ s) \rVert_1}{\lVert f \rVert_1}, \quad
    s_{\text{CADRef}}(x) = \frac{E^{+}}{S(z)} + \frac{E^{-}}{\bar S}

with a confidence S of the logits z and :math:`\bar S` its mean over training data: only the part of
the error that speaks for the predicted class is divided by the sample's own confidence.

Differs from the reference code: (1) a class that no training sample is predicted as takes the mean
feature of all (theirs fails on it); (2) a confidence that is not positive, as a log-sum-exp may be,
is said: the score of such a sample has the wrong sign; (3) GEN's 1 - p keeps its digits where p
rounds to 1 (theirs drops that term, which is still 0.02 at p = 1 - 1e-17).
Checked against: the definition, sample by sample in NumPy, and a case by hand
(tests/detectors/test_cadref.py).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OODBenchWarning
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._classes import class_means, predicted
from ._numerics import in_blocks
from .logit_scores import log_complement

LEAST = 1e-12
"""What a feature's L1 norm counts at least, so that a zero feature has a score."""

_PAPER = Paper(
    title="CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled Relative Feature "
    "Leveraging",
    authors="Ling, Zhiwei and Chang, Yachen and Zhao, Hailiang and others",
    venue="CVPR",
    year=2025,
    url="https://arxiv.org/abs/2503.00325",
    formula="s(x) = E+ / S(z) + E- / mean S, E+ and E- the parts of |f - m_y|_1 / |f|_1",
)


def predicted_means(train: Outputs) -> Tensor:
    """Mean feature ``[C, D]`` by predicted class; that of all for a class never predicted."""
    counts, means = class_means(train, train.logits.shape[1], predicted)
    mean = (counts[:, None] * means).sum(dim=0) / counts.sum()
    return torch.where(counts[:, None] > 0, means, mean)


@register_detector("caref")
@dataclass
class CARef(Detector):
    """Relative distance to the mean of the predicted class. Higher = more OOD; range [0, inf).

    Raises:
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits"})
    paper: ClassVar[Paper | None] = replace(
        _PAPER,
        formula="s(x) = |f - m_y|_1 / |f|_1, m_y the mean feature of the predicted class",
    )

    means_: Tensor = learned()  # [C, D]

    def fit(self, train: Outputs) -> Self:
        """Mean features ``[C, D]`` by predicted class, in one pass."""
        self.means_ = predicted_means(train)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""
        means = self.means_

        def error(f: Tensor, z: Tensor) -> Tensor:
            d = f - means.to(f)[z.argmax(dim=1)]
            return d.abs().sum(dim=1) / f.abs().sum(dim=1).clamp(min=LEAST)

        return in_blocks(outputs, error, "features", "logits")


@register_detector("cadref")
@dataclass
class CADRef(Detector):
    """CARef with its error decoupled, one part over the confidence. Higher = more OOD.

    Range [0, inf), where the confidence is positive.

    Args:
        confidence: S: ``"energy"`` (the paper's default), the largest ``"maxlogit"``, ``"msp"``, or
            ``"gen"``, the inverse of GEN's entropy (gamma 0.1) of the max(10, C // 10) largest
            probabilities.

    Raises:
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits", "head"})
    grid: ClassVar = {"confidence": ("energy", "maxlogit", "msp", "gen")}
    paper: ClassVar[Paper | None] = _PAPER

    confidence: Literal["energy", "maxlogit", "msp", "gen"] = "energy"
    means_: Tensor = learned()  # [C, D]
    mean_confidence_: float = learned()

    @property
    def reads_level(self) -> bool:
        """Where the confidence is the log-sum-exp of the logits, or the largest of them."""
        return self.confidence in ("energy", "maxlogit")

    def _confidence(self, z: Tensor) -> Tensor:
        if self.confidence == "energy":
            return z.logsumexp(dim=1)
        if self.confidence == "maxlogit":
            return z.amax(dim=1)
        if self.confidence == "msp":
            return z.softmax(dim=1).amax(dim=1)
        log_p = z.log_softmax(dim=1)
        log_pq = log_p + log_complement(log_p)
        most = min(z.shape[1], max(10, z.shape[1] // 10))
        kept = log_pq.gather(1, log_p.topk(most, dim=1).indices)
        return 1 / (0.1 * kept).exp().sum(dim=1)

    def fit(self, train: Outputs) -> Self:
        """Mean features ``[C, D]`` by predicted class and the mean confidence, in two passes."""
        self.means_ = predicted_means(train)
        confidence = in_blocks(train, self._confidence, "logits", exact=True)
        self.mean_confidence_ = float(confidence.mean())
        if self.mean_confidence_ <= 0:
            self._say_signs(int((confidence <= 0).sum()), len(train))
        return self

    def _say_signs(self, bad: int, n: int) -> None:
        warnings.warn(
            f"cadref: the confidence {self.confidence} of {bad:,} of {n:,} samples is not positive,"
            " so dividing by it says nothing. Choose confidence=msp or confidence=gen.",
            OODBenchWarning,
            stacklevel=2,
        )

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``, logits ``[N, C]`` and the head."""
        scores = self.graph_score(outputs)
        if self.reads_level:  # a probability is positive, and so is GEN's inverse
            own = in_blocks(outputs, self._confidence, "logits")
            if bad := int((own <= 0).sum()):
                self._say_signs(bad, len(outputs))
        return scores

    def graph_score(self, outputs: Outputs) -> Tensor:
        """The scores, without a word on confidences that are not positive."""
        sign = outputs.linear_head().weight.sign()

        def error(f: Tensor, z: Tensor) -> Tensor:
            y = z.argmax(dim=1)
            towards = (f - self.means_.to(f)[y]) * sign.to(f)[y]
            norm = f.abs().sum(dim=1).clamp(min=LEAST)
            own = self._confidence(z)
            own = torch.where(own.abs() < LEAST, LEAST, own)
            plus, minus = towards.relu().sum(dim=1), (-towards).relu().sum(dim=1)
            return (plus / own + minus / self.mean_confidence_) / norm

        return in_blocks(outputs, error, "features", "logits")
