"""Images in two sets that should have none in common, told by digests of their content.

A digest is of a file's bytes, or of pixels where there is no file: the same picture as PNG and as
JPEG, or nearly the same picture, is not found.
"""

from __future__ import annotations

import numpy as np

from oodbench.benchmark import Benchmark
from oodbench.data.samples import Samples
from oodbench.errors import OODBenchError

FEW = 0.01
"""Less than this share of an OOD set's images moves figures by less than a point."""


def shared(samples: Samples, others: Samples) -> int:
    """How many of some samples are among others."""
    return int(np.isin(samples.digests, np.unique(others.digests)).sum())


def with_tested(test: Samples, name: str, samples: Samples, count: int) -> str:
    """A sentence on images of an OOD set that are in the ID test set, and what they change.

    Of the pairs of an ID and an OOD image that AUROC counts, they are in that share of the OOD
    images; so without them it would be another by no more than that.

    Args:
        test: the ID test images.
        name: of the OOD set.
        samples: its images.
        count: how many are shared.
    """
    share = count / len(samples)
    end = f"scores on {name} mean little"
    if share < FEW:
        end = f"AUROC on {name} would be another by {100 * share:.2g} points at most without"
    some = _some(count, samples, samples.name)
    return f"{some} also in the ID test set {test.name}, as ID and as OOD at once; {end}."


def _some(count: int, samples: Samples, name: str) -> str:
    return f"{count:,} of the {len(samples):,} images of {name} {'is' if count == 1 else 'are'}"


def with_learned(test: Samples, ood: dict[str, Samples], learned: Samples, who: str) -> list[str]:
    """A sentence for each tested set that has images which were learned from.

    Args:
        test: the ID test images.
        ood: the OOD images, by the set's name.
        learned: ID images.
        who: what learned from them, with its verb: ``"the network was trained on"``.
    """
    texts = []
    if count := shared(test, learned):
        end = "accuracy and scores are better on them than on new ones"
        if count < FEW * len(test):
            points = f"{100 * count / len(test):.2g} points at most"
            end = f"accuracy and AUROC would be others by {points} without"
        some = _some(count, test, f"the ID test set {test.name}")
        texts.append(f"{some} also in {learned.name}, which {who}: {end}.")
    for name, samples in ood.items():
        if count := shared(samples, learned):
            end = f"scores on {name} mean little"
            if count < FEW * len(samples):
                points = f"{100 * count / len(samples):.2g} points at most"
                end = f"AUROC on {name} would be another by {points} without"
            some = _some(count, samples, samples.name)
            learnt = f"{'it was' if count == 1 else 'they were'} learned as ID"
            texts.append(f"{some} also in {learned.name}, which {who}: {learnt}, and {end}.")
    return texts


def cheap_training_set(benchmark: Benchmark) -> Samples | str:
    """The ID training images where it costs little to compare them, else why that is not done."""
    try:
        samples = benchmark.id.load("train")
    except OODBenchError:
        return f"{benchmark.id.name}/train is not on this machine"
    if not samples.digests_are_cheap:
        return f"reading all images of {samples.name} takes long"
    return samples
