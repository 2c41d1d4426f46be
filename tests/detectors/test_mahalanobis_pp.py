"""Mahalanobis++ and its relative form, against scikit-learn, NumPy and a case by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance

import oodbench
from oodbench import Outputs
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores, unit


def test_sample_by_sample() -> None:
    p = problem()
    f, _, y = arrays(p.train)
    u, test = unit(f), unit(arrays(p.test)[0])
    means = np.stack([u[y == c].mean(axis=0) for c in range(5)])
    within = EmpiricalCovariance(assume_centered=True).fit(u - means[y]).precision_
    whole = EmpiricalCovariance().fit(u)
    plain, relative = [], []
    for x in test:
        d = min((x - m) @ within @ (x - m) for m in means)
        plain.append(d)
        centred = x - whole.location_
        relative.append(d - centred @ whole.precision_ @ centred)
    same(scores("mahalanobis-pp", p), plain, rtol=1e-8)
    same(scores("rmds-pp", p), relative, rtol=1e-8)


def test_by_hand() -> None:
    """Two classes on the circle: 10 and 10 degrees about each axis, so all is a short sum."""
    t = np.pi / 18
    rows = [[np.cos(t), np.sin(t)], [np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)],
            [-np.sin(t), np.cos(t)]]  # fmt: skip
    lengths = np.array([1.0, 2.0, 5.0, 0.1])[:, None]  # which do not count
    train = Outputs(np.array(rows) * lengths, labels=np.array([0, 0, 1, 1]))  # type: ignore[arg-type]
    # means (cos t, 0) and (0, cos t); the scatter is sin^2 t / 2 in each direction
    test = Outputs(np.array([[3.0, 0.0], [2.0, 2.0]]), labels=np.zeros(2))  # type: ignore[arg-type]
    h = np.sqrt(0.5)
    squares = np.array([(1 - np.cos(t)) ** 2, (h - np.cos(t)) ** 2 + h**2]) / (np.sin(t) ** 2 / 2)
    found = oodbench.create_detector("mahalanobis-pp").fit(train).score(test)
    np.testing.assert_allclose(found, squares, rtol=1e-7)


@pytest.mark.parametrize("name", ["mahalanobis-pp", "rmds-pp"])
def test_lengths_do_not_count(name: str) -> None:
    p = problem()
    detector = oodbench.create_detector(name).fit(p.train)
    longer = Outputs(7.5 * p.test.features, p.test.logits, p.test.labels, p.test.head)
    torch.testing.assert_close(detector.score(longer), detector.score(p.test))


@pytest.mark.parametrize("name", ["mahalanobis-pp", "rmds-pp"])
def test_names_of_classes_do_not_count(name: str) -> None:
    p = problem()
    other = Outputs(p.train.features, p.train.logits, (p.train.labels + 2) % 5, p.train.head)
    found = oodbench.create_detector(name).fit(other).score(p.test)
    torch.testing.assert_close(found, oodbench.create_detector(name).fit(p.train).score(p.test))


def test_shrinkage_is_asked_for_and_said() -> None:
    p = problem(n=20)
    with pytest.warns(oodbench.errors.OODBenchWarning, match="too few for a covariance"):
        plain = scores("mahalanobis-pp", p)
    with pytest.warns(oodbench.errors.OODBenchWarning, match="shrunk by ledoit-wolf"):
        shrunk = scores("mahalanobis-pp", p, shrinkage="auto")
    assert not np.allclose(plain, shrunk)
