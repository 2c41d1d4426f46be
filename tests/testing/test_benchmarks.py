"""Each check of benchmarks can fail: a broken benchmark for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from oodbench import Benchmark, DatasetSpec, Protocol
from oodbench.data.samples import ImageArrays, Samples
from oodbench.testing import benchmark_checks, drawn_benchmark

WHOLE = drawn_benchmark()


def images(seed: int = 0, labels: int = 3, classes: tuple[str, ...] = ("a", "b", "c")) -> Samples:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 32, 32), dtype=np.uint8)
    return ImageArrays(f"images/{seed}", pixels, np.arange(6) % labels, classes)


def with_id(load: Callable[[str], Samples], **fields: Any) -> Benchmark:
    return replace(WHOLE, id=replace(WHOLE.id, load=load, **fields))


def with_ood(load: Callable[[str], Samples]) -> Benchmark:
    return replace(WHOLE, groups={**WHOLE.groups, "far": (replace(WHOLE.far[0], load=load),)})


class Draws:
    """Makes or loads something else each time."""

    def __init__(self) -> None:
        self.calls = 0

    def benchmark(self) -> Benchmark:
        self.calls += 1
        return replace(WHOLE, groups={"near": WHOLE.near, "far": WHOLE.far[: self.calls % 2]})

    def load(self, split: str) -> Samples:
        self.calls += 1
        return images(self.calls)


def eager() -> Benchmark:
    """Reads when it is made."""
    return with_id(lambda split: images(), description=f"{len(WHOLE.id.load('train'))} images")


def lost(split: str) -> Samples:
    raise FileNotFoundError("data.zip")


def short(split: str) -> Samples:
    from oodbench.errors import MissingDataError

    raise MissingDataError("not found")


class Unnamed:
    """A transform that cannot be told from another."""

    task, channels, size = "classification", 1, 32

    def __call__(self, image: Any) -> Any:
        return WHOLE.preprocess(image)


SEEDS = {"train": 1, "val": 2, "test": 3}
BROKEN: dict[str, Benchmark | Callable[[], Benchmark]] = {
    "check_makes_the_same": Draws().benchmark,
    "check_reads_nothing": eager,
    "check_names": replace(WHOLE, name="My Benchmark"),
    "check_described": with_id(WHOLE.id.load, licence=""),
    "check_splits": with_id(WHOLE.id.load, splits=("train",)),
    "check_protocol": replace(WHOLE, protocol=Protocol(rank_by="accuracy", rank_group="near")),
    "check_task": replace(WHOLE, task="shapes"),
    "check_backbone": replace(WHOLE, backbone="avdigits-cnn"),
    "check_presets": replace(WHOLE, presets={"theirs": {"knn": {"neighbours": 3}}}),
    "check_missing_data": with_ood(lost),
    "check_same_samples": with_ood(Draws().load),
    "check_labels": with_id(lambda split: images(SEEDS[split], classes=("a", "b"))),
    "check_classes": with_id(
        lambda split: images(SEEDS[split], classes=("a", "b", "d" if split == "val" else "c"))
    ),
    "check_splits_are_apart": with_id(lambda split: images()),
    "check_ood_is_apart": with_ood(lambda split: WHOLE.id.load("train")),
    "check_preprocess": replace(WHOLE, preprocess=Unnamed()),
}
MORE = {
    "check_names": [
        replace(WHOLE, groups={"near": WHOLE.near, "far": WHOLE.near}),
        replace(WHOLE, validation=(DatasetSpec("a b", images),)),
        replace(WHOLE, id=replace(WHOLE.id, name=WHOLE.near[0].name)),
    ],
    "check_described": [with_id(WHOLE.id.load, description="two\nlines")],
    "check_protocol": [
        replace(WHOLE, groups={"near": WHOLE.near, "far": ()}, protocol=Protocol(rank_group="far"))
    ],
    "check_task": [
        replace(WHOLE, task_options={"side": 3}),
        replace(WHOLE, standard_method="ce-of-theirs"),
        replace(WHOLE, standard_method="ce-segmentation"),
        replace(WHOLE, measures=("theirs",)),
    ],
    "check_backbone": [replace(WHOLE, backbone="scenes-unet"), replace(WHOLE, backbone="resnet0")],
    "check_presets": [replace(WHOLE, presets={"theirs": {"nearest": {}}})],
    "check_missing_data": [with_ood(short)],
    "check_labels": [with_id(lambda split: images(SEEDS[split], 1))],
}
CHECKS = {check.__name__: check for check in benchmark_checks()}


def test_there_is_a_broken_one_for_each_check() -> None:
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_checks_can_fail(name: str) -> None:
    for broken in (BROKEN[name], *MORE.get(name, [])):
        with pytest.raises(AssertionError, match=r"drawn|My Benchmark|eager"):
            CHECKS[name](broken)


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_one_passes(name: str) -> None:
    CHECKS[name](WHOLE)
    CHECKS[name](drawn_benchmark)
