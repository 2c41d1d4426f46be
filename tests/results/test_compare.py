"""Detectors on several pre-trained networks: one table, one plot, and what fails is named."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import oodbench
from oodbench import Benchmark, DatasetSpec, Preprocess, Protocol, Results, cli, evaluation
from oodbench.cli.evaluated import show_rows
from oodbench.data.samples import ImageArrays
from oodbench.detectors.separability import separability
from oodbench.errors import OODBenchError, OptionError
from oodbench.registry import BENCHMARKS
from oodbench.results import compare
from oodbench.results.seeds import interval


def images(name: str, n: int, seed: int) -> ImageArrays:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = rng.integers(0, 80, (n, 16, 16, 3)) + 100 * labels[:, None, None, None]
    return ImageArrays(name, pixels.astype(np.uint8), labels, ("dark", "light"))


def toy() -> Benchmark:
    """A benchmark of noise."""
    spec = DatasetSpec("toy", lambda split: images(split, 24, len(split)), ("train", "test"))
    seen = DatasetSpec("seen", lambda _: images("seen", 20, 8))
    unseen = DatasetSpec("unseen", lambda _: images("unseen", 16, 9))
    return Benchmark(
        "toy/compared",
        spec,
        (),
        (),
        Preprocess(16, (0.5,) * 3, (0.5,) * 3),
        Protocol(
            rank_group="familiar",
            fpr="fpr95_ood",
            contrast=("unfamiliar", "familiar"),
            group_of_others="unfamiliar",
        ),
        familiar=(seen,),
        unfamiliar=(unseen,),
        standard_method="linear-probe",
        own_inputs=True,
        measures=("separability",),
    )


def rows(backbone: str, detector: str, familiar: float, unfamiliar: float) -> list[dict[str, Any]]:
    shared = {"backbone": backbone, "detector": detector, "detector_options": {}, "seed": 0}
    made = []
    for group, auroc in (("familiar", familiar), ("unfamiliar", unfamiliar)):
        for name, is_mean in (("x", False), (group, True)):
            row = dict.fromkeys(oodbench.results.rows.COLUMNS)
            row.update(shared, ood=name, group=group, is_mean=is_mean, auroc=auroc, fpr95_ood=0.5)
            row.update(separability=0.9, id_accuracy=0.75)
            made.append(row)
    made[1]["gap"] = unfamiliar - familiar
    return made


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What ``evaluate`` is asked for, instead of doing it."""
    asked: list[dict[str, Any]] = []

    def evaluate(**options: Any) -> Results:
        asked.append(options)
        name = options["backbone"]
        if name == "broken":
            raise OODBenchError("no hub")
        better = 0.1 if name == "second" else 0.0
        made = rows(name, "msp", 0.6 + better, 0.8) + rows(name, "ptood", 0.65 + better, 0.7)
        return Results(made, failures={"gram": "too deep"})

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    return asked


def test_every_network_is_evaluated_in_the_same_way(evaluations: list[dict[str, Any]]) -> None:
    compare.compare(
        benchmark=toy(), backbones=["first", "second@w.pt"], detectors=["msp", "ptood"], seed=3
    )
    assert [(one["backbone"], one["checkpoint"]) for one in evaluations] == [
        ("first", None),
        ("second", "w.pt"),
    ]
    assert {(one["method"], one["seed"]) for one in evaluations} == {("linear-probe", 3)}
    assert evaluations[0]["detectors"] is evaluations[1]["detectors"]


def test_the_table_is_ranked_and_has_the_gap(evaluations: list[dict[str, Any]]) -> None:
    results = compare.compare(
        benchmark=toy(), backbones=["first", "second"], detectors=["msp", "ptood"]
    )
    header, cells = compare.table(results, toy())
    assert header == [
        "backbone",
        "detector",
        "familiar AUROC",
        "familiar FPR@95 OOD+",
        "familiar separability",
        "unfamiliar AUROC",
        "unfamiliar FPR@95 OOD+",
        "unfamiliar separability",
        "gap",
        "ID accuracy",
    ]
    assert [line[:3] for line in cells] == [
        ["second", "ptood", "75.00"],
        ["second", "msp", "70.00"],
        ["first", "ptood", "65.00"],
        ["first", "msp", "60.00"],
    ]
    assert cells[0][-2:] == ["-5.00", "75.00"]
    assert results.failures == {"first, gram": "too deep", "second, gram": "too deep"}


def test_a_network_that_cannot_be_had_does_not_lose_the_others(
    evaluations: list[dict[str, Any]],
) -> None:
    results = compare.compare(benchmark=toy(), backbones=["broken", "first"], detectors=["msp"])
    assert results.failures["broken"] == "no hub"
    assert {row["backbone"] for row in results.rows} == {"first"}
    with pytest.raises(OODBenchError, match="no hub"):
        compare.compare(benchmark=toy(), backbones=["broken"], detectors=["msp"])


def test_networks_are_named_each_once() -> None:
    for wrong in ([], ["a", "a"]):
        with pytest.raises(OptionError, match="each once"):
            compare.compare(benchmark=toy(), backbones=wrong)


def test_seeds_are_averaged() -> None:
    results = Results(rows("net", "msp", 0.6, 0.8) + rows("net", "msp", 0.8, 0.8))
    _, cells = compare.table(results, toy())
    assert [line[2] for line in cells] == ["70.00"]


def with_intervals(made: list[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """The same rows with intervals of a tenth around AUROC and gap, of a seed."""
    for row in made:
        for name in ("auroc", "gap"):
            if row[name] is not None:
                row[f"{name}_low"], row[f"{name}_high"] = row[name] - 0.1, row[name] + 0.1
        row["seed"] = seed
    return made


def test_intervals_are_beside_auroc_and_gap() -> None:
    one = with_intervals(rows("net", "msp", 0.6, 0.8))
    header, (cells,) = compare.table(Results(one), toy())
    line = dict(zip(header, cells, strict=True))
    assert line["familiar AUROC"] == "60.00 [50.00, 70.00]"
    assert line["unfamiliar AUROC"] == "80.00 [70.00, 90.00]"
    assert line["gap"] == "20.00 [10.00, 30.00]"
    assert line["familiar FPR@95 OOD+"] == "50.00"
    assert line["ID accuracy"] == "75.00"
    two = with_intervals(rows("net", "msp", 0.7, 0.8), 1)
    header, (cells,) = compare.table(Results([*one, *two]), toy())
    low, high = interval([0.6, 0.7], [(0.5, 0.7), (0.6, 0.8)])
    shown = dict(zip(header, cells, strict=True))["familiar AUROC"]
    assert shown == f"65.00 [{100 * low:.2f}, {100 * high:.2f}]"


def test_the_terminal_shows_intervals_of_auroc_and_gap(capsys: pytest.CaptureFixture[str]) -> None:
    made = with_intervals(rows("net", "msp", 0.6, 0.8))
    for row in made:
        row.update(method="linear-probe", n_ood=20, fpr95_id=0.5, aupr_in=0.5, aupr_out=0.5)
    show_rows(Results(made), toy())
    familiar = next(line for line in capsys.readouterr().out.splitlines() if "familiar" in line)
    assert "60.00  " in familiar
    assert "50.00–70.00" in familiar
    assert "20.00 [10.00, 30.00]" in familiar


def test_the_plot_is_a_picture_of_all_detectors(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    for number in range(6):
        found += rows(f"net{number % 2}", f"detector{number // 2}", 0.6, 0.8)
    path = compare.scatter(Results(found), toy(), tmp_path / "plots" / "all.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int)
    orange = (abs(pixels - (255, 127, 14)).sum(axis=1) < 30).sum()
    blue = (abs(pixels - (31, 119, 180)).sum(axis=1) < 30).sum()
    assert min(orange, blue) > 50
    assert [one.name for one in path.parent.iterdir()] == ["all.png"]


def test_a_plot_without_what_it_shows_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = rows("net", "msp", 0.6, 0.8)
    for row in bare:
        row["separability"] = None
    with pytest.raises(OptionError, match=r"has its measure separability.*reads: features"):
        compare.scatter(Results(bare), toy(), tmp_path / "x.png")
    unmeasured = dataclasses.replace(toy(), measures=())
    with pytest.raises(OptionError, match="no measure of a network's outputs"):
        compare.scatter(Results(bare), unmeasured, tmp_path / "x.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OODBenchError, match=re.escape("oodbench[plots]")):
        compare.scatter(Results(rows("net", "msp", 0.6, 0.8)), toy(), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str, str]]:
    """Runs a command line; exit status, output, errors."""
    monkeypatch.setitem(BENCHMARKS._objects, "toy/compared", toy)

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["oodbench", *line.split()])
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return run


def test_real_weights_on_the_command_line(
    command: Callable[[str], tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The networks of the package, with no hub to be reached, and a name that there is not."""
    # each fit on 1,280 features takes a second: there are two of the probe, and two folds
    whole = toy()
    known = dataclasses.replace(whole.id, splits=("train", "val", "test"))
    few = dataclasses.replace(whole, id=known)
    monkeypatch.setitem(BENCHMARKS._objects, "toy/compared", lambda: few)
    monkeypatch.setattr(separability, "__defaults__", (2,))
    words = (
        "compare --benchmark toy/compared --detector ptood,msp --recipe-set input_size=64 "
        "--backbone tf_efficientnet_lite0.pypi,tf_efficientnet_lite9 --accelerator cpu "
        f"--leaderboards {tmp_path}"
    )
    status, out, err = command(f"{words} --plot {tmp_path}/plot.png")
    assert status == cli.SOME_FAILED, err
    assert "no backbone named 'tf_efficientnet_lite9'. Did you mean" in err
    assert len(re.findall(r"^ *tf_efficientnet_lite0\.pypi +(ptood|msp) ", out, re.M)) == 2
    assert "gap" in out
    assert Image.open(tmp_path / "plot.png").width > 300
    assert "| ptood |" in (tmp_path / "toy-compared.md").read_text()


def test_what_failed_leaves_the_json_whole(
    command: Callable[[str], tuple[int, str, str]], evaluations: list[dict[str, Any]]
) -> None:
    words = "compare --benchmark toy/compared --detector msp,ptood --backbone first,broken --json"
    status, out, err = command(words)
    assert status == cli.SOME_FAILED, err
    assert [one["method"] for one in evaluations] == ["linear-probe"] * 2
    found = json.loads(out)["rows"]
    assert {row["backbone"] for row in found} == {"first"}
    assert {row["detector"] for row in found} == {"msp", "ptood"}
    assert "no hub" in err


def test_an_evaluation_tells_the_gap(
    command: Callable[[str], tuple[int, str, str]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), path)
    status, out, err = command(
        "eval --benchmark toy/compared --detector ptood,msp --recipe-set input_size=32 --json "
        f"--backbone test_resnet --checkpoint {path} --accelerator cpu --leaderboards {tmp_path}"
    )
    assert status == 0, err
    found = json.loads(out)["rows"]
    assert {row["method"] for row in found if row["detector"] == "msp"} == {"linear-probe"}
    assert sum(row["gap"] is not None for row in found) > 0
    status, out, err = command(
        "eval --benchmark toy/compared --detector ptood,msp --recipe-set input_size=32 "
        f"--backbone test_resnet --checkpoint {path} --accelerator cpu --leaderboards {tmp_path}"
    )
    assert status == 0, err
    assert "separability" in out
    assert "gap" in out


def test_a_wrong_size_stops_with_a_line(command: Callable[[str], tuple[int, str, str]]) -> None:
    status, _, err = command(
        "eval --benchmark toy/compared --detector ptood --backbone vit_tiny_patch16_224 "
        "--recipe-set input_size=100"
    )
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
