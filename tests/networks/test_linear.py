"""The solver of multinomial logistic regression on features."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from oodbench.errors import DataError
from oodbench.networks import linear
from oodbench.networks.linear import Regression


def drawn(
    n: int = 300, d: int = 12, classes: int = 4, seed: int = 0, scale: float = 3.0
) -> tuple[Tensor, Tensor]:
    """Overlapping classes in correlated features away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    mixing = torch.randn(d, d, generator=generator)
    centres = torch.randn(classes, d, generator=generator)
    features = (centres[labels] + torch.randn(n, d, generator=generator)) @ mixing
    return scale * features + 5, labels


def objective(fit: linear.Fit, x: Tensor, y: Tensor) -> float:
    """What is minimised, from its definition, in float64."""
    x = x.double()
    centred = x - x.mean(dim=0)
    scaled = centred / centred.square().mean().sqrt()
    logits = scaled @ fit.weight.double().T + fit.bias.double()
    penalty = fit.weight_decay / 2 * fit.weight.double().square().sum()
    return float(torch.nn.functional.cross_entropy(logits, y) + penalty)


@pytest.mark.parametrize("decay", [1e-1, 1e-3, 1e-4])
def test_it_is_scikit_learns_logistic_regression(decay: float) -> None:
    x, y = drawn()
    fit = linear.fit(Regression(x, y, 4), decay, tolerance=1e-6)
    scaled = (x - x.mean(dim=0)) / (x - x.mean(dim=0)).square().mean().sqrt()
    peer = LogisticRegression(C=1 / (len(y) * decay), max_iter=10_000, tol=1e-8)
    peer.fit(scaled.double().numpy(), y.numpy())
    wanted = torch.from_numpy(peer.predict_proba(scaled.double().numpy()))
    found = fit.head(x).double().softmax(dim=1)
    torch.testing.assert_close(found, wanted, atol=3e-3, rtol=0)


def test_the_head_reads_features_as_they_are() -> None:
    x, y = drawn()
    fit = linear.fit(Regression(x, y, 4), 1e-3)
    centred = x - x.mean(dim=0)
    scaled = centred / centred.square().mean().sqrt()
    torch.testing.assert_close(fit.head(x), scaled @ fit.weight.T + fit.bias, atol=1e-3, rtol=1e-3)


def test_no_small_step_improves_it() -> None:
    x, y = drawn()
    fit = linear.fit(Regression(x, y, 4), 1e-3, tolerance=1e-6)
    best = objective(fit, x, y)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        step = 0.05 * torch.randn(fit.weight.shape, generator=generator)
        moved = linear.Fit(fit.weight_decay, fit.weight + step, fit.bias, fit.head, 0)
        assert objective(moved, x, y) > best - 1e-6


def test_rows_that_do_not_count_are_as_if_they_were_not_there() -> None:
    x, y = drawn()
    kept = torch.arange(len(y)) % 3 > 0
    some = linear.fit(Regression(x, y, 4, kept), 1e-3, tolerance=1e-6)
    alone = linear.fit(Regression(x[kept], y[kept], 4), 1e-3, tolerance=1e-6)
    torch.testing.assert_close(some.head(x), alone.head(x), atol=2e-2, rtol=1e-2)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn()
    whole = linear.fit(Regression(x, y, 4), 1e-3, tolerance=1e-6)
    monkeypatch.setattr(linear, "BLOCK", 12 * 7)
    parts = linear.fit(Regression(x, y, 4), 1e-3, tolerance=1e-6)
    torch.testing.assert_close(parts.head(x), whole.head(x), atol=2e-2, rtol=1e-2)


def test_a_better_start_needs_fewer_passes_and_ends_in_the_same_place() -> None:
    x, y = drawn(n=600)
    data = Regression(x, y, 4)
    cold = linear.fit(data, 1e-3, tolerance=1e-4)
    warm = linear.fit(data, 1e-3, start=linear.fit(data, 2e-3), tolerance=1e-4)
    assert warm.passes < cold.passes
    torch.testing.assert_close(
        warm.head(x).softmax(dim=1), cold.head(x).softmax(dim=1), atol=1e-2, rtol=0
    )


def test_dead_and_huge_features_do_no_harm() -> None:
    x, y = drawn()
    x[:, 3] = 7.0
    x = torch.cat([1e4 * x, torch.zeros(len(x), 5)], dim=1)
    fit = linear.fit(Regression(x, y, 4), 1e-4)
    assert fit.head(x).isfinite().all()
    assert (fit.head(x).argmax(dim=1) == y).float().mean() > 0.8


def test_balanced_classes_weigh_the_same() -> None:
    x, y = drawn(n=300, classes=3)
    kept = (y > 0) | (torch.arange(len(y)) % 10 == 0)
    x, y = x[kept], y[kept]
    fit = linear.fit(Regression(x, y, 3, balanced=True), 1e-2, tolerance=1e-6)
    scaled = ((x - x.mean(dim=0)) / (x - x.mean(dim=0)).square().mean().sqrt()).double().numpy()
    peer = LogisticRegression(
        C=1 / (len(y) * 1e-2), max_iter=10_000, tol=1e-8, class_weight="balanced"
    ).fit(scaled, y.numpy())
    wanted = torch.from_numpy(peer.predict_proba(scaled))
    torch.testing.assert_close(fit.head(x).double().softmax(1), wanted, atol=3e-3, rtol=0)


def test_real_digits_are_learned_as_well_as_by_scikit_learn() -> None:
    data, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(data).float(), torch.from_numpy(labels)
    half = torch.arange(len(y)) % 2 == 0
    fit = linear.fit(Regression(x[half], y[half], 10), 1e-3)
    ours = (fit.head(x[~half]).argmax(dim=1) == y[~half]).float().mean()
    peer = LogisticRegression(max_iter=5000).fit(data[half.numpy()], labels[half.numpy()])
    assert ours > peer.score(data[~half.numpy()], labels[~half.numpy()]) - 0.01


def test_nothing_to_fit_on_is_an_error() -> None:
    x, y = drawn()
    with pytest.raises(DataError, match="no training samples"):
        Regression(x, y, 4, torch.zeros(len(y), dtype=torch.bool))
