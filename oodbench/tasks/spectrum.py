"""What counts as ID: the ID test set, and shifted sets where a benchmark's protocol says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oodbench import metrics
from oodbench.tasks.runner import NetworkRunner, SampleOutputs, Scored


def accuracy_over_id(runner: NetworkRunner, tested: Sequence[SampleOutputs]) -> float | None:
    """The accuracy on all that counts as ID, where that is more than the ID test set.

    Args:
        runner: the network at work.
        tested: the ID test set, then the others.
    """
    counted = [tested[0], *(one for one in tested[1:] if one.counts_as_id)]
    if len(counted) == 1:
        return None
    accuracies = [runner.quality(one)["id_accuracy"] for one in counted]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    if len(known) < len(counted):
        return None
    return float(np.average(known, weights=[len(one.samples) for one in counted]))


def mean_intervals(
    scored: Scored, tested: Sequence[SampleOutputs], members: list[int]
) -> Mapping[str, float]:
    """Intervals of the mean figures over OOD sets, by their positions after the ID test set."""
    return metrics.mean_intervals(*_compared(scored, tested, members))


def difference(
    scored: Scored, tested: Sequence[SampleOutputs], first: list[int], second: list[int]
) -> tuple[float, float, float]:
    """The difference of two groups' mean AUROC, and the ends of its interval."""
    id_scores, of_first = _compared(scored, tested, first)
    return metrics.auroc_gap(id_scores, of_first, _compared(scored, tested, second)[1])


def _compared(
    scored: Scored, tested: Sequence[SampleOutputs], members: list[int]
) -> tuple[Any, list[np.ndarray]]:
    """The ID scores that sets are compared with, and those sets' own."""
    scores = scored.scores or []
    test, others = scores[0], scores[1:]
    are_id = any(tested[1 + i].counts_as_id for i in members)
    return test if are_id else scored.id_scores, [others[i] for i in members]
