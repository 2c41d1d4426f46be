"""A run is what determines it; one that cannot be made is refused before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import oodbench
from oodbench import Benchmark, Hardware, Method, files
from oodbench.errors import CheckpointError, DataError, OptionError, UnknownNameError
from oodbench.networks.backbones import DigitsCNN, create_backbone
from oodbench.registry import METHODS
from oodbench.training.run import Run, plan
from oodbench.training.train import train
from tests.helpers.training import CPU, PREPROCESS, SHORT, Spy, short, tiny

pytestmark = pytest.mark.usefixtures("spy")


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": "nan"}])
def test_impossible_recipes_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(bad))):
        short(tiny()[0], **bad)


# What determines a run


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


# What goes wrong


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


# Code


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
