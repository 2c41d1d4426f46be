"""Several modalities: networks, training, outputs, and what is scored of them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Benchmark, DatasetSpec, Hardware, Outputs, metrics
from oodbench.data.samples import MultimodalSamples
from oodbench.data.transforms import MultimodalPreprocess, content_key
from oodbench.detectors.a2d import A2D, A2DRecipe, a2d_loss
from oodbench.detectors.a2d_npmix import A2DNPMix
from oodbench.detectors.multimodal_ce import MultimodalCE
from oodbench.detectors.npmix import NPMixMethod
from oodbench.errors import MissingOutputError, OptionError, UnknownNameError
from oodbench.extract import extract
from oodbench.networks.modalities import (
    ModalityHeads,
    MultimodalClassifier,
    MultimodalEncoders,
    MultimodalMethod,
    MultimodalRecipe,
    avdigits_cnn,
)
from oodbench.registry import BACKBONES
from oodbench.results import leaderboard
from oodbench.training.best import BestEpoch
from oodbench.training.run import Run, plan
from oodbench.training.train import train

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


def interrupt(run: Run, kind: type[MultimodalMethod], epoch: int) -> None:
    """Train until an epoch (from 1) begins, as if somebody stopped it there."""
    calls = 0
    original = kind.on_train_epoch_start

    def stop(self: MultimodalMethod) -> None:
        nonlocal calls
        calls += 1
        if calls == epoch:
            raise KeyboardInterrupt
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "on_train_epoch_start", stop)
        with pytest.raises(KeyboardInterrupt):
            train(run, CPU)


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


def test_ce_is_that_of_several_modalities(toy: Benchmark) -> None:
    assert plan(toy, "ce").method == "multimodal-ce"


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
    page = leaderboard.page(toy, tmp_path, whole=True)
    assert "| msp (left) |" in page
    assert "| msp |" in page
    with pytest.raises(OptionError, match="has left, right, fused, not 'audio'"):
        oodbench.evaluate(detectors="msp", modality="audio", **common)
    with pytest.raises(OptionError, match="task classification of digits has no option 'modality'"):
        oodbench.evaluate(id="digits", detectors="msp", modality="audio")


def test_heads_in_any_order() -> None:
    heads = ModalityHeads({"b": 2, "a": 3}, 4)
    joined = heads.join({"a": torch.ones(1, 3), "b": torch.zeros(1, 2)})
    assert joined.tolist() == [[0, 0, 1, 1, 1]]


# --- predictions that were never trained -----------------------------------------------------

JOINT_ALONE: dict[str, Any] = {"epochs": 1, "batch_size": 32, "single": False}


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


def test_what_needs_them_is_told_who_trains_them(toy: Benchmark) -> None:
    common: dict[str, Any] = {
        "benchmark": toy,
        "method": "multimodal-ce",
        "recipe": "quick",
        "recipe_options": JOINT_ALONE,
        "hardware": CPU,
    }
    told = r"joint prediction alone.*withheld.*single=true or .*recipe=quick.*method=a2d"
    ensemble = oodbench.create_detector("ensemble", members=("msp", "modality-discrepancy"))
    found = oodbench.evaluate(detectors=["msp", "modality-discrepancy", ensemble], **common)
    assert {row["detector"] for row in found} == {"msp"}
    assert set(found.failures) == {"modality-discrepancy", "ensemble"}
    for reason in found.failures.values():
        assert re.search(told, reason)
    for modality in NAMES:
        for detector in ("msp", "vim"):
            with pytest.raises(MissingOutputError, match=f"{modality}' alone: .*{told}"):
                oodbench.evaluate(detectors=detector, modality=modality, **common)
    with pytest.raises(MissingOutputError, match=told):
        oodbench.evaluate(detectors="modality-discrepancy", **common)
    method = train(plan(toy, "multimodal-ce", recipe="quick", overrides=JOINT_ALONE), CPU)
    for _ in range(2):  # extracted, and from the cache
        outputs = extract(method, toy.id.load("test"), PREPROCESS, hardware=CPU)
        with pytest.raises(MissingOutputError, match=told):
            oodbench.create_detector("modality-discrepancy").score(outputs)


def test_published_baselines_withhold_them() -> None:
    for name, recipe in MultimodalCE.recipes.items():
        assert isinstance(recipe, MultimodalRecipe)
        assert recipe.single != name.startswith("published")


# --- dropout, the best epoch, and a run after another ----------------------------------------


def with_val(toy: Benchmark) -> Benchmark:
    """The same with a validation split."""
    load = toy.id.load

    def loaded(split: str) -> Vectors:
        if split != "val":
            return load(split)  # type: ignore[return-value]
        return Vectors("pair/val", 90, 5)

    return replace(toy, id=replace(toy.id, load=loaded, splits=("train", "val", "test")))


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


def accuracies(monkeypatch: pytest.MonkeyPatch, found: list[float]) -> None:
    """What looking at validation data finds, epoch by epoch, instead of what it would find."""

    def look(self: BestEpoch, trainer: Any, method: Any) -> float:
        return found[trainer.current_epoch]

    monkeypatch.setattr(BestEpoch, "_look", look)


@pytest.mark.parametrize(
    ("found", "best"), [([0.5, 0.9, 0.7, 0.8], 2), ([0.5, 0.9, 0.9, 0.1], 3), ([0.0] * 4, 4)]
)
def test_the_best_epoch_is_kept_and_the_latest_of_equal_ones(
    toy: Benchmark, monkeypatch: pytest.MonkeyPatch, found: list[float], best: int
) -> None:
    options = {"epochs": 4, "batch_size": 32, "lr": 0.01, "schedule": "step", "keep": "best"}
    bench = with_val(toy)
    accuracies(monkeypatch, found)
    run = plan(bench, "a2d", recipe="quick", overrides=options)
    kept = train(run, CPU)
    assert f"best epoch {best} of 4" in kept.summary
    assert f"validation accuracy {100 * max(found):.2f} %" in kept.summary
    as_long = {**options, "epochs": best, "keep": "last"}
    last = train(plan(bench, "a2d", recipe="quick", overrides=as_long), CPU).state_dict()
    for name, value in kept.state_dict().items():
        assert torch.equal(value, last[name]), name
    log = (run.folder / "csv" / "metrics.csv").read_text().splitlines()
    where = log[0].split(",").index("val/accuracy")
    assert [float(line.split(",")[where]) for line in log[1:]] == found


def test_what_is_looked_at_is_the_validation_set_as_it_is_tested(toy: Benchmark) -> None:
    options = {"epochs": 2, "batch_size": 32, "lr": 0.003, "keep": "best", "dropout": 0.5}
    bench = with_val(toy)
    run = plan(bench, "multimodal-ce", recipe="quick", overrides=options)
    method = train(run, CPU)
    outputs = extract(method, bench.id.load("val"), PREPROCESS, hardware=CPU)
    right = metrics.accuracy(outputs.logits, outputs.labels)
    assert f"validation accuracy {100 * right:.2f} %" in method.summary
    again = train(run, CPU)  # from its folder
    assert again.summary == method.summary


def test_looking_changes_nothing_of_the_training(toy: Benchmark) -> None:
    options = {"epochs": 3, "batch_size": 32, "lr": 0.003, "dropout": 0.5}
    bench = with_val(toy)
    runs = [
        plan(bench, "a2d-npmix", recipe="quick", overrides={**options, "keep": keep})
        for keep in ("best", "last")
    ]
    losses = []
    for run in runs:
        train(run, CPU)
        rows = (run.folder / "csv" / "metrics.csv").read_text().splitlines()
        where = rows[0].split(",").index("train/loss")
        losses.append([row.split(",")[where] for row in rows])
    assert losses[0] == losses[1]


def test_a_run_that_keeps_its_best_ends_the_same_after_a_kill(
    toy: Benchmark, new_cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best is before the kill, so it has to be remembered."""
    options = {"epochs": 4, "batch_size": 32, "lr": 0.01, "keep": "best", "dropout": 0.5}
    bench = with_val(toy)
    accuracies(monkeypatch, [0.5, 0.9, 0.7, 0.8])
    run = plan(bench, "a2d", recipe="quick", overrides=options)
    whole = train(run, CPU)
    new_cache()
    interrupt(run, A2D, epoch=4)
    again = train(run, CPU)
    assert again.summary == whole.summary
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_without_validation_data_the_best_is_refused(toy: Benchmark) -> None:
    for name in ("multimodal-ce", "a2d", "npmix", "a2d-npmix"):
        with pytest.raises(OptionError, match=r"validation split, which pair has not.*keep=last"):
            plan(toy, name, recipe="quick", overrides={"keep": "best"})
        assert plan(toy, name, recipe="quick").validation is None


def test_validation_data_are_part_of_the_key(toy: Benchmark) -> None:
    bench = with_val(toy)
    other = replace(
        bench,
        id=replace(
            bench.id,
            load=lambda s: Vectors("pair/val", 60, 9) if s == "val" else toy.id.load(s),
        ),
    )
    keys = {
        keep: [plan(b, "a2d", recipe="quick", overrides={"keep": keep}).key for b in (bench, other)]
        for keep in ("best", "last")
    }
    assert keys["best"][0] != keys["best"][1]
    assert keys["last"][0] == keys["last"][1]


def test_a_run_starts_from_another_ones_encoders(toy: Benchmark, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 1, "batch_size": 32, "lr": 1e-9, "weight_decay": 0.0}
    options["start_from"] = "multimodal-ce/quick"
    runs = [
        plan(toy, name, recipe="quick", overrides=options, seed=seed)
        for name, seed in (("a2d", 0), ("a2d-npmix", 0), ("a2d", 1))
    ]
    starts = [run.start for run in runs]
    assert all(start is not None for start in starts)
    assert starts[0].key == starts[1].key != starts[2].key  # type: ignore[union-attr]
    assert starts[0].key == plan(toy, "multimodal-ce", recipe="quick").key  # type: ignore[union-attr]
    found = train(runs[0], CPU)
    assert starts[0].weights.is_file()  # type: ignore[union-attr]
    before = train(plan(toy, "multimodal-ce", recipe="quick"), CPU)
    for name, value in before.backbone.state_dict().items():
        assert torch.allclose(found.backbone.state_dict()[name], value, atol=1e-6), name
    layers = [m.heads.joint.weight for m in (found, before)]  # type: ignore[union-attr]
    assert not torch.allclose(*layers, atol=0.01)  # heads are new
    written = starts[0].weights.stat().st_mtime_ns  # type: ignore[union-attr]
    train(runs[1], CPU)
    assert starts[0].weights.stat().st_mtime_ns == written  # type: ignore[union-attr]
    # its own key tells what was before it
    alone = plan(toy, "a2d", recipe="quick", overrides={**options, "start_from": "none"})
    assert alone.start is None
    assert len({alone.key, runs[0].key}) == 2
    with pytest.raises(OptionError, match="METHOD/RECIPE"):
        plan(toy, "a2d", overrides={"start_from": "multimodal-ce"})
    with pytest.raises(UnknownNameError, match="no recipe 'slow'"):
        _ = plan(toy, "a2d", overrides={"start_from": "multimodal-ce/slow"}).key


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
