r"""Ensemble: the mean of several detectors' scores, each standardised on ID training data.

The tests of several statistics are combined as in M. Haroush et al., "A Statistical Framework for
Efficient Out of Distribution Detection in Deep Neural Networks", ICLR 2022 (arXiv:2102.12967).

.. math:: s(x) = \frac1m \sum_j \frac{s_j(x) - \operatorname{mean}_i s_j(x_i)}
    {\operatorname{std}_i s_j(x_i)}

with mean and deviation over at most 5,000 training samples in even steps (relative standard error
of either: 1.5 % at most for normal scores).

Differs from the paper: (1) it combines p-values by Fisher's or Simes's rule; an empirical p-value
is the same for every sample beyond the training scores, which ties the OOD samples, so z-scores
are averaged (Stouffer's rule). (2) The default members are one detector of each source: logits
(energy), features (rmds), both (vim). CombOOD (SIAM SDM 2024, doi 10.1137/1.9781611978032.74)
combines a nearest-neighbour and a Mahalanobis statistic; its details were not at hand, so
``members=knn,mahalanobis`` is of its kind, not it.
Checked against: the formula (tests/detectors/test_ensemble.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, create_detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

SAMPLES = 5000


@register_detector("ensemble")
@dataclass
class Ensemble(Detector):
    """Mean of standardised scores. Higher = more OOD; unbounded, about 0 for ID samples.

    Streams as its members do. Beyond 5,000 training samples mean and deviation are those of samples
    in even steps, which are others in another order.

    Args:
        members: names of detectors that read outputs, with their defaults.

    Raises:
        OptionError: no member, the ensemble itself, or one that needs the network.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "logits", "head"})
    paper: ClassVar[Paper | None] = Paper(
        title="A Statistical Framework for Efficient Out of Distribution Detection in Deep Neural "
        "Networks",
        authors="Haroush, Matan and Frostig, Tzviel and Heller, Ruth and Soudry, Daniel",
        venue="ICLR",
        year=2022,
        url="https://arxiv.org/abs/2102.12967",
        formula="s(x) = mean_j (s_j(x) - mean s_j) / std s_j, over training data",
    )

    members: tuple[str, ...] = ("energy", "rmds", "vim")
    fitted_: list[Detector] = learned()
    mean_: list[float] = learned()
    std_: list[float] = learned()

    def __post_init__(self) -> None:
        # what its members need, whatever those of the default need
        vars(self)["needs"] = frozenset().union(*(member.needs for member in self._create()))

    @property
    def reads_level(self) -> bool:
        """Whether any member reads the level of the network's batch normalisation."""
        return any(member.reads_level for member in self._create())

    def _create(self) -> list[Detector]:
        if not self.members or "ensemble" in self.members:
            raise OptionError(
                "ensemble: members must name at least one detector, and not the ensemble itself."
            )
        created = [create_detector(name) for name in self.members]
        for member in created:
            if "model" in member.needs or member.needs_fit_batches:
                raise OptionError(
                    f"ensemble: {member.label} needs the network itself; members read outputs."
                )
        return created

    def fit(self, train: Outputs) -> Self:
        """The members, and mean and deviation of their scores on training samples ``[N]``."""
        self.fitted_ = [member.fit(train) for member in self._create()]
        sample = train[:: -(-len(train) // SAMPLES)]
        scores = [member.score(sample).double() for member in self.fitted_]
        self.mean_ = [float(one.mean()) for one in scores]
        self.std_ = [float(one.std(correction=0)) or 1.0 for one in scores]
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """The mean of the members' standardised scores, ``[N]``."""
        standardised = [
            (member.score(outputs).double() - mean) / std
            for member, mean, std in zip(self.fitted_, self.mean_, self.std_, strict=True)
        ]
        return torch.stack(standardised).mean(dim=0)
