"""Covariances of few samples: shrinkage as scikit-learn has it, and what is said of too few."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS, LedoitWolf
from torch import Tensor

import oodbench
from oodbench import Outputs, metrics
from oodbench.detectors._covariance import covariance, fourth_moment, rank_of, shrunk_each
from oodbench.detectors._numerics import class_moments, moments, normalize
from oodbench.errors import OODBenchWarning, OptionError
from oodbench.outputs import Head

ESTIMATES = {"ledoit-wolf": LedoitWolf, "oas": OAS}
GAUSSIANS = ["mahalanobis", "rmds", "ssd", "palm", "gmm"]
F64 = torch.float64


def drawn(n: int, dim: int, classes: int = 3, seed: int = 0, decay: float = 1.0) -> Outputs:
    """Features of classes apart, whose variances fall along axes that are no coordinates."""
    world = torch.Generator().manual_seed(99)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=world, dtype=F64)).Q
    centres = 2 * torch.randn(classes, dim, generator=world, dtype=F64)
    g = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, dim + 1, dtype=F64) ** (-decay / 2)
    labels = torch.arange(n) % classes
    z = torch.randn(n, dim, generator=g, dtype=F64) * scales @ turn.T + 0.3 * centres[labels]
    head = Head(centres * 0.1, torch.zeros(classes, dtype=F64))
    return Outputs(z, head(z), labels, head)


def within(train: Outputs) -> np.ndarray:
    means = torch.stack([train.features[train.labels == c].mean(dim=0) for c in range(3)])
    return (train.features - means[train.labels]).numpy()


@pytest.mark.parametrize("kind", ESTIMATES)
@pytest.mark.parametrize(("n", "dim"), [(30, 50), (90, 40), (2000, 10), (9, 200)])
def test_shrinkage_is_scikit_learns(kind: Any, n: int, dim: int) -> None:
    train = drawn(n, dim)
    expected = ESTIMATES[kind](assume_centered=True).fit(within(train)).covariance_
    found = covariance(train, moments(train, "it", groups=3), "it", kind)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    one = ESTIMATES[kind]().fit(train.features.numpy()).covariance_
    found = covariance(train, moments(train, "it"), "it", kind)
    np.testing.assert_allclose(found.numpy(), one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ESTIMATES)
def test_shrinkage_of_each_class_is_scikit_learns(kind: Any) -> None:
    train = drawn(45, 12)
    counts, means, scatter = class_moments(train, "it", 3, normalize)
    found = shrunk_each(
        train, counts, means, scatter / counts[:, None, None], "it", kind, normalize
    )
    for c in range(3):
        own = normalize(train.features[train.labels == c]).numpy()
        expected = ESTIMATES[kind]().fit(own).covariance_
        np.testing.assert_allclose(found[c].numpy(), expected, rtol=1e-8, atol=1e-14)


def test_the_fourth_moment_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    train = drawn(1000, 7)
    found = moments(train, "it", groups=3)
    whole = fourth_moment(train, found.means)
    monkeypatch.setattr("oodbench.detectors._numerics.BLOCK", 1)
    torch.testing.assert_close(fourth_moment(train, found.means), whole)
    assert float(whole.sum()) == pytest.approx((within(train) ** 2).sum(1) ** 2 @ np.ones(1000))


def said(name: str, train: Outputs, **options: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", OODBenchWarning)
        detector = oodbench.create_detector(name, **options).fit(train)
    return detector, [str(one.message) for one in caught]


@pytest.mark.parametrize("name", GAUSSIANS)
@pytest.mark.parametrize("options", [{}, {"shrinkage": "none"}, {"shrinkage": "oas"}])
def test_too_few_samples_are_said(name: str, options: dict[str, Any]) -> None:
    _, told = said(name, drawn(60, 80), **options)
    assert told, name
    for text in told:
        assert text.startswith(f"{name}: ")
        assert "80 features (rank " in text
        assert ("Set shrinkage" in text) == (options.get("shrinkage") == "none")
        assert ("shrunk by" in text) == (options.get("shrinkage") != "none")


@pytest.mark.parametrize("name", [*GAUSSIANS, "vim", "residual", "neco", "kpca", "pnml"])
def test_enough_samples_say_nothing_and_score_as_ever(name: str) -> None:
    train, test = drawn(600, 20), drawn(50, 20, seed=1)
    detector, told = said(name, train)
    assert told == []
    if name in GAUSSIANS:
        plain, _ = said(name, train, shrinkage="none")
        assert torch.equal(detector.score(test), plain.score(test))
        shrunk, _ = said(name, train, shrinkage="oas")
        assert not torch.allclose(shrunk.score(test), plain.score(test))


@pytest.mark.parametrize("name", GAUSSIANS)
def test_dead_features_are_no_lack_of_samples(name: str) -> None:
    """Nor are they with more features than samples, of which 20 vary."""
    train = drawn(600, 20)
    padded = Outputs(
        torch.cat([train.features, torch.zeros(600, 700, dtype=F64)], dim=1), labels=train.labels
    )
    options = {"covariance": "tied"} if name == "gmm" else {}
    assert said(name, padded, **options)[1] == []


@pytest.mark.parametrize("name", ["mahalanobis", "rmds", "ssd", "palm"])
def test_the_default_shrinks_below_twice_as_many_samples_as_features(name: str) -> None:
    test = drawn(50, 40, seed=1)
    for n, shrinks in ((78, True), (81, False)):
        train = drawn(n, 40)
        found = said(name, train)[0].score(test)
        as_ledoit = said(name, train, shrinkage="ledoit-wolf")[0].score(test)
        as_none = said(name, train, shrinkage="none")[0].score(test)
        assert torch.equal(found, as_ledoit if shrinks else as_none)
        assert not torch.allclose(as_ledoit, as_none)


def test_each_class_is_shrunk_by_its_own_size() -> None:
    train = drawn(900, 20)
    few = torch.cat([torch.arange(0, 60, 3), torch.arange(1, 900, 3), torch.arange(2, 900, 3)])
    train = train[few]  # 20, 300 and 300
    detector, told = said("ssd", train, clusters="classes")
    assert len(told) == 1
    plain, _ = said("ssd", train, clusters="classes", shrinkage="none")
    assert torch.equal(detector.precisions_[1:], plain.precisions_[1:])
    assert not torch.allclose(detector.precisions_[0], plain.precisions_[0])


def auroc(name: str, train: Outputs, test: Tensor, ood: Tensor, **options: Any) -> float:
    detector, _ = said(name, train, **options)
    return metrics.auroc(detector.score(Outputs(test)), detector.score(Outputs(ood)))


def wide(n: int, seed: int = 0, off: float = 0.0) -> Outputs:
    """1,280 features of ten classes; OOD samples have some noise in all directions besides."""
    world, g = torch.Generator().manual_seed(7), torch.Generator().manual_seed(seed)
    scales = torch.arange(1, 1281).float() ** -0.5
    centres = 1.5 * torch.randn(10, 1280, generator=world) * scales
    labels = torch.arange(n) % 10
    z = torch.randn(n, 1280, generator=g) * scales + centres[labels]
    return Outputs(z + off * torch.randn(n, 1280, generator=g), labels=labels)


@pytest.mark.parametrize("name", ["mahalanobis", "ssd"])
def test_far_fewer_samples_than_features(name: str) -> None:
    """Of 200 samples, the pseudo-inverse tells nothing of what 5,000 tell for certain."""
    train, test, ood = wide(200), wide(200, 1).features, wide(200, 2, off=0.02).features
    plain = auroc(name, train, test, ood, shrinkage="none")
    assert plain < 0.62
    assert auroc(name, train, test, ood) > plain + 0.1


def test_enough_samples_of_many_features() -> None:
    detector, told = said("mahalanobis", wide(5000))
    assert told == []
    test, ood = detector.score(wide(200, 1)), detector.score(wide(200, 2, off=0.02))
    assert metrics.auroc(test, ood) > 0.99


def test_held_out_id_samples_are_no_nearer_than_training_samples() -> None:
    """With the pseudo-inverse they are, which is the mark of the artefact."""
    train, test = wide(200), wide(200, 1)
    plain, _ = said("mahalanobis", train, shrinkage="none")
    assert metrics.auroc(plain.score(train), plain.score(test)) < 0.1
    shrunk, _ = said("mahalanobis", train)
    assert metrics.auroc(shrunk.score(train), shrunk.score(test)) > 0.9


def test_what_no_class_tells_apart_cancels_in_rmds() -> None:
    """Off the span of all training samples, both distances grow alike."""
    train = drawn(30, 80)
    detector, _ = said("rmds", train)
    z = train.features[:5]
    _, _, axes = torch.linalg.svd(train.features, full_matrices=True)
    off = 7 * axes[-1]  # orthogonal to every sample
    there, off_it = (detector.score(Outputs(each)) for each in (z, z + off))
    torch.testing.assert_close(off_it, there, rtol=1e-6, atol=1e-6)
    far, _ = said("mahalanobis", train)
    assert (far.score(Outputs(z + off)) > far.score(Outputs(z)) + 10).all()


# Subspaces


@pytest.mark.parametrize("n", [30, 60, 79])
def test_a_subspace_of_few_samples_leaves_a_residual(n: int) -> None:
    train, test = drawn(n, 80), drawn(40, 80, seed=1)
    vim, told = said("vim", train)
    assert any(f"{n} training samples have 80 features" in text for text in told)
    residual, _ = said("residual", train)
    own = residual.score(train)
    assert float(own.mean()) > 0.02 * float(train.features.norm(dim=1).mean())
    # so the virtual logit is of the size of the others, and the energy counts
    assert 0 < abs(vim.alpha_) < 100
    assert not torch.allclose(vim.score(test) / vim.alpha_, residual.score(test), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["vim", "residual"])
@pytest.mark.parametrize("dim", [30, 50, 79])
def test_a_dimension_without_residual_is_refused(name: str, dim: int) -> None:
    train = drawn(30, 80)
    with pytest.raises(
        OptionError, match=rf"{name}: dim={dim} leaves no residual: the 30 training"
    ):
        oodbench.create_detector(name, dim=dim).fit(train)
    said(name, train, dim=20)


def test_the_rule_for_dimensions_stands_where_samples_are_enough() -> None:
    train = drawn(100, 80)
    by_rule, told = said("vim", train)
    assert told == []
    assert torch.equal(by_rule.null_.axes, said("vim", train, dim=40)[0].null_.axes)


def test_dead_features_leave_a_residual_too() -> None:
    """The rule takes 50 of 100 features; only 20 of them vary."""
    train = drawn(1000, 20)
    z = torch.cat([train.features, torch.zeros(1000, 80, dtype=F64)], dim=1)
    weight = torch.cat([train.head.weight, torch.zeros(3, 80, dtype=F64)], dim=1)  # type: ignore[union-attr]
    head = Head(weight, torch.zeros(3, dtype=F64))
    padded = Outputs(z, head(z), train.labels, head)
    detector, told = said("vim", padded)
    assert told == []
    assert detector.null_.axes.shape[1] == 90
    assert float(detector.null_.residual(z).mean()) > 0.1


def test_vim_without_any_residual_is_the_energy() -> None:
    """Features on a line: what is left outside of it is rounding, by which nothing is scaled."""
    line = torch.rand(50, 1) @ torch.rand(1, 40)
    head = Head(torch.rand(3, 40), torch.zeros(3))
    train = Outputs(line, head(line), torch.arange(50) % 3, head)
    detector, told = said("vim", train)
    assert detector.alpha_ == 0
    assert any("the score is the energy" in text for text in told)
    energy = oodbench.create_detector("energy").score(train)
    torch.testing.assert_close(detector.score(train), energy)


def test_neco_of_few_samples() -> None:
    train = drawn(30, 80)
    with pytest.raises(OptionError, match=r"neco: dim=40 leaves nothing outside"):
        oodbench.create_detector("neco", dim=40).fit(train)
    detector, told = said("neco", drawn(6, 80, classes=6))
    assert detector.axes_.shape[1] == 2
    assert "6 training samples have 80 features" in told[0]


@pytest.mark.parametrize("name", ["vim", "residual", "neco", *GAUSSIANS, "kpca", "pnml"])
def test_samples_that_are_all_the_same_are_scored(name: str) -> None:
    train = drawn(30, 8)
    same = Outputs(
        torch.ones(30, 8, dtype=F64), torch.ones(30, 3, dtype=F64), train.labels, train.head
    )
    detector, _ = said(name, same)
    assert detector.score(drawn(5, 8)).isfinite().all()


def test_rank() -> None:
    train = drawn(30, 80)
    found = moments(train, "it")
    variances = torch.linalg.eigvalsh(found.scatter / 30).flip(0)
    assert rank_of(variances, 80) == 29
    assert rank_of(variances, 10) == 10
    assert rank_of(torch.zeros(5), 5) == 0
