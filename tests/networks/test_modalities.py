"""Classifiers of several modalities: what they say, how they learn, and what is never trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Benchmark, metrics
from oodbench.data.transforms import MultimodalPreprocess, content_key
from oodbench.detectors.a2d import A2D, A2DRecipe, a2d_loss
from oodbench.detectors.a2d_npmix import A2DNPMix
from oodbench.detectors.multimodal_ce import MultimodalCE
from oodbench.detectors.npmix import NPMixMethod
from oodbench.errors import OptionError
from oodbench.extract import extract
from oodbench.networks.modalities import (
    ModalityHeads,
    MultimodalClassifier,
    MultimodalEncoders,
    MultimodalRecipe,
    avdigits_cnn,
)
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.vectors import CPU, JOINT_ALONE, NAMES, PREPROCESS, Scaled, encoders, interrupt

# --- networks --------------------------------------------------------------------------------


def network() -> MultimodalClassifier:
    torch.manual_seed(0)
    return MultimodalClassifier(encoders({"left": 6, "right": 6}), 3).eval()


def test_what_a_network_says() -> None:
    found = network()
    inputs = {name: torch.randn(5, 6) for name in ("right", "left")}
    said = found.outputs(inputs)
    embeddings = found.encoders(inputs)
    joined = torch.cat([embeddings["left"], embeddings["right"]], dim=1)
    assert torch.equal(said["features"], joined)
    assert torch.equal(said["logits"], found(inputs))
    assert torch.allclose(found.head()(joined), said["logits"], atol=1e-6)
    alone = found.heads.alone_of(joined)
    for name, head in found.modality_heads().items():
        assert torch.equal(said[f"features/{name}"], embeddings[name])
        assert torch.allclose(head(embeddings[name]), said[f"logits/{name}"], atol=1e-6)
        assert torch.allclose(alone[name], said[f"logits/{name}"], atol=1e-6)


def test_networks_that_do_not_fit() -> None:
    with pytest.raises(OptionError, match="num_features"):
        MultimodalEncoders({"left": nn.Linear(3, 3)})
    with pytest.raises(OptionError, match="needs an encoder"):
        MultimodalEncoders({})
    with pytest.raises(OptionError, match="have no right"):
        network().outputs({"left": torch.randn(2, 6)})
    with pytest.raises(OptionError, match="a2d trains networks of multimodal, not of classificat"):
        plan(oodbench.get_benchmark("digits"), "a2d").build()


def test_features_that_were_extracted_before() -> None:
    plain = MultimodalClassifier(
        {name: nn.Identity() for name in NAMES}, 4, dims={"left": 6, "right": 2}
    )
    said = plain.outputs({"left": torch.ones(3, 6), "right": torch.zeros(3, 2)})
    assert said["features"].shape == (3, 8)


def test_preprocessing_is_told_apart() -> None:
    keys = [
        str(content_key(MultimodalPreprocess({"left": Scaled(f), "right": Scaled()})))
        for f in (1.0, 2.0)
    ]
    assert keys[0] != keys[1]
    unknown = MultimodalPreprocess({"left": Scaled(), "right": lambda sample: sample})
    assert content_key(unknown) is None
    assert PREPROCESS.channels == {"left": 6, "right": 6}


# --- training --------------------------------------------------------------------------------


def test_the_loss_is_the_mean_cross_entropy(toy: Benchmark) -> None:
    method = plan(toy, "multimodal-ce", overrides={"epochs": 1}).build()
    images = {name: torch.randn(4, 1, 6) for name in NAMES}
    labels = torch.tensor([0, 1, 2, 0])
    losses = method.loss(images, labels)  # type: ignore[arg-type]
    said = method.outputs({name: value[:, 0] for name, value in images.items()})  # type: ignore[arg-type]
    each = [F.cross_entropy(said[n], labels) for n in ("logits", "logits/left", "logits/right")]
    assert torch.allclose(losses["loss"], torch.stack(each).mean())
    joint = plan(toy, "multimodal-ce", recipe="quick", overrides={"single": False}).build()
    joint.load_state_dict(method.state_dict())
    assert torch.allclose(joint.loss(images, labels)["loss"], each[0])  # type: ignore[arg-type]
    a2d = plan(toy, "a2d").build()
    a2d.load_state_dict(method.state_dict())
    apart = a2d_loss({n: said[f"logits/{n}"] for n in NAMES}, labels)
    expected = torch.stack(each).mean() + apart
    assert torch.allclose(a2d.loss(images, labels)["loss"], expected)  # type: ignore[arg-type]
    assert apart.item() < 0


@pytest.mark.parametrize(
    "name", ["multimodal-ce", "a2d", "npmix", "a2d-npmix", "feature-mixing", "dpu"]
)
def test_methods_learn(name: str, toy: Benchmark) -> None:
    options: dict[str, Any] = {"epochs": 8, "batch_size": 32, "lr": 0.01}
    if "npmix" in name:
        options |= {"start_epoch": 2, "queue_size": 20}
    run = plan(toy, name, recipe="quick", overrides=options)
    method = train(run, CPU)
    outputs = extract(method, toy.id.load("test"), PREPROCESS, hardware=CPU)
    assert metrics.accuracy(outputs.logits, outputs.labels) > 0.95
    log = (run.folder / "csv" / "metrics.csv").read_text().splitlines()
    assert ("train/a2d" in log[0]) == ("a2d" in name)
    assert ("train/outlier-entropy" in log[0]) == ("npmix" in name)
    if "npmix" in name:
        assert isinstance(method, NPMixMethod)
        assert method.queues.full  # they are part of the checkpoint
        first = dict(zip(log[0].split(","), log[1].split(","), strict=True))
        assert first["train/outlier-entropy"] == ""  # not before start_epoch


def test_a_run_that_was_interrupted_ends_the_same(toy: Benchmark, new_cache: Any) -> None:
    """Queues and draws too."""
    options = {"epochs": 4, "batch_size": 32, "start_epoch": 1, "queue_size": 20}
    run = plan(toy, "a2d-npmix", recipe="quick", overrides=options)
    whole = train(run, CPU).state_dict()
    new_cache()

    interrupt(run, A2DNPMix, epoch=3)
    again = train(run, CPU).state_dict()
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key


def test_recipes() -> None:
    with pytest.raises(OptionError, match="optimizer"):
        MultimodalRecipe(optimizer="rmsprop")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="distance"):
        plan(oodbench.get_benchmark("avdigits"), "a2d", overrides={"distance": "cosine"})


def test_heads_in_any_order() -> None:
    heads = ModalityHeads({"b": 2, "a": 3}, 4)
    joined = heads.join({"a": torch.ones(1, 3), "b": torch.zeros(1, 2)})
    assert joined.tolist() == [[0, 0, 1, 1, 1]]


# --- predictions that were never trained -----------------------------------------------------


@pytest.mark.parametrize("name", ["multimodal-ce", "a2d", "npmix", "a2d-npmix"])
def test_layers_that_are_not_trained_say_nothing(name: str, toy: Benchmark) -> None:
    """Whatever the method: a loss of disagreement does not make a layer a classifier."""
    images = {part: torch.randn(4, 6) for part in NAMES}
    joint = plan(toy, name, recipe="quick", overrides=JOINT_ALONE).build().eval()
    said = joint.outputs(images)  # type: ignore[arg-type]
    assert set(said) == {"features", "logits", "features/left", "features/right"}
    assert joint.modality_heads() == {}  # type: ignore[operator]
    assert joint.head() is not None
    whole = plan(toy, name, recipe="quick").build().eval()
    assert {"logits/left", "logits/right"} <= set(whole.outputs(images))  # type: ignore[arg-type]
    assert whole.withheld == {}


def test_published_baselines_withhold_them() -> None:
    for name, recipe in MultimodalCE.recipes.items():
        assert isinstance(recipe, MultimodalRecipe)
        assert recipe.single != name.startswith("published")


# --- dropout, and parts that stay as they were ------------------------------------------------


def test_embeddings_are_dropped_in_training_alone(toy: Benchmark) -> None:
    method = plan(
        toy, "a2d-npmix", recipe="quick", overrides={"dropout": 0.5, "queue_size": 4}
    ).build()
    assert isinstance(method, A2DNPMix)
    images = {name: torch.randn(64, 1, 6) for name in NAMES}
    labels = torch.arange(64) % 3
    plain = {name: value[:, 0] for name, value in images.items()}
    embeddings = method.backbone(plain)
    seen: list[tuple[Tensor, dict[str, Tensor]]] = []

    def note(joined: Tensor, alone: dict[str, Tensor], labels: Tensor) -> dict[str, Any]:
        seen.append((joined, alone))
        return {}

    method.extra_losses = note  # type: ignore[method-assign,assignment]
    method.train().loss(images, labels)
    joined, alone = seen[-1]
    whole = method.heads.join(embeddings)
    kept = joined != 0
    alive = whole != 0
    assert torch.allclose(joined[kept], 2 * whole[kept])  # scaled up
    assert 0.4 < kept[alive].float().mean() < 0.6
    left, right = joined.split(8, dim=1)
    assert not torch.equal(left != 0, right != 0)  # each modality by itself
    # the single predictions are of what the joint one sees
    for name, part in (("left", left), ("right", right)):
        assert torch.allclose(alone[name], method.heads.layers[name](part))
    method.eval().loss(images, labels)
    assert torch.equal(seen[-1][0], whole)
    said = method.train().outputs(plain)  # type: ignore[arg-type]
    assert torch.equal(said["features"], whole)


def test_some_modalities_may_be_left_whole(toy: Benchmark) -> None:
    options = {"dropout": 0.5, "undropped": "right"}
    method = plan(toy, "multimodal-ce", recipe="quick", overrides=options).build()
    seen: list[Tensor] = []
    method.extra_losses = lambda joined, *_: seen.append(joined) or {}  # type: ignore
    images = {name: torch.randn(64, 1, 6) for name in NAMES}
    method.train().loss(images, torch.arange(64) % 3)  # type: ignore[arg-type]
    whole = method.heads.join(method.backbone({n: v[:, 0] for n, v in images.items()}))  # type: ignore
    assert torch.equal(seen[0][:, 8:], whole[:, 8:])
    assert not torch.equal(seen[0][:, :8], whole[:, :8])
    for cls in (MultimodalCE, A2DNPMix):
        for name, recipe in cls.recipes.items():
            assert isinstance(recipe, MultimodalRecipe)
            assert recipe.undropped == (("audio",) if name.endswith("-audio") else ())


def test_queues_hold_dropped_embeddings(toy: Benchmark) -> None:
    options = {"dropout": 0.5, "queue_size": 20, "epochs": 1, "batch_size": 32}
    method = train(plan(toy, "npmix", recipe="quick", overrides=options), CPU)
    assert isinstance(method, NPMixMethod)
    plain = train(plan(toy, "npmix", recipe="quick", overrides={**options, "dropout": 0}), CPU)
    assert isinstance(plain, NPMixMethod)
    zeros = [(m.queues.samples == 0).float().mean().item() for m in (method, plain)]
    assert zeros[0] > 0.4 + zeros[1] / 2


def test_published_recipes_drop_and_keep_as_the_authors_do() -> None:
    for cls in (MultimodalCE, A2D, A2DNPMix, NPMixMethod):
        for name, recipe in cls.recipes.items():
            assert isinstance(recipe, MultimodalRecipe)
            if name != "quick":
                assert (recipe.dropout, recipe.keep, recipe.frozen) == (0.5, "best", True)
                assert (recipe.lr, recipe.weight_decay, recipe.batch_size) == (1e-4, 1e-4, 16)
                assert (recipe.optimizer, recipe.drop_last) == ("adam", True)


def test_the_last_stage_of_the_small_network_alone_is_trained() -> None:
    made = avdigits_cnn({"image": 1, "audio": 1})
    made.freeze()
    free = {name for name, p in made.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in free} == {"image", "audio"}
    assert {name.split(".")[2] for name in free} == {"6", "7"}  # its third convolution
    recipe = A2DRecipe(frozen=True)
    method = A2D(avdigits_cnn({"image": 1, "audio": 1}), 5, recipe)
    images = {name: torch.randn(4, 1, 1, 28, 28) for name in ("image", "audio")}
    method.loss(images, torch.tensor([0, 1, 2, 3]))["loss"].backward()
    for name, p in method.named_parameters():
        early = ".0." in name or ".1." in name or ".3." in name or ".4." in name
        assert (p.grad is None) == (early and name.startswith("backbone")), name
