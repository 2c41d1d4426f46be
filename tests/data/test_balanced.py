"""The class-balanced part of a training set that detectors are fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oodbench.data.balanced import balanced, balanced_rows, count_of
from oodbench.data.samples import ImageArrays, image_folder
from oodbench.errors import OptionError
from tests.conftest import write_images
from tests.helpers.rows import evaluate


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any),
    share=st.floats(0, 1),
    seed=st.integers(0, 3),
)
def test_classes_give_the_same_as_far_as_they_can(
    counts: list[int], share: float, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    n = round(share * len(labels))
    rows = balanced_rows(labels, len(counts), n, seed)
    assert len(rows) == n == len(set(rows.tolist()))
    assert (np.diff(rows) > 0).all()
    taken = np.bincount(labels[rows], minlength=len(counts))
    most = taken.max(initial=0)
    for got, there in zip(taken, counts, strict=True):
        assert got == there or got >= most - 1
    assert (rows == balanced_rows(labels, len(counts), n, seed)).all()


def test_numbers_and_shares() -> None:
    assert (count_of("50", 100), count_of(0.25, 100), count_of("0.001", 100)) == (50, 25, 1)
    for wrong in ("many", 0, -3, 2.5, "nan"):
        with pytest.raises(OptionError, match="fit_on"):
            count_of(wrong, 100)


def samples() -> ImageArrays:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 4, 4), dtype=np.uint8)
    return ImageArrays("toy/train", images, np.arange(30) % 3, ("a", "b", "c"))


def test_its_name_tells_what_it_is() -> None:
    part = balanced(samples(), 9)
    assert part.name == "toy/train[9 of 30, balanced, seed 0]"
    assert np.bincount(part.labels).tolist() == [3, 3, 3]
    whole = samples()
    assert balanced(whole, None) is whole
    assert balanced(whole, 30) is whole
    with pytest.raises(OptionError, match="fewer than the 3 classes"):
        balanced(whole, 2)


def test_files_that_are_left_out_are_not_read(tmp_path: Path) -> None:
    whole = image_folder("x", write_images(tmp_path / "x", {"a": 6, "b": 6}))
    part = balanced(whole, 4)
    kept = {str(tmp_path / "x" / path) for path in part.paths}  # type: ignore[attr-defined]
    for path in whole.paths:
        if str(tmp_path / "x" / path) not in kept:
            (tmp_path / "x" / path).write_bytes(b"no image")
    assert len(part.fingerprint) > 8
    assert [part[i].size for i in range(4)] == [(32, 32)] * 4


def test_rows_say_what_was_fitted_on() -> None:
    small = evaluate(detectors=["mahalanobis", "msp"], fit_on=20)
    rows = {row["detector"]: row for row in small}
    assert rows["mahalanobis"]["fit_on"] == "toy/train[20 of 60, balanced, seed 0]"
    assert rows["msp"]["fit_on"] is None
    whole = {row["detector"]: row for row in evaluate(detectors=["mahalanobis", "msp"])}
    assert (
        rows["mahalanobis"]["id_train_fingerprint"] != whole["mahalanobis"]["id_train_fingerprint"]
    )
    assert rows["mahalanobis"]["row_id"] != whole["mahalanobis"]["row_id"]
    assert whole["mahalanobis"]["fit_on"] is None
