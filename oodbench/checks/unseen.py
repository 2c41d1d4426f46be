"""Sets of images that training sees beside the ID set: what they are, and that none is tested on.

Images are compared by the digests of their content, and by their pixels as well where that is
quick, so that a picture is found in another file format too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from oodbench.benchmark import Benchmark
from oodbench.checks.overlap import shared
from oodbench.data.content import pixel_digests
from oodbench.data.samples import MultimodalSamples, Samples
from oodbench.dataset import resolve_dataset
from oodbench.errors import DataError, MissingDataError, OptionError

QUICK = 50_000
"""Sets with as many images, or fewer, are decoded to compare their pixels."""


def auxiliary_set(method: str, recipe: Any, field: str) -> Samples:
    """The images of a dataset that a recipe names: its ``train`` split, else its last one.

    Args:
        method: whose recipe it is, for messages.
        recipe: it.
        field: the recipe's field with the name of the dataset, such as ``"outliers"``.

    Raises:
        OptionError: the recipe names none.
        UnknownNameError: there is no dataset of that name.
        MissingDataError: it is not on this machine.
        DataError: it has no image.
    """
    name = getattr(recipe, field)
    if not name:
        raise OptionError(
            f"{method} learns from images beside the ID set, its {field.replace('_', ' ')}, and "
            "none were named. Name a dataset that is not tested on, or a folder of images: "
            f"`recipe_options` {field}=NAME, or {field}=folder:PATH."
        )
    spec = resolve_dataset(name)
    splits = [s for s in dict.fromkeys(("train", spec.splits[-1])) if s in spec.splits]
    for split in splits[:-1]:
        try:
            samples = spec.load(split)
        except MissingDataError:  # a folder without splits is all of it
            continue
        break
    else:
        samples = spec.load(splits[-1])
    if not len(samples):
        raise DataError(f"{samples.name} has no image to learn from.")
    return samples


def told_of(samples: Samples | None, field: str) -> dict[str, Any] | None:
    """What rows tell of such a set; see ``Row.auxiliary``."""
    if samples is None:
        return None
    return {
        "as": field,
        "name": samples.name,
        "count": len(samples),
        "fingerprint": samples.fingerprint,
    }


def check_unseen(samples: Samples, benchmark: Benchmark, field: str) -> None:
    """Check that none of some images is tested on, in the benchmark's sets that are here.

    Raises:
        DataError: some are; says how many, and of which sets.
    """
    refuse_seen(samples, _tested(benchmark), field)


def _tested(benchmark: Benchmark) -> Iterator[Samples]:
    """The ID test set and the OOD sets of a benchmark, as far as they are on this machine."""
    sets = [(benchmark.id, "test")] if "test" in benchmark.id.splits else []
    for spec, split in [*sets, *((one.spec, one.spec.splits[-1]) for one in benchmark.ood)]:
        try:
            yield spec.load(split)
        except MissingDataError:  # an evaluation on it looks again
            continue


def refuse_seen(samples: Samples, tested: Iterable[Samples], field: str) -> None:
    """Check that none of some images is among those of sets that are tested on.

    Raises:
        DataError: some are; says how many, and of which sets.
    """
    counts = {one.name: count for one in tested if (count := _shared(samples, one))}
    if counts:
        where = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise DataError(
            f"{field.replace('_', ' ')}: of the {len(samples):,} images of {samples.name}, which "
            f"are to be learned from, some are tested on: {where}. Figures on them would mean "
            "nothing: take another set, or leave these images out of it."
        )


def _shared(samples: Samples, tested: Samples) -> int:
    count = shared(samples, tested)
    has_pixels = not any(isinstance(one, MultimodalSamples) for one in (samples, tested))
    if has_pixels and max(len(samples), len(tested)) <= QUICK:
        pixels = np.unique(pixel_digests(tested))
        count = max(count, int(np.isin(pixel_digests(samples), pixels).sum()))
    return count
