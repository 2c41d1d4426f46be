"""Recipes and their rates; what a method takes of a batch, and what it does not make up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodbench import Preprocess, Recipe
from oodbench.data.samples import ImageArrays
from oodbench.errors import OptionError
from oodbench.method import BaseRecipe, Method, of_training
from tests.helpers.fitted import blobs

GREY = Preprocess(8, (0.4,), (0.25,), mode="L", flip=False)


class Own(Method):
    """Has a hook of its own for batches that arrive."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


def made(kind: type[Method] = Method) -> Method:
    return kind(nn.Flatten(), 3, Recipe())


def test_a_recipe_of_a_network_that_is_not_trained_is_refused() -> None:
    assert of_training(Recipe(epochs=3)).epochs == 3
    with pytest.raises(OptionError, match="a BaseRecipe says nothing of epochs"):
        of_training(BaseRecipe())


def test_bytes_that_arrive_are_what_the_preprocessing_gives() -> None:
    """Also where no trainer is at work, which would choose the precision."""
    samples: ImageArrays = blobs(4)
    method = made()
    assert method.receives(GREY)
    levels = torch.from_numpy(samples.images)[:, :, :, None]
    images, labels = method.on_after_batch_transfer([levels, torch.arange(4)], 0)
    wanted = torch.stack([GREY(samples[i]) for i in range(4)])
    torch.testing.assert_close(images, wanted)
    assert images.is_contiguous()
    assert labels.tolist() == [0, 1, 2, 3]
    seen = method.on_after_batch_transfer([wanted, labels], 0)
    assert seen[0] is wanted  # what is no bytes is left as it is


def test_a_method_with_hooks_of_its_own_is_given_what_networks_see() -> None:
    method = made(Own)
    assert not method.receives(GREY)
    assert method.arrival is None


def test_what_a_method_has_to_say_is_not_made_up() -> None:
    images: Tensor = torch.zeros(2, 1, 8, 8)
    with pytest.raises(NotImplementedError):
        made().loss(images[:, None], torch.zeros(2))
    with pytest.raises(NotImplementedError):
        made().outputs(images)
    with pytest.raises(NotImplementedError):
        BaseRecipe().effort("100 images")
    assert made().head() is None


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
