"""SHE, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest

import oodbench
from oodbench.errors import BadScoresError
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "euclidean"])
def test_she_sample_by_sample(metric: str) -> None:
    p = problem()
    p.train.logits[:, 3] -= 100  # a class that is never right stores the mean of all of its own
    z, f, y = arrays(p.train)
    right = f.argmax(axis=1) == y
    assert 0 < right.sum() < len(y)
    patterns = [z[(y == c) & (right if c != 3 else True)].mean(axis=0) for c in range(5)]
    expected = []
    for one, logits in zip(*arrays(p.test)[:2], strict=True):
        pattern = patterns[logits.argmax()]
        expected.append(
            {
                "inner_product": -one @ pattern,
                "cosine": -one @ pattern / np.linalg.norm(one) / np.linalg.norm(pattern),
                "euclidean": np.linalg.norm(one - pattern),
            }[metric]
        )
    same(scores("she", p, metric=metric), expected)


def test_she_needs_a_sample_of_each_class() -> None:
    p = problem()
    without = (p.train.labels != 2).nonzero().flatten()
    with pytest.raises(BadScoresError, match=r"^she: .*2"):
        oodbench.create_detector("she").fit(p.train[without])
