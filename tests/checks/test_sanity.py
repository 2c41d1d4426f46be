"""An ID accuracy that cannot be right is said loudly, and a weak network is left in peace."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench import evaluate
from oodbench.benchmark import Benchmark
from oodbench.checks import sanity
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.hardware import Hardware

GREY = Preprocess(8, (0.5,), (0.25,), mode="L")


def made(
    n: int, classes: int, accuracy: float, seed: int = 0, order: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """Logits and labels of a network with that accuracy, whose classes are in that order."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    wrong = rng.integers(1, classes, n)
    predicted = np.where(rng.random(n) < accuracy, labels, (labels + wrong) % classes)
    if order is not None:
        predicted = order[predicted]
    return torch.eye(classes)[predicted], torch.from_numpy(labels)


def told(
    logits: Tensor, labels: Tensor, train: float | None = None, names: list[str] | None = None
) -> list[str]:
    names = names or [f"c{i}" for i in range(logits.shape[1])]
    return list(sanity.of_outputs(logits, labels, names, "RGB, 32 x 32 pixels", train))


# --- another order of the classes ---------------------------------------------------------------


@pytest.mark.parametrize("n", [300, 2000])
@pytest.mark.parametrize("accuracy", [0.5, 0.7, 0.905, 1.0])
def test_classes_in_another_order(n: int, accuracy: float) -> None:
    order = np.random.default_rng(1).permutation(10)
    (warning,) = told(*made(n, 10, accuracy, order=order))
    reached = float(warning.partition(", and ")[2].partition(" %")[0])
    assert reached == pytest.approx(100 * accuracy, abs=8)
    assert "alphabetical order" in warning
    moved = int(np.flatnonzero(order != np.arange(10))[0])
    assert f"'c{moved}' as 'c{order[moved]}'" in warning


@pytest.mark.parametrize(("one", "other"), [(0, 1), (3, 7), (8, 9)])
def test_two_classes_that_are_swapped(one: int, other: int) -> None:
    order = np.arange(10)
    order[[one, other]] = other, one
    (warning,) = told(*made(500, 10, 0.9, order=order))
    assert f"'c{one}' as 'c{other}'" in warning
    assert f"'c{other}' as 'c{one}'" in warning


@pytest.mark.parametrize("shift", [1, 3])
def test_classes_that_are_shifted(shift: int) -> None:
    """A background class that was left out, or labels that begin at one."""
    order = (np.arange(20) + shift) % 20
    (warning,) = told(*made(1000, 20, 0.8, order=order))
    assert "another order" in warning


def test_two_classes_the_wrong_way_round() -> None:
    (warning,) = told(*made(200, 2, 0.9, order=np.array([1, 0])))
    assert "another order" in warning


# --- near chance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_guesses_are_near_chance(classes: int) -> None:
    (warning,) = told(*made(5000, classes, 1 / classes))
    assert "near chance" in warning
    assert "RGB, 32 x 32 pixels" in warning
    assert "order of the classes" in warning


def test_one_answer_for_everything() -> None:
    labels = torch.arange(300) % 3
    (warning,) = told(torch.eye(3)[torch.zeros(300, dtype=torch.long)], labels)
    assert "33.3 %" in warning
    assert "near chance" in warning
    common = torch.tensor([0] * 290 + [1] * 5 + [2] * 5)
    (warning,) = told(torch.eye(3)[torch.zeros(300, dtype=torch.long)], common)
    assert "96.7 %" in warning, "of a set that is almost of one class alone"


# --- the training images -------------------------------------------------------------------------


@pytest.mark.parametrize(("test", "train"), [(0.3, 0.95), (0.5, 1.0), (0.2, 0.9)])
def test_far_below_the_training_images(test: float, train: float) -> None:
    (warning,) = told(*made(1000, 10, test), train)
    assert f"{100 * train:.1f} % on the training images" in warning
    assert "mean and std" in warning


# --- no false alarms -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("n", "classes", "accuracy", "train"),
    [
        (271, 6, 0.99, 1.0),
        (2000, 100, 0.125, 0.13),
        (2000, 100, 0.05, None),
        (5000, 1000, 0.03, None),
        (200, 2, 0.7, 0.9),
        (100, 10, 0.3, 0.4),
        (1000, 10, 0.65, 1.0),
        (400, 50, 0.4, 0.6),
        (20, 2, 0.5, None),
        (60, 30, 0.5, None),
    ],
)
def test_weak_networks_are_left_in_peace(
    n: int, classes: int, accuracy: float, train: float | None, seed: int
) -> None:
    assert told(*made(n, classes, accuracy, seed), train) == []


@pytest.mark.parametrize("seed", range(5))
def test_classes_that_are_mistaken_for_each_other(seed: int) -> None:
    """Cats are called dogs half of the time, and dogs cats: no other order."""
    rng = np.random.default_rng(seed)
    labels = np.arange(1000) % 10
    predicted = labels.copy()
    mixed = (labels < 2) & (rng.random(1000) < 0.55)
    predicted[mixed] = 1 - labels[mixed]
    assert told(torch.eye(10)[predicted], torch.from_numpy(labels)) == []
    predicted[labels == 4] = 5  # a class that is never predicted
    assert told(torch.eye(10)[predicted], torch.from_numpy(labels)) == []


def test_more_outputs_than_classes_are_not_looked_at() -> None:
    logits, labels = made(500, 10, 0.1)
    assert list(sanity.of_outputs(logits, labels, ["a", "b"], "")) == []
    assert list(sanity.of_outputs(logits[:, :3], labels, [str(i) for i in range(10)], "")) == []


def test_a_thousand_classes_are_quick() -> None:
    order = np.random.default_rng(0).permutation(1000)
    logits, labels = made(50_000, 1000, 0.7, order=order)
    began = time.process_time()
    (warning,) = told(logits, labels)
    assert time.process_time() - began < 10
    assert "another order" in warning
    assert told(*made(50_000, 1000, 0.7)) == []


# --- through the real entry ----------------------------------------------------------------------


class Stripes(nn.Module):
    """Tells which row of the image is bright; its classes may be in another order."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(8)[order].T)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(dim=(1, 3)))


def images(name: str, seed: int, n: int = 160) -> ImageArrays:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 8
    pixels = rng.integers(0, 60, (n, 8, 8), dtype=np.uint8)
    pixels[np.arange(n), labels] += 150
    return ImageArrays(name, pixels, labels, tuple("abcdefgh"))


BENCHMARK = Benchmark(
    "toy-known",
    DatasetSpec("toy", lambda split: images(f"toy/{split}", split == "train"), ("train", "test")),
    (DatasetSpec("other", lambda split: images("other/test", 7)),),
    (),
    GREY,
)


def run(model: nn.Module, **options: Any) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    found = evaluate(
        model,
        benchmark=BENCHMARK,
        hardware=Hardware(accelerator="cpu"),
        report=lines.append,
        **{"preprocess": "benchmark", **options},
    )
    assert found.rows
    return found.warnings, lines


def test_a_right_network_is_only_described() -> None:
    warnings, lines = run(Stripes(list(range(8))))
    assert warnings == []
    assert [line for line in lines if "sees" in line] == [
        "Stripes sees L, 8 x 8 pixels, bilinear, mean 0.5, std 0.25 (the caller: benchmark)"
    ]


def test_a_wrong_order_is_told_in_results_and_report() -> None:
    warnings, lines = run(Stripes([3, 0, 1, 2, 7, 4, 5, 6]), detectors=["msp", "she"])
    (warning,) = (text for text in warnings if "another order" in text)
    assert "100.0 % if the classes" in warning
    assert f"warning: {warning}" in lines


def test_chance_is_told_in_results_and_report() -> None:
    model = Stripes(list(range(8)))
    with torch.no_grad():
        model.fc.weight.copy_(torch.randn(8, 8) * 0 + torch.eye(8)[0])
    warnings, _ = run(model)
    assert any("near chance" in text and "L, 8 x 8 pixels" in text for text in warnings)


@pytest.mark.parametrize(
    ("preprocess", "words"),
    [
        (
            Preprocess(224, (0.5,) * 3, (0.2,) * 3, resize="crop", pre_size=256),
            ["RGB", "224", "256"],
        ),
        (Preprocess(32, (0.49,) * 3, (0.2,) * 3), ["RGB, 32 x 32", "0.49", "0.2"]),
        (nn.Flatten(), ["Flatten("]),
    ],
)
def test_what_is_seen_is_one_line(preprocess: Any, words: list[str]) -> None:
    text = sanity.described(preprocess)
    assert "\n" not in text
    assert all(word in text for word in words)
    assert "own size" in sanity.described(GREY, keeps_size=True)
