r"""GROOD: the gradient by an OOD prototype, and its distance to those of training samples.

Paper: M. ElAraby et al., "GROOD: GRadient-aware Out-Of-Distribution detection", 2023.
arXiv:2312.14427
Code:  Jingkang50/OpenOOD (``grood.py``), written anew from the paper

With the mean feature :math:`\mu_c` of each class, an OOD prototype :math:`\mu_o`, and the softmax q
of minus the distances to these C + 1, the gradient of :math:`-\log q_{\hat y}` by the prototype is

.. math:: G(f) = q_o \, \frac{f - \mu_o}{\lVert f - \mu_o \rVert}, \quad
    s(x) = \min_i \lVert G(f) - G(f_i) \rVert_2^2

over the training samples i that the network classifies correctly.

Differs from the reference code: (1) the prototype is the mean of the class means, which sees no OOD
data, or of outliers' features (:meth:`GROOD.with_outliers`); theirs is that of OOD validation
samples by default, and may also be made of noise images or of ID samples mixed inside the network;
(2) all training samples are indexed, exactly (theirs crashes at the end of its set-up and
loses a batch); its ``use_direct_grad``, whose gradient always has norm 1, is not offered.
Checked against: autograd, sample by sample, and a case by hand (tests/detectors/test_grood.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import BadScoresError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._classes import class_means, labelled, predicted
from ._neighbours import MANY, Kept, half_squares, kth_neighbour_distance
from ._numerics import at_work, blocks, in_blocks, precise, require_all_classes

NEAR = 1e-12
"""A feature that lies on a prototype has no direction from it."""


def outlier_probability(f: Tensor, means: Tensor, outlier: Tensor) -> Tensor:
    """q_o, ``[N, 1]``, of features ``[N, D]``, class means ``[C, D]`` and the prototype ``[D]``."""
    far = (f - outlier).norm(dim=1, keepdim=True)
    wide = precise(f.device)
    # a product is ten times as quick, and in float64 loses nothing where f lies close to a mean
    mode = f"{'' if wide == torch.float64 else 'donot_'}use_mm_for_euclid_dist"
    near = torch.cdist(f.to(wide), means.to(wide), compute_mode=mode).to(f)
    return torch.cat([-near, -far], dim=1).softmax(dim=1)[:, -1:]


def prototype_gradient(f: Tensor, q: Tensor, outlier: Tensor) -> Tensor:
    """G, ``[N, D]``, of features ``[N, D]``, their q_o ``[N, 1]`` and the prototype ``[D]``."""
    away = f - outlier
    return q * away / away.norm(dim=1, keepdim=True).clamp(min=NEAR)


@register_detector("grood")
@dataclass
class GROOD(Detector):
    """Squared distance to the nearest training gradient. Higher = more OOD; range [0, 4].

    The other variants: ``"norm"``, the L1 norm of the gradient, in [0, inf), and ``"distance"``,
    minus the distance to the prototype, in (-inf, 0]. Does not stream: it keeps the gradients of
    the training samples, ``[N, D]``; of features in half precision these as they came, from which
    the gradients are made anew in each call.

    Args:
        variant: what is the score.

    Raises:
        BadScoresError: a class without a training sample, none that is classified correctly, or
            NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits"})
    grid: ClassVar = {"variant": ("neighbour", "norm", "distance")}
    paper: ClassVar[Paper | None] = Paper(
        title="GROOD: GRadient-aware Out-Of-Distribution detection",
        authors="ElAraby, Mostafa and Sahoo, Sabyasachi and Pequignot, Yann and others",
        venue="arXiv",
        year=2023,
        url="https://arxiv.org/abs/2312.14427",
        formula="s(x) = min_i |G(f) - G(f_i)|^2, G = q_o (f - mu_o) / |f - mu_o|",
    )

    variant: Literal["neighbour", "norm", "distance"] = "neighbour"
    means_: Tensor = learned()  # [C, D]
    outlier_: Tensor = learned()  # [D]
    bank_: Tensor = learned()  # [M, D], gradients, or features in half precision
    q_: Tensor | None = learned()  # [M, 1], of features in the bank
    half_: Tensor = learned()  # [M]
    given_: Tensor | None = learned()  # [D], a prototype of outliers

    def with_outliers(self, features: Tensor) -> Self:
        """Take the mean of outliers' features ``[M, D]`` for the prototype that ``fit`` uses."""
        self.given_ = features.to(precise(features.device)).mean(dim=0)
        return self

    def fit(self, train: Outputs) -> Self:
        """Class means, the prototype and the training gradients of features ``[N, D]``."""
        counts, self.means_ = class_means(train, train.logits.shape[1], labelled)
        require_all_classes(counts, "grood")
        given = self.given_
        self.outlier_ = self.means_.mean(dim=0) if given is None else given.to(self.means_)
        right = torch.cat(
            [predicted(b) == b.labels.to(b.logits.device) for b in blocks(train, "logits")]
        )
        if not right.any():
            raise BadScoresError(
                "grood: the network classifies no training sample correctly. Are labels and logits "
                "of the same classes, in one order?"
            )
        f = train.features
        saves, m = Kept.saves(f), int(right.sum())
        # filled in place: parts that are joined would take the room twice
        bank = f.new_empty(m, f.shape[1], dtype=f.dtype if saves else at_work(f[:0]).dtype)
        q = f.new_empty(m, 1, dtype=torch.float32) if saves else None
        start = end = 0
        for batch in blocks(train, "features"):
            kept = batch.features[right[start : start + len(batch)]]
            rows = slice(end, end + len(kept))
            if q is None:
                bank[rows] = self._gradient(kept)
            else:
                bank[rows], q[rows] = kept, self._q(kept.float())
            start, end = start + len(batch), end + len(kept)
        self.bank_, self.q_ = bank, q
        self.half_ = half_squares(self._bank())
        return self

    def _q(self, f: Tensor) -> Tensor:
        return outlier_probability(f, self.means_.to(f), self.outlier_.to(f))

    def _gradient(self, f: Tensor, q: Tensor | None = None) -> Tensor:
        f = at_work(f)
        return prototype_gradient(f, self._q(f) if q is None else q, self.outlier_.to(f))

    def _bank(self) -> Tensor | Kept:
        return self.bank_ if self.q_ is None else Kept(self.bank_, self._gradient, (self.q_,))

    def graph_score(self, outputs: Outputs) -> Tensor:
        """The score, with the nearest of all training gradients found in one product."""
        if self.variant != "neighbour":
            return super().graph_score(outputs)
        g = self._gradient(outputs.features)
        bank = self._bank()[:].to(g)
        nearest = (g @ bank.T + self.half_.to(g)).argmax(dim=1)
        return (g - bank[nearest]).square().sum(dim=1)

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""
        if self.variant == "norm":
            return in_blocks(outputs, lambda f: self._gradient(f).abs().sum(dim=1), "features")
        if self.variant == "distance":
            return in_blocks(
                outputs, lambda f: -(f - self.outlier_.to(f)).norm(dim=1), "features", exact=True
            )
        parts, bank = [torch.empty(0)], self._bank()
        for batch in blocks(outputs, "features", least=MANY):
            g = self._gradient(batch.features)
            parts.append(kth_neighbour_distance(g, bank, 1, self.half_).square())
        return torch.cat(parts[1:] or parts)
