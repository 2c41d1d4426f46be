"""Kernel PCA: the SVD of explicit features, and what random ones make of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import oodbench
from oodbench.errors import OODBenchWarning, OptionError
from oodbench.info import describe
from tests.helpers.problems import arrays, problem
from tests.helpers.scores import same, scores, unit


def test_random_features_of_kpca_depend_on_a_seed_that_is_said() -> None:
    told = " ".join(describe("kpca").split())
    assert "seed: int = 0" in told
    assert "several seeds" in told
    p = problem(dim=8)
    scores = [
        oodbench.create_detector("kpca", seed=s).fit(p.train).score(p.test) for s in (0, 0, 1)
    ]
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2], rtol=1e-2)
    cosine = [
        oodbench.create_detector("kpca", kernel="cosine", seed=s).fit(p.train).score(p.test)
        for s in (0, 1)
    ]
    assert torch.equal(*cosine)


def _reconstruction_error(train: np.ndarray, test: np.ndarray, explained: float) -> np.ndarray:
    centre = train.mean(axis=0)
    _, singular, right = np.linalg.svd(train - centre, full_matrices=False)
    shares = np.cumsum(singular**2) / np.sum(singular**2)
    q = next(i for i, share in enumerate(shares, start=1) if share >= explained)
    assert 1 < q < len(right)
    rest = (test - centre) @ right[q:].T
    return np.linalg.norm(rest, axis=1)


@pytest.mark.parametrize("explained", [None, 0.6])
def test_kpca_cosine_is_numpys_svd(explained: float | None) -> None:
    p = problem()
    expected = _reconstruction_error(
        unit(arrays(p.train)[0]), unit(arrays(p.test)[0]), explained or 0.85
    )
    same(scores("kpca", p, kernel="cosine", explained=explained), expected, rtol=1e-8)


def test_kpca_cosine_gaussian_is_the_svd_of_explicit_features() -> None:
    p = problem()
    options = {"kernel": "cosine-gaussian", "M": 100, "gamma": 1.5}
    detector = oodbench.create_detector("kpca", **options).fit(p.train)
    omega, phase = detector.omega_.numpy(), detector.phase_.numpy()  # type: ignore[attr-defined]
    train, test = (
        np.array([[math.sqrt(2 / 100) * math.cos(x @ omega[:, j] + phase[j]) for j in range(100)]
                  for x in unit(arrays(outputs)[0])])
        for outputs in (p.train, p.test)
    )  # fmt: skip
    same(detector.score(p.test), _reconstruction_error(train, test, 0.8), rtol=1e-4)


def test_kpcas_random_features_make_the_gaussian_kernel() -> None:
    p = problem(test=20)
    detector = oodbench.create_detector("kpca", kernel="cosine-gaussian", gamma=0.8, M=2**14)
    generator = torch.Generator().manual_seed(detector.seed)  # type: ignore[attr-defined]
    # as fit draws them, without the eigenvectors of a matrix of that size
    detector.omega_ = torch.randn(24, 2**14, generator=generator) * math.sqrt(2 * 0.8)  # type: ignore[attr-defined]
    detector.phase_ = 2 * math.pi * torch.rand(2**14, generator=generator)  # type: ignore[attr-defined]
    mapped = detector._map(p.test.features).double().numpy()  # type: ignore[attr-defined]
    x = unit(arrays(p.test)[0])
    apart = ((x[:, None] - x) ** 2).sum(axis=2)
    np.testing.assert_allclose(mapped @ mapped.T, np.exp(-0.8 * apart), atol=0.05)
    small = oodbench.create_detector("kpca", kernel="cosine-gaussian", gamma=0.8, M=50)
    drawn = small.fit(p.train).omega_  # type: ignore[attr-defined]
    torch.testing.assert_close(
        drawn, torch.randn(24, 50, generator=generator.manual_seed(0)) * math.sqrt(1.6)
    )


@pytest.mark.parametrize("explained", [0.0, 1.0, 1.5, -0.1])
def test_a_share_that_is_none(explained: float) -> None:
    with pytest.raises(OptionError, match=r"kpca: explained must be in \(0, 1\)"):
        oodbench.create_detector("kpca", explained=explained)


def test_fewer_samples_than_features_are_said() -> None:
    p = problem()
    detector = oodbench.create_detector("kpca", kernel="cosine")
    with pytest.warns(OODBenchWarning, match=r"^kpca: 10 training samples have 24 mapped features"):
        detector.fit(p.train[:10])
