"""What holds for the methods of baselines: their recipes, interrupted and quick training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import oodbench
from oodbench import Outputs, metrics
from oodbench.detectors.deep_ensemble import DeepEnsembleRecipe
from oodbench.detectors.ish import ISHRecipe
from oodbench.detectors.logitnorm import LogitNormRecipe
from oodbench.detectors.mixup import MixupRecipe
from oodbench.detectors.regmixup import RegMixupRecipe
from oodbench.detectors.supcon import SupConRecipe
from oodbench.detectors.t2fnorm import T2FNormRecipe
from oodbench.errors import DataError, OptionError
from oodbench.extract import extract
from oodbench.registry import METHODS
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.methods import CPU
from tests.helpers.training import assert_same_weights, short, tiny

NAMES = [
    "augmix", "cider", "deep-ensemble", "godin", "ish", "logitnorm", "mixup", "npos", "regmixup",
    "reweightood", "rotpred", "supcon", "t2fnorm", "vos",
]  # fmt: skip


# What they say of themselves


@pytest.mark.parametrize("name", NAMES)
def test_recipes_and_paper(name: str) -> None:
    cls = METHODS.get(name)
    paper = cls.paper
    assert paper is not None
    assert all((paper.title, paper.authors, paper.venue, paper.year, paper.formula))
    assert paper.url.startswith(("https://arxiv.org/abs/", "https://openaccess.thecvf.com/"))
    assert {"published", "quick"} <= set(cls.recipes)
    assert cls.default_recipe("digits") == "quick"
    for id_name in ("cifar10", "cifar100"):
        recipe = cls.get_recipe(cls.default_recipe(id_name))
        assert recipe.backbone == "resnet18-cifar"
        assert recipe.epochs >= 100


@pytest.mark.parametrize(
    ("recipe", "bad"),
    [
        (LogitNormRecipe, {"tau": 0.0}),
        (SupConRecipe, {"temperature": -1.0}),
        (MixupRecipe, {"alpha": -0.1}),
        (RegMixupRecipe, {"alpha": -0.1}),
        (T2FNormRecipe, {"tau": 0.0}),
        (ISHRecipe, {"p": 1.0}),
        (ISHRecipe, {"head_weight_decay": -1.0}),
        (DeepEnsembleRecipe, {"members": 0}),
    ],
)
def test_impossible_recipes_are_refused(recipe: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(bad))):
        recipe(**bad)


# Training


@pytest.mark.parametrize("name", NAMES)
def test_interrupted_training_gives_the_same_bits(name: str, new_cache: Callable[[], None]) -> None:
    benchmark, images = tiny()
    whole = train(short(benchmark, name, lr=0.02), CPU)
    new_cache()
    images.reads, images.breaks_after = 0, 70
    with pytest.raises(DataError, match="pulled out"):
        train(short(benchmark, name, lr=0.02), CPU)
    resumed = train(short(benchmark, name, lr=0.02), CPU)
    assert_same_weights(resumed, whole)


WIDTHS = {"cider": 128, "npos": 128, "reweightood": 128, "deep-ensemble": 768}
EPOCHS = {
    "augmix": 5, "cider": 6, "deep-ensemble": 4, "godin": 5, "ish": 6, "logitnorm": 10, "mixup": 5,
    "npos": 6, "regmixup": 4, "reweightood": 6, "rotpred": 4, "supcon": 4, "t2fnorm": 4, "vos": 7,
}  # fmt: skip

SOON = {"augmix", "cider", "npos", "reweightood", "supcon"}
"""Methods that tell the three classes below apart after four epochs; the others take six."""


def learned(benchmark: oodbench.Benchmark, name: str, **overrides: Any) -> Outputs:
    """Outputs for the test images after the quick recipe, which are to be mostly right."""
    network = train(plan(benchmark, name, recipe="quick", overrides=overrides), CPU)
    outputs = extract(network, benchmark.id.load("test"), benchmark.preprocess, hardware=CPU)
    assert metrics.accuracy(outputs.logits, outputs.labels) > 0.75
    return outputs


@pytest.mark.parametrize("name", NAMES)
def test_quick_training_learns(name: str) -> None:
    benchmark, _ = tiny(48)  # three classes
    outputs = learned(benchmark, name, epochs=4 if name in SOON else 6, batch_size=4)
    assert outputs.features.shape[1] == WIDTHS.get(name, 256)
    assert (outputs.head is None) == (name in ("deep-ensemble", "godin"))
    if outputs.head is not None:
        torch.testing.assert_close(
            outputs.head(outputs.features), outputs.logits, rtol=1e-3, atol=1e-3
        )
    if name == "godin":
        quotient = outputs.extra["numerator"] / outputs.extra["denominator"][:, None]
        torch.testing.assert_close(outputs.logits, quotient)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quick_training_learns_digits(name: str) -> None:
    learned(oodbench.get_benchmark("digits"), name, epochs=EPOCHS[name])
