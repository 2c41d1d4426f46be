"""The embedded benchmarks with few images, for tests that ask nothing of how many there are."""

from __future__ import annotations

import dataclasses

import numpy as np

from oodbench import Benchmark, DatasetSpec, Samples
from oodbench.data.samples import VOID, ImageArrays
from oodbench.datasets.digits import digits
from oodbench.datasets.scenes import Content, Scene, scenes

SCENES = {"train": 8, "test": 6}


def few(spec: DatasetSpec) -> DatasetSpec:
    """The same dataset, with images taken at even distances.

    Of 400 training images six classes have more than 50 each, which is what knn asks for.
    """

    def load(split: str) -> Samples:
        whole = spec.load(split)
        assert isinstance(whole, ImageArrays)
        most = 400 if split == "train" else 100
        kept = np.unique(np.linspace(0, len(whole) - 1, most).astype(int))
        return ImageArrays(whole.name, whole.images[kept], whole.labels[kept], whole.classes)

    return dataclasses.replace(spec, load=load)


def few_digits() -> Benchmark:
    """``digits`` with some of its images."""
    whole = digits()
    return dataclasses.replace(
        whole,
        id=few(whole.id),
        near=tuple(map(few, whole.near)),
        far=tuple(map(few, whole.far)),
    )


def some_scenes(split: str, content: Content) -> tuple[Scene, ...]:
    """The first scenes; of those with OOD objects the border is void."""
    chosen = scenes(split, content)[: SCENES[split]]
    if content == "id":
        return chosen
    bordered = [np.pad(s.classes[5:-5, 5:-5], 5, constant_values=VOID) for s in chosen]
    return tuple(
        dataclasses.replace(scene, classes=classes)
        for scene, classes in zip(chosen, bordered, strict=True)
    )
