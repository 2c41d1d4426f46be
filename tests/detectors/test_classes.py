"""Means by class: by label and by what is predicted, in blocks."""

from __future__ import annotations

import numpy as np
import pytest

from oodbench.detectors import _classes, _numerics
from tests.helpers.problems import arrays, problem


@pytest.mark.parametrize("by", ["labels", "predictions"])
def test_means_in_blocks_are_those_of_the_whole(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_numerics, "BLOCK", 24)  # of 300 samples 256 are a block at least
    p = problem(rectified=False)
    f, z, y = arrays(p.train)
    groups = y if by == "labels" else z.argmax(axis=1)
    labels_of = _classes.labelled if by == "labels" else _classes.predicted
    counts, means = _classes.class_means(p.train, 7, labels_of, lambda f: 2 * f)
    np.testing.assert_array_equal(counts, [(groups == c).sum() for c in range(7)])
    for c in range(5):
        np.testing.assert_allclose(means[c], 2 * f[groups == c].mean(axis=0))
    assert not means[5:].any()  # no sample, no mean
