"""Training: a run is what determines it; made once, resumed exactly, logged, and checked."""

from __future__ import annotations

import csv
import dataclasses
import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import oodbench
from oodbench import Hardware, Method, Preprocess, Recipe, files, metrics
from oodbench.data.augmentation import SimCLR
from oodbench.data.transforms import Augmentation
from oodbench.errors import CheckpointError, DataError, OODBenchError, OptionError, UnknownNameError
from oodbench.extract import extract
from oodbench.networks.backbones import DigitsCNN, create_backbone
from oodbench.registry import METHODS
from oodbench.training.run import Run, plan
from oodbench.training.train import train
from tests.helpers.training import (
    CPU,
    PREPROCESS,
    SHORT,
    assert_same_weights,
    interrupted,
    short,
    tiny,
)


class Spy(Method):
    """Cross-entropy that notes what it sees, with dropout and augmentation."""

    recipes: ClassVar[Mapping[str, Recipe]] = {"quick": Recipe(lr=0.05, warmup_epochs=1)}
    views: ClassVar[int] = 2
    seen: ClassVar[list[tuple[int, Tensor, Tensor]]] = []
    rates: ClassVar[list[float]] = []
    noise: ClassVar[list[float]] = []
    fits: ClassVar[int] = 0

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(int(backbone.num_features), num_classes)  # type: ignore[arg-type]

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        return SimCLR(preprocess, min_scale=0.3)

    def on_fit_start(self) -> None:
        type(self).fits += 1

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        assert self.training
        self.seen.append((self.trainer.current_epoch, images.detach().clone(), labels.clone()))
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.noise.append(float(np.random.random()))  # noqa: NPY002
        logits = self.linear(self.dropout(self.backbone(images[:, 0])))
        return {"loss": nn.functional.cross_entropy(logits, labels)}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        return {"features": features, "logits": self.linear(features)}


@pytest.fixture(autouse=True)
def spy() -> Iterator[type[Spy]]:
    METHODS.register("spy")(Spy)
    for notes in (Spy.seen, Spy.rates, Spy.noise):
        notes.clear()
    Spy.fits = 0
    yield Spy
    METHODS.unregister("spy")


# The learning rate


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


def test_published_palm_schedule() -> None:
    """500 epochs, 10 of warm-up, cosine to a thousandth; SGD with Nesterov momentum."""
    recipe = METHODS.get("palm").get_recipe("published")
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (500, 512, 0.5)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 1e-6)
    assert recipe.lr_factor(5) == 0.5
    assert recipe.lr_factor(255) == pytest.approx(0.5 + 0.5e-3)
    assert recipe.lr_factor(500) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("name", "batch", "lr", "momentum"),
    [("openood", 16, 0.1, 0.9), ("openood-cifar100", 512, 0.5, 0.999)],
)
def test_openoods_palm(name: str, batch: int, lr: float, momentum: float) -> None:
    """Its scripts: ResNet-18, 100 epochs, 10 of warm-up, decay 1e-4, cosine to a thousandth."""
    recipe = METHODS.get("palm").get_recipe(name)
    assert (recipe.backbone, recipe.epochs, recipe.weight_decay) == ("resnet18-cifar", 100, 1e-4)
    assert (recipe.batch_size, recipe.lr, recipe.proto_momentum) == (batch, lr, momentum)
    assert (recipe.warmup_epochs, recipe.final_lr, recipe.topk) == (10, 1e-3, 5)


@pytest.mark.parametrize("recipe", METHODS.get("palm").recipes)
def test_every_recipe_of_palm_trains(recipe: str) -> None:
    """An epoch of it on a few images, with its own network."""
    run = plan(tiny(6)[0], "palm", recipe=recipe, overrides={"epochs": 1})
    assert run.recipe_name == recipe
    assert run.backbone == (run.recipe.backbone or "digits-cnn")
    assert all(tensor.isfinite().all() for tensor in train(run, CPU).state_dict().values())


def test_learning_rate_changes_every_step(spy: type[Spy]) -> None:
    benchmark, _ = tiny(50)
    run = short(benchmark, "spy", epochs=4, batch_size=16, lr=0.2)
    train(run, CPU)
    steps = 4  # three of 16 images and one of the 2 that are left of 50
    assert spy.rates == pytest.approx([0.2 * run.recipe.lr_factor(i / steps) for i in range(16)])
    assert spy.rates[0] == 0
    assert max(spy.rates) == spy.rates[4]


@pytest.mark.parametrize(
    ("n", "fields", "sizes"),
    [
        (50, {}, [16, 16, 16, 2]),
        (50, {"drop_last": True}, [16, 16, 16]),
        (49, {}, [16, 16, 16]),  # a batch of one is no batch
        (10, {"drop_last": True}, [10]),
    ],
)
def test_the_last_incomplete_batch(
    spy: type[Spy], n: int, fields: dict[str, Any], sizes: list[int]
) -> None:
    run = short(tiny(n)[0], "spy", epochs=1, **fields)
    train(run, CPU)
    assert [len(labels) for _, _, labels in spy.seen] == sizes


@pytest.mark.parametrize("method", ["multimodal-ce", "a2d", "npmix", "a2d-npmix"])
def test_multioods_methods_leave_out_the_last_batch(method: str) -> None:
    assert all(recipe.drop_last for recipe in METHODS.get(method).recipes.values())


@pytest.mark.parametrize(
    "method",
    ["abet", "ce", "cider", "deep-ensemble", "godin", "logitnorm", "mixup", "palm", "supcon"],
)
def test_every_method_keeps_a_last_batch_of_two(method: str) -> None:
    """Losses that contrast samples, and batch normalisation of one value per sample, bear it."""
    recipes = METHODS.get(method).recipes.values()
    assert not any(recipe.drop_last for recipe in recipes)
    run = short(tiny(18)[0], method, epochs=2)
    state = train(run, CPU).state_dict()
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": "nan"}])
def test_impossible_recipes_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(bad))):
        short(tiny()[0], **bad)


def test_augmentation_depends_on_seed_epoch_and_index_alone(
    spy: type[Spy], new_cache: Callable[[], None]
) -> None:
    benchmark, _ = tiny()

    def batches(workers: int, seed: int = 0) -> list[tuple[int, Tensor, Tensor]]:
        new_cache()
        spy.seen.clear()
        train(short(benchmark, "spy", seed), Hardware(accelerator="cpu", workers=workers))
        return list(spy.seen)

    alone = batches(0)
    for workers in (1, 2):
        for (epoch, x, y), (other, x2, y2) in zip(alone, batches(workers), strict=True):
            assert epoch == other
            assert x.equal(x2)
            assert y.equal(y2)
    assert [epoch for epoch, *_ in alone] == [0] * 4 + [1] * 4 + [2] * 4
    every = torch.cat([x for _, x, _ in alone]).flatten(0, 1).flatten(1)
    distinct = torch.unique(every, dim=0)
    assert len(distinct) > 0.95 * len(every), "views, images and epochs must differ"
    assert not batches(0, seed=1)[0][1].equal(alone[0][1])


def test_labels_belong_to_their_images(spy: type[Spy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Spy, "augmentation", lambda self, preprocess: lambda image, rng: preprocess(image)
    )
    benchmark, samples = tiny()
    train(short(benchmark, "spy"), CPU)
    known = {PREPROCESS(samples[i]).numpy().tobytes(): int(y) for i, y in enumerate(samples.labels)}
    for _, x, y in spy.seen:
        assert x.shape == (len(y), 2, 1, 8, 8)
        for views, label in zip(x, y, strict=True):
            assert [known[view.contiguous().numpy().tobytes()] for view in views] == [label] * 2


# Made once


def test_a_finished_run_is_reused(spy: type[Spy]) -> None:
    first = train(short(tiny()[0], "spy"), CPU)
    assert spy.fits == 1
    again = train(short(tiny()[0], "spy"), CPU)
    assert spy.fits == 1
    assert_same_weights(first, again)
    assert not first.training
    assert not again.training


def test_a_finished_run_can_be_trained_again(spy: type[Spy]) -> None:
    run = short(tiny()[0], "spy")
    first = train(run, CPU)
    again = train(run, CPU, retrain=True)
    assert spy.fits == 2
    assert_same_weights(first, again)
    assert len(read_log(run)) == 3


def test_another_precision_trains_another_network(spy: type[Spy]) -> None:
    """What was trained in half precision is not what a row in full precision is about."""
    run = short(tiny()[0], "spy")
    full = train(run, CPU)
    half = train(run, dataclasses.replace(CPU, precision="bf16-mixed"))
    assert spy.fits == 2
    assert any(
        not torch.equal(value, half.state_dict()[name]) for name, value in full.state_dict().items()
    )
    assert dataclasses.replace(run, precision="bf16-mixed").weights.is_file()
    train(dataclasses.replace(run, precision="bf16-mixed"), CPU)
    train(run, dataclasses.replace(CPU, precision="bf16-mixed"))
    assert spy.fits == 2, "both are there already"


@pytest.mark.parametrize(
    ("short_name", "name"), [("32", "32-true"), ("16", "16-mixed"), ("bf16", "bf16-mixed")]
)
def test_a_precision_has_one_name(short_name: str, name: str) -> None:
    assert Hardware(precision=short_name) == Hardware(precision=name)
    benchmark = tiny()[0]
    runs = [plan(benchmark, "ce", precision=p) for p in (short_name, name)]
    assert runs[0].key == runs[1].key


def lighter(pixels: np.ndarray, labels: np.ndarray) -> None:
    pixels[7, 3, 3] ^= 1


def relabelled(pixels: np.ndarray, labels: np.ndarray) -> None:
    labels[7] = (labels[7] + 1) % 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: short(tiny()[0], seed=1),
        lambda: short(tiny()[0], "palm"),
        lambda: short(tiny()[0], epochs=4),
        lambda: short(tiny()[0], batch_size=8),
        lambda: short(tiny()[0], lr=0.2),
        lambda: short(tiny()[0], momentum=0.8),
        lambda: short(tiny()[0], nesterov=False),
        lambda: short(tiny()[0], weight_decay=1e-3),
        lambda: short(tiny()[0], warmup_epochs=0),
        lambda: short(tiny()[0], final_lr=0.1),
        lambda: short(tiny(49)[0]),
        lambda: short(tiny(change=lighter)[0]),
        lambda: short(tiny(change=relabelled)[0]),
        lambda: short(tiny(classes=("a", "b", "d"))[0]),
        lambda: short(tiny(preprocess=dataclasses.replace(PREPROCESS, mean=(0.31,)))[0]),
        lambda: short(tiny(preprocess=dataclasses.replace(PREPROCESS, flip=True))[0]),
        lambda: plan(tiny()[0], "ce", recipe="quick", backbone="resnet20", overrides=SHORT),
    ],
    ids=[
        "seed", "method", "epochs", "batch size", "lr", "momentum", "nesterov", "decay", "warm-up",
        "final lr", "size", "pixel", "label", "class name", "mean", "flip", "backbone",
    ],
)  # fmt: skip
def test_anything_changed_is_another_run(make: Callable[[], Run]) -> None:
    run = short(tiny()[0])
    other = make()
    assert other.key != run.key
    assert other.folder != run.folder
    assert make().key == other.key


def test_checkpoint_that_a_run_starts_from_is_part_of_it(tmp_path: Path) -> None:
    run = short(tiny()[0], lr=1e-30)
    backbone = create_backbone("digits-cnn", 1)
    path = tmp_path / "start.safetensors"
    save_file(backbone.state_dict(), path)
    started = dataclasses.replace(run, checkpoint=str(path))
    assert started.key != run.key
    trained = train(started, CPU).backbone
    for (name, value), expected in zip(
        trained.named_parameters(), backbone.parameters(), strict=True
    ):
        torch.testing.assert_close(value, expected, msg=name)

    save_file({"nothing": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"digits-cnn.*missing.*layers"):
        train(started, CPU)


def test_what_is_kept_is_safetensors_of_the_run() -> None:
    run = short(tiny()[0])
    method = train(run, CPU)
    with safe_open(run.weights, framework="pt") as handle:
        assert handle.metadata()["oodbench_run"] == run.key
    stored = load_file(run.weights)
    assert {name: tuple(v.shape) for name, v in stored.items()} == {
        name: tuple(v.shape) for name, v in method.state_dict().items()
    }
    assert not list(run.folder.rglob("*.ckpt")), "the weights alone are kept"
    assert not list(run.folder.rglob("*.part"))


# Resumed


@pytest.mark.parametrize("method", ["ce", "palm", "spy"])
@pytest.mark.parametrize("breaks_after", [30, 70, 130], ids=["epoch 0", "epoch 1", "epoch 2"])
def test_resumed_training_gives_the_same_bits(
    method: str, breaks_after: int, new_cache: Callable[[], None]
) -> None:
    benchmark, samples = tiny()
    views = METHODS.get(method).views
    whole = train(short(benchmark, method), CPU)
    per_epoch = samples.reads // 3
    assert per_epoch == 50, views

    new_cache()
    samples.reads, samples.breaks_after = 0, breaks_after
    with pytest.raises(DataError, match="pulled out"):
        train(short(benchmark, method), CPU)
    samples.reads = 0
    resumed = train(short(benchmark, method), CPU)
    assert samples.reads == 150 - 50 * (breaks_after // 50), "finished epochs are not done again"
    assert_same_weights(resumed, whole)


def test_each_resumed_epoch_draws_what_it_would_have_drawn(
    spy: type[Spy], new_cache: Callable[[], None]
) -> None:
    """From NumPy and Python's generator too, for methods that use those."""
    benchmark, samples = tiny()
    train(short(benchmark, "spy"), CPU)
    whole = list(spy.noise)
    new_cache()
    spy.noise.clear()
    samples.reads, samples.breaks_after = 0, 70
    with pytest.raises(DataError):
        train(short(benchmark, "spy"), CPU)
    spy.noise.clear()
    train(short(benchmark, "spy"), CPU)
    assert spy.noise == whole[4:]


def test_interrupted_twice_and_elsewhere() -> None:
    benchmark, samples = tiny()
    run = short(benchmark, epochs=5)
    for breaks_after in (60, 60, 20):
        samples.reads, samples.breaks_after = 0, breaks_after
        with pytest.raises(DataError):
            train(run, CPU)
    resumed = train(run, CPU)
    assert_same_weights(resumed, train(run, CPU, retrain=True))


def test_a_run_depends_on_nothing_that_went_before(new_cache: Callable[[], None]) -> None:
    first = train(short(tiny()[0], "palm"), CPU)
    new_cache()
    torch.manual_seed(123)
    torch.rand(7)
    assert_same_weights(train(short(tiny()[0], "palm"), CPU), first)


def test_checkpoints_are_read_with_weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(*tiny())
    load = torch.load
    asked: list[Any] = []

    def spying(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs.get("weights_only"))
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spying)
    train(run, CPU)
    assert asked
    assert set(asked) == {True}


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.write_text, (self.target, "executed")


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    run = interrupted(*tiny())
    target = tmp_path / "executed"
    (run.folder / "last.ckpt").write_bytes(pickle.dumps(_Payload(target)))
    with pytest.raises(OODBenchError, match=r"last\.ckpt.*`retrain`"):
        train(run, CPU)
    assert not target.exists()
    train(run, CPU, retrain=True)


def test_a_damaged_checkpoint_says_what_to_do() -> None:
    run = interrupted(*tiny())
    checkpoint = run.folder / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(OODBenchError, match=r"last\.ckpt.*`retrain`"):
        train(run, CPU)


# Logs


def read_log(run: Run) -> list[dict[str, str]]:
    with (run.folder / "csv" / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_logs_have_a_row_an_epoch() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    benchmark, _ = tiny()
    run = short(benchmark, "palm")
    train(run, CPU)
    rows = read_log(run)
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    for row in rows:
        total = float(row["train/mle"]) + float(row["train/contrastive"])
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-4)

    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    values = [event.value for event in events.Scalars("train/loss")]
    assert values == pytest.approx([float(row["train/loss"]) for row in rows], rel=1e-5)


def test_loss_in_the_log_is_the_epochs_mean(
    spy: type[Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    sums: list[float] = []

    def warnings_to(self: Spy, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = nn.functional.cross_entropy(self.linear(self.backbone(images[:, 0])), labels)
        sums.append(loss.item() * len(labels))
        return {"loss": loss}

    monkeypatch.setattr(Spy, "loss", warnings_to)
    run = short(tiny()[0], "spy")
    train(run, CPU)
    means = np.reshape(sums, (3, 4)).sum(axis=1) / 50
    assert [float(row["train/loss"]) for row in read_log(run)] == pytest.approx(means, rel=1e-4)


def test_logs_of_a_resumed_run_are_whole(new_cache: Callable[[], None]) -> None:
    """No epoch is lost, and none is there twice."""
    benchmark, samples = tiny()
    run = short(benchmark, epochs=4)
    train(run, CPU)
    whole = read_log(run)
    new_cache()
    for breaks_after in (70, 60):
        samples.reads, samples.breaks_after = 0, breaks_after
        with pytest.raises(DataError):
            train(run, CPU)
    train(run, CPU)
    assert read_log(run) == whole


# What goes wrong


@pytest.mark.parametrize("epochs", [1, 3])
def test_divergence_is_an_error_and_leaves_no_weights(epochs: int) -> None:
    run = short(tiny()[0], epochs=epochs, lr=1e30, warmup_epochs=0)
    with pytest.raises(OODBenchError, match=r"diverged.*`lr`"):
        train(run, CPU)
    assert not run.weights.exists()


def test_divergence_late_in_a_long_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are not looked at in between must not hide it."""
    calls = 0

    def failing(self: Spy, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        loss = nn.functional.cross_entropy(self.linear(self.backbone(images[:, 0])), labels)
        return {"loss": loss * (torch.nan if calls == 23 else 1)}

    monkeypatch.setattr(Spy, "loss", failing)
    run = short(tiny()[0], "spy", epochs=1, batch_size=2)
    with pytest.raises(OODBenchError, match="diverged"):
        train(run, CPU)
    assert not run.weights.exists()


def test_batch_that_processes_cannot_share() -> None:
    run = short(tiny()[0], batch_size=15)
    two = Hardware(accelerator="cpu", devices="2", strategy="ddp")
    with pytest.raises(OODBenchError, match=r"15 .*2 processes.*`batch_size`"):
        train(run, two)
    assert not run.weights.exists()


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ({"method": "palmm"}, UnknownNameError, "palm"),
        ({"method": "palm", "recipe": "fast"}, UnknownNameError, "quick"),
        ({"overrides": {"epoch": 3}}, OptionError, "epochs"),
        ({"overrides": {"epochs": "many"}}, OptionError, "epochs"),
        ({"overrides": {"schedule": "linear"}}, OptionError, "cosine"),
    ],
)
def test_unknown_words_name_the_nearest(
    words: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        plan(tiny()[0], **words)
    assert not (files.cache_dir() / "runs").exists()


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ({"backbone": "resnet2"}, UnknownNameError, "Did you mean .*'resnet20'"),
        ({"backbone": "resnet2", "method": "abet"}, UnknownNameError, "resnet20"),
        ({"backbone": "resnet2", "method": "frozen"}, UnknownNameError, "resnet20"),
        ({"backbone": "avdigits-cnn"}, OptionError, "several modalities"),
        ({"backbone": "resnet20", "checkpoint": "nowhere.pt"}, CheckpointError, "nowhere.pt"),
        (
            {"backbone": "resnet20", "checkpoint": "nowhere.pt", "method": "frozen"},
            CheckpointError,
            "nowhere.pt",
        ),
    ],
)
def test_a_network_that_cannot_be_made_is_refused_before_training_is_announced(
    words: dict[str, Any], kind: type[Exception], message: str
) -> None:
    lines: list[str] = []
    with pytest.raises(kind, match=message):
        oodbench.evaluate(id="digits", detectors="knn", hardware=CPU, report=lines.append, **words)
    assert not [line for line in lines if line.startswith("train")]
    assert not (files.cache_dir() / "runs").exists()


def test_a_method_may_have_its_own_names_for_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    run_of = partial(plan, tiny()[0], "spy", backbone="no-name-that-is-registered")
    with pytest.raises(UnknownNameError):
        run_of()
    monkeypatch.setattr(Spy, "names_backbones", True)
    monkeypatch.setattr(Spy, "make_backbone", lambda name, *_: create_backbone("digits-cnn", 1))
    assert isinstance(run_of().build().backbone, DigitsCNN)


def test_one_class_is_an_error() -> None:
    benchmark, _ = tiny(change=lambda pixels, labels: labels.fill(0), classes=("only",))
    with pytest.raises(DataError, match="one class"):
        plan(benchmark)


# Recipes


@pytest.mark.parametrize(
    ("method", "id_name", "recipe"),
    [
        ("palm", "cifar10", "openood"),
        ("palm", "cifar100", "published"),
        ("palm", "my-birds", "quick"),
        ("ce", "cifar10", "openood"),
        ("ce", "my-birds", "quick"),
    ],
)
def test_default_recipe_is_the_published_one_where_the_paper_has_the_set(
    method: str, id_name: str, recipe: str
) -> None:
    benchmark, _ = tiny()
    spec = dataclasses.replace(benchmark.id, name=id_name)
    run = plan(dataclasses.replace(benchmark, id=spec), method)
    assert run.recipe_name == recipe
    assert run.recipe == dataclasses.replace(
        METHODS.get(method).recipes[recipe], backbone=run.backbone
    )


def test_overrides_may_be_text() -> None:
    run = plan(
        tiny()[0],
        "palm",
        recipe="quick",
        overrides={"epochs": "7", "lr": "3e-2", "labelled": "false", "topk": "3"},
    )
    assert (run.recipe.epochs, run.recipe.lr) == (7, 0.03)
    assert run.recipe.labelled is False  # type: ignore[attr-defined]
    assert run.recipe.topk == 3  # type: ignore[attr-defined]


# Methods learn


def test_cross_entropy_learns_digits() -> None:
    benchmark = oodbench.get_benchmark("digits")
    run = plan(benchmark, "ce", overrides={"epochs": 6})
    network = train(run, CPU)
    outputs = extract(network, benchmark.id.load("test"), benchmark.preprocess, hardware=CPU)
    assert metrics.accuracy(outputs.logits, outputs.labels) > 0.95


@pytest.mark.parametrize("labelled", [True, False])
def test_palm_lowers_its_loss(labelled: bool) -> None:
    benchmark, samples = tiny(64)
    run = short(benchmark, "palm", epochs=8, labelled=labelled, lr=0.05)
    method = train(run, CPU)
    losses = [float(row["train/loss"]) for row in read_log(run)]
    assert losses[-1] < losses[0]
    prototypes = method.palm.prototypes  # type: ignore[union-attr]
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(18))  # type: ignore[operator]
    outputs = method.outputs(torch.stack([PREPROCESS(samples[i]) for i in range(4)]))
    assert outputs["features"].shape == (4, method.backbone.num_features)
    assert outputs["logits"].shape == (4, 3)


def test_palm_without_labels_never_reads_them(new_cache: Callable[[], None]) -> None:
    first = train(short(tiny()[0], "palm", labelled=False), CPU)
    new_cache()
    shuffled, _ = tiny(change=lambda pixels, labels: labels.sort())
    again = train(short(shuffled, "palm", labelled=False), CPU)
    assert_same_weights(first, again)


def test_changed_code_of_a_method_trains_again() -> None:
    """Who edits a loss and runs again must not be given the old network."""

    def cell(factor: str) -> type[Method]:
        scope: dict[str, Any] = {"__name__": "users_own"}
        source = (
            "from oodbench.detectors.ce import CrossEntropy\n"
            "class Mine(CrossEntropy):\n"
            "    def loss(self, images, labels):\n"
            f"        return {{'loss': {factor} * super().loss(images, labels)['loss']}}\n"
        )
        exec(source, scope)
        return scope["Mine"]

    def key(factor: str) -> str:
        METHODS.register("mine")(cell(factor))
        try:
            return plan(oodbench.get_benchmark("digits"), "mine").key
        finally:
            METHODS.unregister("mine")

    assert key("1.0") == key("1.0")
    assert key("1.0") != key("2.0")
