"""Linear separability of OOD features from ID ones: a measure of a network, and no detector.

Paper: A. Miyai, Q. Yu, G. Irie, K. Aizawa, "Can Pre-trained Networks Detect Familiar
Out-of-Distribution Data?", 2023. arXiv:2310.00847

They find that OOD which a network knows from its pre-training is told from ID worse where the two
are not linearly separable in feature space. How they measure that was not at hand; here it is the
AUROC of a cross-validated logistic regression.
Checked against: made-up features that are apart, the same, or apart in no linear way
(tests/detectors/test_separability.py).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from oodbench import metrics
from oodbench.errors import DataError
from oodbench.measures import Measure
from oodbench.networks import linear
from oodbench.outputs import Outputs
from oodbench.registry import register_measure

WEIGHT_DECAY = 1e-3
"""Weight decay of :func:`separability`; nothing is chosen there, as it describes test sets."""

SAMPLES = 5_000
"""Samples of a side that :func:`separability` looks at, at most."""


def separability(id_features: Tensor, ood_features: Tensor, folds: int = 5) -> float:
    """How linearly separable OOD features are from ID ones: a classifier's AUROC on unseen samples.

    A linear classifier of ID against OOD (:func:`oodbench.networks.linear.fit`, both sides weighing
    the same, weight decay ``WEIGHT_DECAY``) is fitted on all folds but one and ranks that one; the
    mean AUROC over the folds is returned. Samples take turns in the folds, as they stand. 1 where a
    hyperplane tells the two apart, about 0.5 where none helps. It sees OOD samples, so it describes
    the features, and detects nothing.

    Args:
        id_features: ``[N, D]``; of more than ``SAMPLES`` as many in even steps count.
        ood_features: ``[M, D]`` likewise.
        folds: at least 2, and at most N and M; fewer where there are fewer samples.

    Raises:
        DataError: a side has fewer than two samples.
    """
    sides = [_evenly(side, SAMPLES) for side in (id_features, ood_features)]
    n, m = map(len, sides)
    folds = min(folds, n, m)
    if folds < 2:
        raise DataError(f"separability wants two samples a side, but there are {n} and {m}.")
    x = torch.cat([side.to(torch.float32) for side in sides])
    y = torch.arange(n + m, device=x.device).ge(n).long()
    turn = torch.cat([torch.arange(n), torch.arange(m)]).to(x.device) % folds
    aurocs = []
    for fold in range(folds):
        held = turn == fold
        head = linear.fit(linear.Regression(x, y, 2, ~held, balanced=True), WEIGHT_DECAY).head
        logits = head(x[held])
        score = (logits[:, 1] - logits[:, 0]).cpu()
        is_ood = y[held].bool().cpu()
        aurocs.append(metrics.auroc(score[~is_ood], score[is_ood]))
    return sum(aurocs) / folds


def _evenly(features: Tensor, most: int) -> Tensor:
    if len(features) <= most:
        return features
    return features[torch.linspace(0, len(features) - 1, most).long().to(features.device)]


@register_measure("separability")
class Separability(Measure):
    """How linearly separable the features of an OOD set are from those of the ID test set."""

    title: ClassVar[str] = "Linear separability of features"
    about: ClassVar[str] = (
        "AUROC of a linear classifier of ID test against OOD features, cross-validated. It is "
        "given OOD samples: it tells how far apart the features are, and is no detector."
    )
    axis: ClassVar[str] = "linear separability from ID, AUROC %"
    is_auroc: ClassVar[bool] = True

    def of(self, test: Outputs, ood: Outputs) -> float | None:
        """See :func:`separability`; None where a side has fewer than two samples."""
        if min(len(test), len(ood)) < 2:
            return None
        return separability(test.features, ood.features)
