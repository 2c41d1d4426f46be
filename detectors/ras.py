r"""RAS: the sorted features of every sample replaced by one profile of ID features.

Paper: G. Guglielmo, M. Masana, "Ranked Activation Shift for Post-Hoc Out-of-Distribution
Detection", ECCV 2026. arXiv:2604.08572
Code:  gigug/RAS, written anew from the paper

With :math:`f_{(j)}` the j-th smallest of a sample's D features and :math:`\pi` its rank of each:

.. math:: m_j = \tfrac1N \sum_i f_{i, (j)}, \quad \tilde f_d = m_{\pi(d)}, \quad
    s(x) = -\log \sum_c \exp (W \tilde f + b)_c

so that a sample keeps the order of its features alone, not their sizes. There is nothing to tune,
and no feature need be rectified.

Differs from the reference code: (1) equal features, such as the zeros behind a ReLU, take their
ranks in the order of the units (theirs: as an unstable sort leaves them), so that the score does
not depend on batch or device; (2) any detector of logits may stand behind it (``score``).
Checked against: the definition, sample by sample in NumPy, and a case by hand
(tests/detectors/test_ras.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from oodbench.detector import learned
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._numerics import at_work, blocks, precise
from .activation_shaping import _Shaping


def _sorted(z: Tensor) -> Tensor:
    """Rows of ``[N, D]``, rising: on a CPU NumPy's vectorised sort is several times as fast."""
    if z.device.type != "cpu":
        return z.sort(dim=1).values
    return torch.from_numpy(np.sort(z.numpy(), axis=1))


@register_detector("ras")
@dataclass
class RAS(_Shaping):
    """Energy of features whose sizes are those of a mean ID profile. Higher = more OOD; unbounded.

    Args:
        score: the detector of logits behind it.
    """

    learns: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        title="Ranked Activation Shift for Post-Hoc Out-of-Distribution Detection",
        authors="Guglielmo, Gianluca and Masana, Marc",
        venue="ECCV",
        year=2026,
        url="https://arxiv.org/abs/2604.08572",
        formula="s(x) = energy(W m_rank(f) + b), m the mean of sorted training features",
    )

    profile_: Tensor = learned()  # [D], rising

    def _learn(self, train: Outputs) -> None:
        total: Tensor | None = None
        for batch in blocks(train, "features"):
            ranked = _sorted(at_work(batch.features))
            part = ranked.sum(dim=0, dtype=precise(ranked.device))
            total = part if total is None else total + part
        assert total is not None  # noqa: S101 - an empty training set is refused before
        self.profile_ = total / len(train)

    def _shape(self, z: Tensor) -> Tensor:
        # ONNX has no stable sort, and its topk is one
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            order = z.topk(int(z.shape[1]), dim=1, largest=False).indices
        else:
            order = z.argsort(dim=1, stable=True)
        return torch.empty_like(z).scatter_(1, order, self.profile_.to(z).expand_as(z))
