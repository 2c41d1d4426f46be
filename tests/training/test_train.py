"""Training: a run is made once, resumed exactly, logged, and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench import Hardware
from oodbench.errors import DataError, OODBenchError
from oodbench.registry import METHODS
from oodbench.training.train import train
from tests.helpers.training import CPU, Spy, assert_same_weights, read_log, short, tiny

pytestmark = pytest.mark.usefixtures("spy")


# The learning rate


def test_learning_rate_changes_every_step(spy: type[Spy]) -> None:
    benchmark, _ = tiny(50)
    run = short(benchmark, "spy", epochs=4, batch_size=16, lr=0.2)
    train(run, CPU)
    steps = 4  # three of 16 images and one of the 2 that are left of 50
    assert spy.rates == pytest.approx([0.2 * run.recipe.lr_factor(i / steps) for i in range(16)])
    assert spy.rates[0] == 0
    assert max(spy.rates) == spy.rates[4]


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


# Logs


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
