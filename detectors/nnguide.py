r"""NNGuide: the energy, guided by the energies of the nearest training features.

Paper: J. Park, Y. G. Jung, A. B. J. Teoh, "Nearest Neighbor Guidance for Out-of-Distribution
Detection", ICCV 2023. arXiv:2309.14888

.. math:: s(x) = -E(x) \, \frac1k \sum_{i \in \text{top } k}
    \langle \hat z, E_i \hat z_i \rangle, \quad
    E = \log \sum_c \exp f_c, \quad \hat z = z / \lVert z \rVert

the k largest products with a bank of training samples.

Differs from the reference code and OpenOOD: (1) the bank is not the first share of a shuffled
loader, cut at a whole batch, but as many rows of each class in even steps: it does not depend on
batch size or on a random state (only on the order of the rows within a class, and of classes); it
has at least k rows; (2) the epsilon is added to the norm, not to the quotient.
Differs from pytorch-ood: that takes the whole training set and k = 10 (``share=1``, ``k=10``).
Checked against: pytorch-ood 0.4.0 (tests/detectors/test_parity.py).
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

from ._neighbours import MANY, check_k, most_similar
from ._numerics import blocks, normalize


@register_detector("nnguide")
@dataclass
class NNGuide(Detector):
    """Minus energy times guidance. Higher = more OOD; unbounded.

    Warns where k is more than the smallest class has. Does not stream: it keeps the bank, share x
    ``[N, D]`` float32.

    The bank is drawn by position, in even steps through the training samples class by class. So
    scores depend on the order of the samples within a class, and of the classes: the same network
    on the same images in another order is another measurement. With ``share=1`` they do not.

    Args:
        k: neighbours; 100 in OpenOOD, 10 in the paper for ImageNet.
        share: of the training samples that the bank holds, in (0, 1].

    Raises:
        OptionError: k below 1 or above the number of training samples, or share outside (0, 1].
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits"})
    grid: ClassVar = {"k": (10, 50, 100, 200), "share": (0.01, 0.1, 1.0)}
    paper: ClassVar[Paper | None] = Paper(
        title="Nearest Neighbor Guidance for Out-of-Distribution Detection",
        authors="Park, Jaewoo and Jung, Yoon Gyo and Teoh, Andrew Beng Jin",
        venue="ICCV",
        year=2023,
        url="https://arxiv.org/abs/2309.14888",
        formula="s(x) = -E(x) mean of the k largest <z/|z|, E_i z_i/|z_i|>, E = logsumexp f",
    )

    k: int = 100
    share: float = 0.01
    bank_: Tensor = learned()  # [M, D]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise OptionError(f"nnguide: k must be at least 1, not {self.k}.")
        if not 0 < self.share <= 1:
            raise OptionError(f"nnguide: share must be in (0, 1], not {self.share}.")

    @property
    def reads_level(self) -> bool:
        """Yes: the energy is a factor, in the score and in the bank."""
        return True

    def fit(self, train: Outputs) -> Self:
        """Keep normalised features times energies of a share of ``[N, D]``."""
        check_k(self.k, train.labels, "nnguide")
        rows = self._rows(train.labels)
        parts = []
        start = 0
        for batch in blocks(train, "features"):
            here = rows[(rows >= start) & (rows < start + len(batch))] - start
            start += len(batch)
            z = batch.features[here].float()
            energy = batch.logits[here].double().logsumexp(dim=1)
            parts.append(normalize(z) * energy[:, None].float())
        self.bank_ = torch.cat(parts)
        return self

    def _rows(self, labels: Tensor) -> Tensor:
        """Evenly spaced rows of the training set in the order of classes, sorted."""
        n = len(labels)
        size = min(n, max(self.k, round(self.share * n)))
        places = torch.arange(size, device=labels.device) * n // size
        return labels.argsort(stable=True)[places].sort().values

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]`` and logits ``[N, C]``."""
        parts = [torch.empty(0, dtype=torch.float64)]
        for batch in blocks(outputs, "features", least=MANY):
            z = normalize(batch.features.float())
            guidance = most_similar(z, self.bank_, self.k)[0].double().mean(dim=1)
            parts.append(-guidance * batch.logits.double().logsumexp(dim=1))
        return torch.cat(parts[1:] or parts)
