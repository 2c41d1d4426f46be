"""NECO is scikit-learn's principal components."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import oodbench
from oodbench.errors import OptionError
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("maxlogit", [True, False])
@pytest.mark.parametrize("dim", [None, 7])
def test_neco_is_scikit_learns(dim: int | None, maxlogit: bool, standardize: bool) -> None:
    p = problem()
    train, test = arrays(p.train)[0], arrays(p.test)[0]
    if standardize:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    reduced = PCA(n_components=24).fit(train).transform(test)[:, : dim or 4]  # C - 1
    expected = -np.linalg.norm(reduced, axis=1) / np.linalg.norm(test, axis=1)
    if maxlogit:
        expected *= p.test.logits.numpy().max(axis=1)
    same(scores("neco", p, dim=dim, maxlogit=maxlogit, standardize=standardize), expected)


def test_neco_takes_no_more_than_half_of_the_features() -> None:
    p = problem(dim=6, classes=5)
    detector = oodbench.create_detector("neco").fit(p.train)
    assert detector.axes_.shape == (6, 3)  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match=r"neco: dim=7 must be in \[1, 6\]"):
        oodbench.create_detector("neco", dim=7).fit(p.train)
