"""Several modalities: networks, training, outputs, and what is scored of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Benchmark, DatasetSpec, Hardware, Outputs, metrics
from oodbench.detectors.a2d_npmix import (
    A2D,
    A2DNPMix,
    MultimodalCE,
    NPMixMethod,
    NPMixRecipe,
    a2d_loss,
)
from oodbench.errors import MissingOutputError, OptionError
from oodbench.extract import extract
from oodbench.multimodal import (
    ModalityHeads,
    MultimodalClassifier,
    MultimodalEncoders,
    MultimodalRecipe,
)
from oodbench.registry import BACKBONES
from oodbench.samples import MultimodalSamples
from oodbench.train import plan, train
from oodbench.transforms import MultimodalPreprocess, content_key

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
NAMES = ("left", "right")


@dataclass(frozen=True)
class Scaled:
    """A vector times a factor; with some noise where it is augmented."""

    factor: float = 1.0
    channels: int = 6

    def __call__(self, sample: np.ndarray) -> Tensor:
        return torch.from_numpy(sample) * self.factor

    def augment(self, sample: np.ndarray, rng: random.Random) -> Tensor:
        return self(sample) + rng.gauss(0, 0.01)


PREPROCESS = MultimodalPreprocess({"left": Scaled(), "right": Scaled(0.5)})


class Vectors(MultimodalSamples):
    """Two noisy vectors that tell the class; with ``shift`` the second tells another one."""

    def __init__(self, name: str, n: int, seed: int, shift: int = 0) -> None:
        labels = np.arange(n) % 3
        super().__init__(name, labels, ("a", "b", "c"), NAMES)
        rng = np.random.default_rng(seed)
        centres = 3 * np.eye(6, dtype=np.float32)
        noise = rng.normal(0, 0.7, (2, n, 6)).astype(np.float32)
        self.left = centres[labels] + noise[0]
        self.right = centres[(labels + shift) % 3 + 3] + noise[1]

    def __getitem__(self, index: int) -> Any:
        return {"left": self.left[index], "right": self.right[index]}

    def _digests(self) -> np.ndarray:
        pairs = np.concatenate([self.left, self.right], axis=1)
        return np.array([hash(pair.tobytes()) % 2**63 for pair in pairs], dtype=np.uint64)


def spec(name: str, n: int, shift: int = 0) -> DatasetSpec:
    seeds = {"train": 1, "test": 2}
    return DatasetSpec(
        name, lambda s: Vectors(f"{name}/{s}", n, seeds[s] + 10 * shift, shift), ("train", "test")
    )


@pytest.fixture
def toy() -> Iterator[Benchmark]:
    BACKBONES.register("toy-pair")(encoders)
    yield Benchmark(
        "toy/pair",
        spec("pair", 240),
        (),
        (spec("pair-mismatch", 60, shift=1),),
        PREPROCESS,
        backbone="toy-pair",
    )
    BACKBONES.unregister("toy-pair")


def encoders(channels: Any) -> MultimodalEncoders:
    parts = {
        name: nn.Sequential(nn.Linear(count, 8), nn.ReLU()) for name, count in channels.items()
    }
    return MultimodalEncoders(parts, dict.fromkeys(channels, 8))


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
    with pytest.raises(OptionError, match="several modalities"):
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


@pytest.mark.parametrize("name", ["multimodal-ce", "a2d", "npmix", "a2d-npmix"])
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
        assert isinstance(method, A2DNPMix)
        assert method.queues.full  # they are part of the checkpoint
        first = dict(zip(log[0].split(","), log[1].split(","), strict=True))
        assert first["train/outlier-entropy"] == ""  # not before start_epoch


def test_a_run_that_was_interrupted_ends_the_same(toy: Benchmark, new_cache: Any) -> None:
    """Queues and draws too."""
    options = {"epochs": 4, "batch_size": 32, "start_epoch": 1, "queue_size": 20}
    run = plan(toy, "a2d-npmix", recipe="quick", overrides=options)
    whole = train(run, CPU).state_dict()
    new_cache()

    calls = 0
    original = A2DNPMix.on_train_epoch_start

    def stop(self: A2DNPMix) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(A2DNPMix, "on_train_epoch_start", stop)
        with pytest.raises(KeyboardInterrupt):
            train(run, CPU)
    again = train(run, CPU).state_dict()
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key


def test_ce_is_that_of_several_modalities(toy: Benchmark) -> None:
    assert plan(toy, "ce").method == "multimodal-ce"


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


def test_recipes() -> None:
    with pytest.raises(OptionError, match="optimizer"):
        MultimodalRecipe(optimizer="rmsprop")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="distance"):
        plan(oodbench.get_benchmark("avdigits"), "a2d", overrides={"distance": "cosine"})


# --- what is scored --------------------------------------------------------------------------


def test_an_evaluation(toy: Benchmark, tmp_path: Path) -> None:
    options = {"epochs": 8, "batch_size": 32, "lr": 0.01}
    common: dict[str, Any] = {
        "benchmark": toy,
        "method": "multimodal-ce",
        "recipe": "quick",
        "recipe_options": options,
        "hardware": CPU,
        "leaderboards": tmp_path,
    }
    detectors = ["msp", "knn", "vim", "react", "modality-discrepancy"]
    with pytest.raises(OptionError, match=r"odin looks into a .* several modalities"):
        oodbench.evaluate(detectors=[*detectors, "odin"], **common)
    ensemble = oodbench.create_detector("ensemble", members=("msp", "modality-discrepancy"))
    knn = oodbench.create_detector("knn", k=5)
    fused = oodbench.evaluate(detectors=[*detectors, ensemble, knn], **common)
    assert not fused.failures
    method = train(plan(toy, "multimodal-ce", recipe="quick", overrides=options), CPU)
    seen = [extract(method, s.load("test"), PREPROCESS, hardware=CPU) for s in (toy.id, toy.far[0])]
    auroc = {row["detector"]: row["auroc"] for row in fused if not row["is_mean"]}
    # what nobody sees in one modality alone: both are sure, of different classes
    assert auroc["modality-discrepancy"] > 0.99
    for name, column in (("left", "logits/left"), (None, "logits")):
        one = oodbench.evaluate(detectors=["msp", "vim"], modality=name, **common)
        by_hand = [Outputs(logits=o.extra.get(column, o.logits)) for o in seen]
        msp = oodbench.create_detector("msp")
        expected = metrics.auroc(*(msp.score(o).numpy() for o in by_hand))
        row = next(r for r in one if r["detector"] == "msp")
        assert row["auroc"] == pytest.approx(expected)
        assert row["modality"] == name
    page = oodbench.leaderboard.write(toy, tmp_path).read_text()
    assert "| msp (left) |" in page
    assert "| msp |" in page
    with pytest.raises(OptionError, match="has left, right, fused, not 'audio'"):
        oodbench.evaluate(detectors="msp", modality="audio", **common)
    with pytest.raises(OptionError, match="no modalities"):
        oodbench.evaluate(id="digits", detectors="msp", modality="audio")


def test_discrepancy_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.5, 0.5], [0.1, 0.9]])
    outputs = Outputs(extra={"logits/a": p.log(), "logits/b": q.log() + 3})
    hellinger = 2 * (0.9**0.5 - 0.1**0.5) ** 2
    expected = {"hellinger": (hellinger / 2) ** 0.5, "l1": 1.6, "l2": 0.8}
    for kind, value in expected.items():
        scores = oodbench.create_detector("modality-discrepancy", distance=kind).score(outputs)
        assert scores.tolist() == pytest.approx([0.0, value], abs=1e-7)
    three = Outputs(extra={**outputs.extra, "logits/c": p.log()})
    found = oodbench.create_detector("modality-discrepancy").score(three)
    assert found.tolist() == pytest.approx([0.0, expected["hellinger"] * 2 / 3], abs=1e-7)
    with pytest.raises(MissingOutputError, match="modality-discrepancy needs"):
        oodbench.create_detector("modality-discrepancy").score(Outputs(extra={"logits/a": p.log()}))


def test_heads_in_any_order() -> None:
    heads = ModalityHeads({"b": 2, "a": 3}, 4)
    joined = heads.join({"a": torch.ones(1, 3), "b": torch.zeros(1, 2)})
    assert joined.tolist() == [[0, 0, 1, 1, 1]]
