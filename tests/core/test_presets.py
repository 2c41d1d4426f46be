"""Named settings of detectors on a benchmark, and those that shape each modality by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import oodbench
from oodbench import Hardware, Outputs
from oodbench.benchmark import get_benchmark
from oodbench.cli import app
from oodbench.detectors._modalities import modality_slices
from oodbench.errors import MissingOutputError, UnknownNameError
from oodbench.info import describe
from oodbench.outputs import Head
from oodbench.registry import BENCHMARKS
from oodbench.selection import create_detectors, expanded

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
PRESETS = {"theirs": {"knn": {"k": 7}, "gen": {"M": 3, "gamma": 0.2}}}
DIGITS = replace(get_benchmark("digits"), presets=PRESETS)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 6)).eval()


def options(results: Any) -> dict[str, dict[str, Any]]:
    return {row["detector"]: row["detector_options"] for row in results}


def test_rows_have_the_options_of_the_preset() -> None:
    common: dict[str, Any] = {"benchmark": DIGITS, "hardware": CPU}
    names = ["msp", "knn", "gen"]
    theirs = oodbench.evaluate(
        network(), detectors=names, preset="theirs", preprocess="benchmark", **common
    )
    found = options(theirs)
    assert (found["knn"]["k"], found["gen"]["M"], found["gen"]["gamma"]) == (7, 3, 0.2)
    ours = oodbench.evaluate(network(), detectors=names, preprocess="benchmark", **common)
    assert (options(ours)["knn"]["k"], options(ours)["gen"]["M"]) == (50, 100)
    by_hand = [oodbench.create_detector("knn", k=7), "msp"]
    same = oodbench.evaluate(network(), detectors=by_hand, preprocess="benchmark", **common)
    figures = [
        {r["ood"]: r["auroc"] for r in results if r["detector"] == "knn"}
        for results in (theirs, same, ours)
    ]
    assert figures[0] == figures[1] != figures[2]
    # a detector that is given as an object has the options that it has
    kept = oodbench.evaluate(
        network(), detectors=by_hand, preset="theirs", preprocess="benchmark", **common
    )
    assert options(kept)["knn"]["k"] == 7


def test_no_such_preset() -> None:
    with pytest.raises(UnknownNameError, match="digits has no preset 'ours'; its presets: theirs"):
        oodbench.evaluate(
            network(),
            benchmark=DIGITS,
            detectors="msp",
            preset="ours",
            hardware=CPU,
            preprocess="benchmark",
        )
    with pytest.raises(UnknownNameError, match="no preset 'multiood'; it has none"):
        create_detectors("msp", None, get_benchmark("digits"), "multiood")


def test_tuning_keeps_what_a_preset_says() -> None:
    found = oodbench.evaluate(
        network(),
        benchmark=DIGITS,
        detectors=["knn", "gen"],
        preset="theirs",
        tune=True,
        hardware=CPU,
        preprocess="benchmark",
    )
    assert options(found)["knn"]["k"] == 7
    assert options(found)["gen"]["M"] == 3
    assert {row["tuned"] for row in found if row["detector"] == "knn"} == {None}


@pytest.fixture
def registered() -> Any:
    BENCHMARKS.register("preset-digits")(lambda: replace(DIGITS, name="preset-digits"))
    yield "preset-digits"
    BENCHMARKS.unregister("preset-digits")


def test_the_command_line(registered: str, tmp_path: Path) -> None:
    words = "eval --detector knn,gen --epochs 1 --accelerator cpu --workers 0 --json --benchmark"
    common = [*words.split(), registered, "--leaderboards", str(tmp_path)]
    runs = {
        "preset": ["--preset", "theirs"],
        "over": ["--preset", "theirs", "--set", "knn.k=9"],
    }
    found = {}
    for name, more in runs.items():
        said = CliRunner().invoke(app, [*common, *more])
        assert said.exit_code == 0, said.output
        rows = json.loads(said.stdout)["rows"]
        found[name] = {row["detector"]: row["detector_options"] for row in rows}
    assert found["preset"]["knn"]["k"] == 7
    assert found["over"]["knn"]["k"] == 9
    assert found["over"]["gen"]["M"] == 3
    assert "preset theirs: knn k=7" in describe(registered)
    with pytest.raises(UnknownNameError, match="no preset 'x'"):
        CliRunner().invoke(app, [*common, "--preset", "x"], catch_exceptions=False)


def test_multiood() -> None:
    for name, classes in (
        ("multiood/hmdb51-25-26", 25),
        ("multiood/epic-4-4-audio", 4),
        ("multiood/kinetics600-129-100", 129),
        ("multiood/kinetics600", 229),
        ("hmdb51", 43),
    ):
        benchmark = get_benchmark(benchmark=name)
        names = ["mahalanobis", "knn", "vim", "gen", "react", "ash-b", "msp"]
        made = {d.label: d.options() for d in create_detectors(names, None, benchmark, "multiood")}
        assert made["knn"]["k"] == 10
        assert made["vim"]["dim"] == 256
        assert made["mahalanobis"]["shrinkage"] == "none"
        assert made["gen"]["M"] == classes
        for shaped in ("react", "ash-b"):
            assert made[shaped]["percentile"] == 90
            assert made[shaped]["per_modality"]
        assert made["react"]["fit_split"] == "val"
    small = get_benchmark("avdigits").preset("multiood")
    assert small["gen"]["M"] == 5
    assert "vim" not in small


# --- each modality by itself -----------------------------------------------------------------

WIDTHS = {"video": 20, "flow": 30, "audio": 10}
SCALES = {"video": 1.0, "flow": 5.0, "audio": 0.2}


def joint(n: int, seed: int, order: list[str] | None = None) -> Outputs:
    """Features of three modalities of very different sizes, listed in any order."""
    rng = np.random.default_rng(seed)
    parts = {
        name: (SCALES[name] * rng.exponential(1.0, (n, width))).astype(np.float32)
        for name, width in WIDTHS.items()
    }
    features = np.concatenate(list(parts.values()), axis=1)
    weights = np.random.default_rng(99).normal(size=(4, 60)).astype(np.float32)
    head = Head(torch.from_numpy(weights), torch.tensor([0.1, -0.2, 0.3, 0.0]))
    extra = {f"features/{name}": torch.from_numpy(parts[name]) for name in order or parts}
    return Outputs(
        features=torch.from_numpy(features), labels=np.arange(n) % 4, head=head, extra=extra
    )


def energy(features: np.ndarray, outputs: Outputs) -> np.ndarray:
    weight, bias = outputs.head.weight.double().numpy(), outputs.head.bias.double().numpy()  # type: ignore[union-attr]
    logits = features.astype(np.float64) @ weight.T + bias
    top = logits.max(axis=1, keepdims=True)
    whole: np.ndarray = -(np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0])
    return whole


ORDERS = [None, ["flow", "audio", "video"], ["audio", "flow", "video"]]


def columns() -> list[slice]:
    return [slice(0, 20), slice(20, 50), slice(50, 60)]


@pytest.mark.parametrize("order", ORDERS)
def test_react_clips_each_modality_at_its_own_percentile(order: list[str] | None) -> None:
    train, test = joint(300, 1, order), joint(40, 2, order)
    detector = oodbench.create_detector("react", per_modality=True, percentile=90).fit(train)
    z, known = test.features.numpy().copy(), train.features.numpy()
    for part in columns():
        z[:, part] = np.minimum(z[:, part], np.percentile(known[:, part], 90))
    assert np.allclose(detector.score(test).numpy(), energy(z, test), rtol=1e-4, atol=1e-4)
    plain = oodbench.create_detector("react", percentile=90).fit(train)
    assert not np.allclose(detector.score(test).numpy(), plain.score(test).numpy(), atol=0.1)


@pytest.mark.parametrize("order", ORDERS)
def test_ash_b_shapes_each_modality_by_itself(order: list[str] | None) -> None:
    test = joint(40, 2, order)
    detector = oodbench.create_detector("ash-b", per_modality=True, percentile=90)
    z = np.zeros((40, 60))
    for part in columns():
        own = test.features.numpy()[:, part].astype(np.float64)
        kept = own.shape[1] - round(own.shape[1] * 0.9)
        for row in range(len(own)):
            top = np.argsort(-own[row])[:kept]
            z[row, np.arange(part.start, part.stop)[top]] = own[row].sum() / kept
    assert np.allclose(detector.score(test).numpy(), energy(z, test), rtol=1e-4, atol=1e-4)


def test_one_modality_alone_is_shaped_as_a_whole() -> None:
    whole = joint(50, 1)
    part = whole.extra["features/flow"]
    head = Head(whole.head.weight[:, 20:50], whole.head.bias)  # type: ignore[union-attr]
    alone = Outputs(features=part, labels=whole.labels, head=head, extra=whole.extra)
    assert modality_slices(alone, "x") == [slice(0, 30)]
    for name in ("react", "ash-b"):
        scores = [
            oodbench.create_detector(name, per_modality=given).fit(alone).score(alone)
            for given in (True, False)
        ]
        assert torch.allclose(*scores, atol=1e-5)


def test_features_of_no_modalities_are_refused() -> None:
    plain = joint(50, 1)
    plain.extra.clear()
    other = joint(50, 1)
    other.features = other.features * 2
    for outputs in (plain, other):
        for name in ("react", "ash-b"):
            detector = oodbench.create_detector(name, per_modality=True)
            with pytest.raises(MissingOutputError, match=f"{name} with per_modality=true wants"):
                detector.fit(outputs).score(outputs)


def test_no_samples() -> None:
    train = joint(60, 1)
    for name in ("react", "ash-b"):
        detector = oodbench.create_detector(name, per_modality=True).fit(train)
        assert detector.score(train[:0]).shape == (0,)


def test_all_stands_for_what_suits_the_method() -> None:
    frozen, probe = (set(expanded(["all"], name)) for name in ("frozen", "linear-probe"))
    assert {"ptood", "knn", "mahalanobis", "ssd"} <= frozen
    assert not frozen & {"msp", "energy", "vim", "odin", "palm"}
    assert {"ptood", "knn", "msp", "energy", "react", "vim"} <= probe
    assert "palm" not in probe
