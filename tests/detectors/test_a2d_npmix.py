"""A2D + NP-Mix: the whole loss of a step, its public names, and MultiOOD's recipes by ID set."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import oodbench
from oodbench.detectors import a2d, a2d_npmix, npmix
from oodbench.detectors.a2d import A2D
from oodbench.detectors.a2d_npmix import A2DNPMix
from oodbench.detectors.multimodal_ce import MultimodalCE
from oodbench.detectors.npmix import NPMix, NPMixMethod, NPMixRecipe
from oodbench.networks.modalities import MultimodalRecipe, avdigits_cnn

GAMMA, GAMMA_1, GAMMA_2 = 0.3, 0.7, 0.2


def test_public_names() -> None:
    assert a2d_npmix.a2d_loss is a2d.a2d_loss
    assert a2d_npmix.NPMix is npmix.NPMix


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_loss_is_the_papers(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = NPMixRecipe(
        dropout=0.0,
        a2d_ratio=GAMMA,
        ood_entropy_ratio=GAMMA_1,
        a2d_ratio_ood=GAMMA_2,
        start_epoch=1,
        queue_size=1,
    )
    torch.manual_seed(0)
    method = A2DNPMix(avdigits_cnn({"image": 1, "audio": 1}), 3, recipe)
    monkeypatch.setattr(A2DNPMix, "current_epoch", epoch)
    monkeypatch.setattr(A2DNPMix, "global_step", 5)
    monkeypatch.setattr(A2DNPMix, "trainer", SimpleNamespace(world_size=1))
    images = {name: torch.randn(6, 1, 1, 28, 28) for name in ("image", "audio")}
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    losses = method.loss(images, labels)  # type: ignore[arg-type]

    said = method.outputs({name: views[:, 0] for name, views in images.items()})  # type: ignore[arg-type]
    alone = {name: said[f"logits/{name}"] for name in images}
    expected = torch.stack(
        [F.cross_entropy(logits, labels) for logits in (said["logits"], *alone.values())]
    ).mean()
    expected = expected - GAMMA * a2d.a2d_distance(alone, labels)
    assert ("outlier-entropy" in losses) == ("outlier-a2d" in losses) == (epoch >= 1)
    if epoch >= 1:
        queues = NPMix(3, said["features"].shape[1], 1)
        queues.push(said["features"], labels)
        seed = (torch.initial_seed() + 1_000_003 * 5) % 2**63
        outliers = queues.mix(torch.Generator().manual_seed(seed))
        logits = method.heads.alone_of(outliers)
        expected = expected - GAMMA_1 * npmix.outlier_entropy(logits)
        expected = expected - GAMMA_2 * npmix.outlier_distance(logits)
    torch.testing.assert_close(losses["loss"], expected)


def test_published_recipes_are_those_of_the_id_sets() -> None:
    for name, epochs, ratio in (
        ("multiood/hmdb51-25-26", 50, 0.5),
        ("multiood/epic-4-4", 20, 0.1),
        ("multiood/kinetics600", 10, 0.1),
    ):
        benchmark = oodbench.get_benchmark(benchmark=name)
        recipe = A2DNPMix.get_recipe(A2DNPMix.default_recipe(benchmark.id.name))
        assert isinstance(recipe, NPMixRecipe)
        assert (recipe.epochs, recipe.a2d_ratio, recipe.frozen) == (epochs, ratio, True)
    for cls in (MultimodalCE, A2D, A2DNPMix, NPMixMethod):
        assert set(cls.recipe_ids) <= set(cls.recipes)


def test_warm_recipes_are_the_default_of_avdigits() -> None:
    for cls in (MultimodalCE, A2D, A2DNPMix, NPMixMethod):
        assert cls.default_recipe("avdigits") == "warm"
        recipe = cls.get_recipe("warm")
        assert isinstance(recipe, MultimodalRecipe)
        assert recipe.start_from == "multimodal-ce/quick"
    ratios = {
        cls: tuple(
            getattr(cls.get_recipe("warm"), name, 0.0)
            for name in ("a2d_ratio", "a2d_ratio_ood", "ood_entropy_ratio", "start_epoch")
        )
        for cls in (A2D, A2DNPMix, NPMixMethod)
    }
    assert ratios[A2D][0] == 1.0
    assert ratios[A2DNPMix] == (0.5, 0.5, 0.5, 10)
    assert ratios[NPMixMethod] == (0.0, 0.5, 0.5, 10)
