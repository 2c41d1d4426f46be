"""Whether ID samples have classes, and those of the other splits."""

from __future__ import annotations

from oodbench.benchmark import Benchmark
from oodbench.data.samples import Samples
from oodbench.errors import DataError


def id_samples(benchmark: Benchmark, split: str) -> Samples:
    """A split of a benchmark's ID set, checked to have at least two classes.

    Raises:
        DataError: fewer than two classes.
    """
    samples = benchmark.id.load(split)
    if len(samples.classes) < 2:
        raise DataError(
            f"{samples.name} has one class ({samples.classes[0]}); an ID set needs at least two "
            "class folders, PATH/train/<class>/ and PATH/test/<class>/."
        )
    return samples


def check_classes(train: Samples, reference: Samples) -> None:
    """Check that a training set has the classes of other ID samples, in the same order.

    Raises:
        DataError: it has others.
    """
    if train.classes != reference.classes:
        strange = sorted(set(train.classes) ^ set(reference.classes))
        in_lower_case = [{c.casefold() for c in samples.classes} for samples in (train, reference)]
        is_case = strange and in_lower_case[0] == in_lower_case[1]
        hint = " They differ in case alone: call them the same." if is_case else ""
        raise DataError(
            f"{train.name} and {reference.name} have different classes: {strange[:5]}.{hint}"
        )
