r"""CORE: the energy, and the direction of what the classifier does not see of a feature.

Paper: J. M. Yang, H.-S. Kim, S. Bahk, "CORE: Robust Out-of-Distribution Detection via Confidence
and Orthogonal Residual Scoring", 2026. arXiv:2603.18290

With P the orthogonal projection onto the span of the head's rows, the residual r of a feature, and
the mean direction of the residuals of each class's training samples:

.. math:: r = (I - P) f, \quad \hat r = r / \lVert r \rVert, \quad
    v_c = \operatorname{mean}_{i : y_i = c} \hat r_i, \quad
    M(x) = \max_c \langle \hat r, v_c / \lVert v_c \rVert \rangle

.. math:: s(x) = -\frac{E(x) - \operatorname{mean} E}{\operatorname{std} E}
    - \frac{M(x) - \operatorname{mean} M}{\operatorname{std} M}, \quad E = \log \sum_c \exp z_c

with means and (biased) deviations over ID training data. The confidence lives in the head's span
and the membership outside of it.

Built from the paper's abstract and summary: the decomposition, the energy, a membership by
class-specific direction and a normalised sum are theirs. What these leave open is ours, and may
differ from the paper's equations: (1) the cosine to the nearest class's mean direction (the
predicted class's with ``against="predicted"``); (2) standardisation by training statistics; (3) P
of the span of all rows. The paper has networks with more classes than features, where that leaves
no residual, so theirs is probably of the predicted class's row :math:`w_{\hat y}` alone, of each
sample, in training too: :math:`P = w_{\hat y} w_{\hat y}^\top / \lVert w_{\hat y} \rVert^2`,
which is ``aligned="predicted"``. docs/parity.md has figures of both.
Checked against: the formula, sample by sample in NumPy, and a case by hand
(tests/detectors/test_core.py). No code of the authors was at hand.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Detector, learned
from oodbench.errors import OODBenchWarning
from oodbench.outputs import Head, Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._classes import class_means, labelled
from ._numerics import in_blocks, normalize, precise, require_all_classes

FLAT = 1e-9
"""A deviation that is no larger is rounding, and divides nothing."""


def axes_outside(weight: Tensor) -> Tensor:
    """An orthonormal basis ``[D, D - rank]`` of what no row of ``[C, D]`` sees; warns if empty."""
    weight = weight.to(precise(weight.device))
    _, values, axes = torch.linalg.svd(weight, full_matrices=True)
    least = values[0] * max(weight.shape) * torch.finfo(values.dtype).eps
    rank = int((values > least).sum())
    if rank == weight.shape[1]:
        warnings.warn(
            f"core: the head's rows span all {rank} features, so there is no residual, and the "
            "score is the energy, standardised. With aligned='predicted' there is one.",
            OODBenchWarning,
            stacklevel=3,
        )
    return axes[rank:].T.contiguous()


@register_detector("core")
@dataclass
class CORE(Detector):
    """Minus standardised energy and membership of the residual. Higher = more OOD; unbounded.

    Warns where the head's rows span all features and are all taken out, which leaves no residual.

    Args:
        against: the class whose mean direction counts: the ``"nearest"``, or the ``"predicted"``.
        aligned: the rows of the head whose span is taken out of features: ``"all"``, or that of
            the ``"predicted"`` class.

    Raises:
        BadScoresError: a class without a training sample, or NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits", "head"})
    grid: ClassVar = {"against": ("nearest", "predicted")}
    paper: ClassVar[Paper | None] = Paper(
        title="CORE: Robust Out-of-Distribution Detection via Confidence and Orthogonal Residual "
        "Scoring",
        authors="Yang, Jin Mo and Kim, Hyung-Sin and Bahk, Saewoong",
        venue="arXiv",
        year=2026,
        url="https://arxiv.org/abs/2603.18290",
        formula="s(x) = -z-score of energy - z-score of max_c cos((I - P) f, v_c)",
    )

    against: Literal["nearest", "predicted"] = "nearest"
    aligned: Literal["all", "predicted"] = "all"
    axes_: Tensor = learned()  # [D, D - rank W], orthonormal, outside of the head's span
    directions_: Tensor = learned()  # [C, D - rank W], unit; of one row each, [C, D]
    means_: Tensor = learned()  # [2], of energy and membership
    deviations_: Tensor = learned()  # [2]

    @property
    def reads_level(self) -> bool:
        """Yes: the energy is a term."""
        return True

    def _residual(self, f: Tensor, head: Head) -> Tensor:
        """Unit residuals; along the axes, where their cosines are those in all D dimensions."""
        if self.aligned == "all":
            return normalize(f @ self.axes_.to(f))
        rows = F.normalize(head.weight.to(f))[head(f).argmax(dim=1)]  # [B, D]
        return normalize(f - (f * rows).sum(dim=1, keepdim=True) * rows)

    def _both(self, f: Tensor, z: Tensor, head: Head) -> Tensor:
        cosines = self._residual(f, head) @ self.directions_.to(f).T
        if self.against == "predicted":
            membership = cosines.gather(1, z.argmax(dim=1, keepdim=True))[:, 0]
        else:
            membership = cosines.amax(dim=1)
        return torch.stack([z.logsumexp(dim=1), membership], dim=1)

    def fit(self, train: Outputs) -> Self:
        """Residual directions by class of features ``[N, D]``, and both scores' statistics."""
        head = train.linear_head()
        self.axes_ = head.weight[:0].T  # not looked at where each sample has a row of its own
        if self.aligned == "all":
            self.axes_ = axes_outside(head.weight)
        classes = train.logits.shape[1]

        def residual(f: Tensor) -> Tensor:
            return self._residual(f, head)

        counts, means = class_means(train, classes, labelled, residual, exact=False)
        require_all_classes(counts, "core")
        self.directions_ = normalize(means)
        both = in_blocks(train, lambda f, z: self._both(f, z, head), "features", "logits")
        both = both.to(precise(both.device))
        self.means_ = both.mean(dim=0)
        deviations = both.std(dim=0, correction=0)
        self.deviations_ = torch.where(deviations > FLAT, deviations, 1.0)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""
        head = outputs.linear_head()

        def standardised(f: Tensor, z: Tensor) -> Tensor:
            both = self._both(f, z, head)
            return -((both - self.means_.to(both)) / self.deviations_.to(both)).sum(dim=1)

        return in_blocks(outputs, standardised, "features", "logits")
