"""The Mahalanobis distance to the nearest class mean, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf, oas

import oodbench
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores


@pytest.mark.parametrize("shrinkage", ["none", "auto", "ledoit-wolf", "oas"])
def test_mahalanobis_sample_by_sample(shrinkage: str) -> None:
    p = problem()
    z, _, y = arrays(p.train)
    means = np.stack([z[y == c].mean(axis=0) for c in range(5)])
    centred = z - means[y]
    covariance = {
        "ledoit-wolf": lambda: ledoit_wolf(centred, assume_centered=True)[0],
        "oas": lambda: oas(centred, assume_centered=True)[0],
    }.get(shrinkage, lambda: centred.T @ centred / len(z))()
    precision = np.linalg.pinv(covariance, hermitian=True)
    expected = [min((x - m) @ precision @ (x - m) for m in means) for x in arrays(p.test)[0]]
    same(scores("mahalanobis", p, shrinkage=shrinkage), expected, rtol=1e-6)


def test_the_mean_of_a_class_is_at_no_distance() -> None:
    p = problem()
    detector = oodbench.create_detector("mahalanobis").fit(p.train)
    means = torch.stack([p.train.features[p.train.labels == c].mean(dim=0) for c in range(5)])
    found = detector.score(oodbench.Outputs(features=means))
    np.testing.assert_allclose(found, 0, atol=1e-9)
    assert float(detector.score(p.test).min()) > 0


def test_features_of_single_precision_are_scored_in_double() -> None:
    p = problem(dtype=torch.float32)
    detector = oodbench.create_detector("mahalanobis").fit(p.train)
    double = oodbench.Outputs(features=p.test.features.double())
    np.testing.assert_allclose(detector.score(p.test), detector.score(double), rtol=1e-12)
