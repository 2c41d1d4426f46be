"""The rate of a recipe: its warm-up, its cosine, its steps."""

from __future__ import annotations

import pytest

from oodbench import Recipe


def test_cosine_with_warmup() -> None:
    recipe = Recipe(epochs=12, warmup_epochs=4, final_lr=0.1)
    by_hand = {
        0: 0.0,
        1: 0.25,
        2.5: 0.625,
        4: 1.0,  # the cosine begins
        8: 0.1 + 0.9 * 0.5,  # half of it: cos(pi / 2) = 0
        6: 0.1 + 0.9 * (1 + 0.5**0.5) / 2,  # a quarter: cos(pi / 4)
        10: 0.1 + 0.9 * (1 - 0.5**0.5) / 2,
        12: 0.1,
        13: 0.1,
    }
    for epoch, factor in by_hand.items():
        assert recipe.lr_factor(epoch) == pytest.approx(factor, abs=1e-12), epoch


def test_cosine_without_warmup_ends_at_zero() -> None:
    recipe = Recipe(epochs=10)
    assert recipe.lr_factor(0) == 1
    assert recipe.lr_factor(5) == pytest.approx(0.5)
    assert recipe.lr_factor(10) == pytest.approx(0, abs=1e-12)


def test_steps() -> None:
    recipe = Recipe(epochs=200, schedule="step", milestones=(60, 120), warmup_epochs=2)
    assert recipe.lr_factor(1) == 0.5
    for epoch, factor in ((2, 1), (59.9, 1), (60, 0.1), (119.9, 0.1), (120, 0.01), (199, 0.01)):
        assert recipe.lr_factor(epoch) == pytest.approx(factor)
