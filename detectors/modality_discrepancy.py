r"""Modality discrepancy: how much the predictions of several modalities differ.

Paper: H. Dong, Y. Zhao, E. Chatzi, O. Fink, "MultiOOD: Scaling Out-of-Distribution Detection for
Multiple Modalities", NeurIPS 2024 (arXiv:2405.17419), section 3: modalities agree on ID samples and
differ on OOD ones. The paper trains on this observation (A2D); here it is a score.

.. math:: s(x) = \frac{2}{M (M - 1)} \sum_{i < j} d(\sigma(f_i(x)), \sigma(f_j(x)))

with :math:`f_i` the logits of modality i. ``ensemble`` combines it with any other detector:
``--detector ensemble --set ensemble.members=msp,modality-discrepancy``.

The modalities' predictions have to be trained: those of MultiOOD's baseline (``multimodal-ce`` with
``single=False``, its ``published*`` recipes) are not, and are withheld.
Checked against: the formula (tests/detectors/test_modality_discrepancy.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor

from oodbench.detector import Detector
from oodbench.options import check_choices
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._modalities import two_opinions
from ._multiood import PAPER
from ._numerics import at_work
from .a2d import hellinger

ROW_DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hellinger": hellinger,
    "l1": lambda p, q: (p - q).abs().sum(dim=1),
    "l2": lambda p, q: (p - q).norm(dim=1) / 2**0.5,
}
"""Distances of each row, ``[B, C]`` and ``[B, C]`` -> ``[B]``; those of a training loss, which A2D
names alike, are means over classes and rows instead (``a2d.DISTANCES``)."""


@register_detector("modality-discrepancy")
@dataclass
class ModalityDiscrepancy(Detector):
    """Mean distance between modalities' predictions. Higher = more OOD; range [0, 1] (L1: [0, 2]).

    Args:
        distance: ``"hellinger"``, ``"l1"`` or ``"l2"``, of the softmax distributions.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits/*"})
    toy = staticmethod(two_opinions)
    method: ClassVar[str] = "multimodal-ce"
    paper: ClassVar[Paper | None] = dataclasses.replace(
        PAPER, formula="s(x) = mean_{i<j} d(softmax f_i(x), softmax f_j(x))"
    )

    distance: Literal["hellinger", "l1", "l2"] = "hellinger"

    def __post_init__(self) -> None:
        check_choices(self, "modality-discrepancy")

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from logits ``[N, C]`` of each modality."""
        scores = [torch.empty(0, dtype=torch.float64)]
        for batch in outputs.batches():
            predictions = [
                at_work(logits, exact=True).softmax(dim=1)
                for _, logits in sorted(batch.of_kind("logits/*").items())
            ]
            between = ROW_DISTANCES[self.distance]
            apart = [between(p, q) for p, q in combinations(predictions, 2)]
            scores.append(torch.stack(apart).mean(dim=0))
        return torch.cat(scores[1:] or scores)
