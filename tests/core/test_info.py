"""What is said of whatever has a name."""

from __future__ import annotations

import pytest

from oodbench.info import describe


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("knn", "memory:   fitted, it grows with the training samples"),
        ("nnguide", "memory:   fitted, it grows with the training samples"),
        ("mahalanobis", "memory:   fitted, it is as large for any number of training samples"),
        ("kpca", "memory:   fitted, it is as large for any number of training samples"),
        ("vim", "memory:   fitted, it is as large for any number of training samples"),
    ],
)
def test_how_a_fitted_detector_grows(name: str, said: str) -> None:
    assert said in describe(name)


@pytest.mark.parametrize("name", ["msp", "odin"])
def test_nothing_is_said_of_what_learns_nothing(name: str) -> None:
    assert "memory:" not in describe(name)
