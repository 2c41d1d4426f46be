"""kNN: the k-th smallest of all distances, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import oodbench
from oodbench import Outputs
from oodbench.errors import OODBenchWarning, OptionError
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores, unit


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_knn_sample_by_sample(k: int, normalize: bool) -> None:
    p = problem()
    bank, queries = arrays(p.train)[0], arrays(p.test)[0]
    if normalize:
        bank, queries = unit(bank), unit(queries)
    expected = [np.sort(np.linalg.norm(bank - x, axis=1))[k - 1] for x in queries]
    same(scores("knn", p, k=k, normalize=normalize), expected, rtol=1e-5)


def test_the_default_neighbour_is_the_papers_for_cifar10() -> None:
    p = problem()
    assert oodbench.create_detector("knn").options() == {"k": 50, "normalize": True}
    same(scores("knn", p), scores("knn", p, k=50))


def test_a_training_sample_is_its_own_nearest_neighbour() -> None:
    p = problem()
    knn = oodbench.create_detector("knn", k=1).fit(p.train)
    np.testing.assert_allclose(knn.score(p.train), 0, atol=1e-6)


def test_the_bank_is_normalised_training_features_and_not_the_callers() -> None:
    p = problem()
    before = p.train.features.clone()
    knn = oodbench.create_detector("knn").fit(p.train)
    bank = knn.bank_  # type: ignore[attr-defined]
    assert bank.dtype == torch.float32
    np.testing.assert_allclose(bank, unit(before.numpy()), rtol=1e-6, atol=1e-7)
    assert torch.equal(p.train.features, before)


def test_as_many_neighbours_as_there_are_and_no_more() -> None:
    p = problem(n=30)
    far = [np.linalg.norm(unit(arrays(p.train)[0]) - x, axis=1).max() for x in
           unit(arrays(p.test)[0])]  # fmt: skip
    with pytest.warns(OODBenchWarning, match="knn"):
        same(scores("knn", p, k=30), far, rtol=1e-5)
    with pytest.raises(OptionError, match="knn"):
        oodbench.create_detector("knn", k=31).fit(p.train)
    with pytest.raises(OptionError, match="knn: k must be at least 1, not 0"):
        oodbench.create_detector("knn", k=0)


def test_no_sample_no_score() -> None:
    p = problem()
    none = Outputs(features=p.test.features[:0])
    assert oodbench.create_detector("knn").fit(p.train).score(none).shape == (0,)
