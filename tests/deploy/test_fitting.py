"""What a detector learns from and what thresholds come from, where splits lack or are shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import oodbench
from oodbench import Benchmark, DatasetSpec, FittedDetector
from oodbench.data.samples import ImageArrays, Samples, Subset
from oodbench.deploy import fitting
from oodbench.errors import DataError, MissingDataError, OptionError
from tests.helpers.fitted import CPU, GREY, blobs, fitted, network


def on(
    splits: Mapping[str, Samples | None], detector: str = "knn", **options: Any
) -> tuple[FittedDetector, list[str]]:
    """A detector fitted on a benchmark of those splits, of which None is gone; what is said."""

    def load(split: str) -> Samples:
        samples = splits[split]
        if samples is None:
            raise MissingDataError(f"there is no {split} here.")
        return samples

    spec = DatasetSpec("blobs", load, tuple(splits))
    benchmark = Benchmark("blobs", spec, near=(), far=(), preprocess=GREY)
    lines: list[str] = []
    made = oodbench.fit(
        detector, network(), benchmark=benchmark, preprocess=GREY, hardware=CPU,
        report=lines.append, **options,
    )  # fmt: skip
    return made, lines


def calibrated(made: FittedDetector) -> tuple[str, int]:
    about = made.about["calibrated_on"]
    return about["name"], about["n"]


TRAIN, VAL, TEST = blobs(300), blobs(60, 1, "blobs/val"), blobs(80, 2, "blobs/test")


def test_thresholds_come_from_the_validation_split_else_from_the_test_split() -> None:
    both = {"train": TRAIN, "val": VAL, "test": TEST}
    assert calibrated(on(both)[0]) == ("blobs/val", 60)
    assert calibrated(on(both | {"val": None})[0]) == ("blobs/test", 80)
    assert calibrated(on(both, calibration="test")[0]) == ("blobs/test", 80)
    with pytest.raises(MissingDataError, match="there is no test here"):
        on(both | {"val": None, "test": None})


def test_a_validation_split_out_of_the_training_split_does_not_calibrate() -> None:
    inside = Subset(TRAIN, np.arange(60), "blobs/val")
    made, lines = on({"train": TRAIN, "val": inside, "test": TEST})
    assert calibrated(made) == ("blobs/test", 80)
    assert "blobs/val is a part of the training images" in " ".join(lines)
    assert made.about["learned_from"]["n"] == 300


def test_images_without_classes_calibrate_all_the_same() -> None:
    """A flat folder is one class; the thresholds are those of the same images with classes."""
    flat = ImageArrays("new", VAL.images, np.zeros(60, int), ("all",))
    made, with_classes = fitted("knn", calibration=flat), fitted("knn", calibration=VAL)
    assert calibrated(made) == ("new", 60)
    assert made.threshold == with_classes.threshold


def test_images_of_other_classes_do_not_calibrate() -> None:
    """Neither as many others, nor more or less of them: they are no ID images."""
    for classes in (("low", "middle", "top"), ("low", "high"), tuple("abcd")):
        other = ImageArrays("others", VAL.images, VAL.labels % len(classes), classes)
        with pytest.raises(DataError, match="others and blobs/train have different classes"):
            fitted("knn", calibration=other)


def test_too_few_images_to_hold_some_out() -> None:
    few = Subset(TRAIN, np.flatnonzero(TRAIN.digests % np.uint64(fitting.TENTH) != 0)[:30], "few")
    with pytest.raises(OptionError, match="few has 30 images, too few to hold some out"):
        fitted("knn", train=few, calibration=None)


def test_samples_given_have_no_other_split() -> None:
    benchmark = fitting._benchmark(None, None, TRAIN, GREY, None)
    assert benchmark.id.load("train") is TRAIN
    with pytest.raises(MissingDataError, match="blobs/train has no test split"):
        benchmark.id.load("test")
