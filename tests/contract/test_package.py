"""A task, a benchmark with groups of its own and a backbone, from another package, in one file."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

import pytest

from tests.helpers.attempts import Server

PACKAGE = '''
"""Each quarter of an image is scored."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from oodbench import Benchmark, DatasetSpec, Preprocess, Protocol, Task
from oodbench.data.samples import ImageArrays


@dataclass(frozen=True)
class Quarters(Task):
    """Each quarter of an image is scored, or the one in a corner."""
    unit: ClassVar[str] = "quarters"
    scored: ClassVar[str] = "Quarters are scored"
    columns: ClassVar[tuple[str, ...]] = ("corner",)
    rows_are_samples: ClassVar[bool] = False
    corner: int | None = None

    def samples(self, samples):
        images = np.stack([np.asarray(image) for image in samples])
        parts = [images[:, y : y + 8, x : x + 8] for y in (0, 8) for x in (0, 8)]
        parts = parts if self.corner is None else [parts[self.corner]]
        labels = np.tile(samples.labels, len(parts))
        return ImageArrays(samples.name, np.concatenate(parts), labels, samples.classes)

    def row(self):
        return {"corner": self.corner}


class TinyNet(nn.Sequential):
    """A convolution and a mean."""
    num_features = 8

    def __init__(self, channels=1):
        pool = nn.AdaptiveAvgPool2d(1)
        super().__init__(nn.Conv2d(channels, 8, 3), nn.ReLU(), pool, nn.Flatten())


def drawn(name, level, splits=("test",)):
    def load(split):
        rng = np.random.default_rng(len(name) + len(split))
        labels = np.arange(60) % 3
        shades = (level + 60 * labels)[:, None, None] + rng.normal(0, 20, (60, 16, 16))
        images = shades.clip(0, 255).astype(np.uint8)
        return ImageArrays(f"{name}/{split}", images, labels, ("dark", "middle", "light"))

    return DatasetSpec(name, load, splits, f"Noise around grey {level}.", "drawn", "CC0")


shades = Benchmark(
    "shades", drawn("shades", 40, ("train", "val", "test")),
    preprocess=Preprocess(8, (0.4,), (0.2,), mode="L"),
    groups={"easy": (drawn("bright", 130),), "hard": (drawn("dim", 60),)},
    protocol=Protocol(contrast=("easy", "hard"), group_of_others="hard"), backbone="tiny-net",
    validation=(drawn("shifted-shades", 90),), task="quarters",
)
'''
ENTRY_POINTS = """
[oodbench.tasks]
quarters = quarters_of:Quarters
[oodbench.benchmarks]
shades = quarters_of:shades
[oodbench.backbones]
tiny-net = quarters_of:TinyNet
"""
COMMANDS = {
    "tasks": "list tasks",
    "backbones": "list backbones",
    "benchmarks": "list benchmarks",
    "info": "info quarters",
    "eval": "eval --detector msp,knn --id shades --epochs 2 --json",
    "corner": "eval --detector msp --id shades --epochs 2 --task-set corner=1 --json",
    "wrong": "eval --detector msp --id shades --task-set side=1",
    "tune": "tune --detector knn --id shades --epochs 2 --json",
    "compare": "compare --detector msp --id shades --method ce --backbone tiny-net --recipe-set "
    "epochs=2 --json",
    "leaderboard": "leaderboard --id shades",
}


def job(commands: str) -> None:
    """Run commands, then check suites; say in JSON what each command did, and what failed."""
    from oodbench import get_benchmark, testing
    from oodbench.cli import main
    from oodbench.registry import BACKBONES

    done: dict[str, Any] = {}
    for name, words in json.loads(commands).items():
        out, error, status = io.StringIO(), io.StringIO(), None
        sys.argv = ["oodbench", *words.split()]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                main()
            except SystemExit as end:
                status = end.code or 0
        done[name] = {"status": status, "out": out.getvalue(), "error": error.getvalue()}
    shades, failures = get_benchmark("shades"), {}
    for suite, thing in (
        (testing.task_checks(), shades),
        (testing.benchmark_checks(), shades),
        (testing.backbone_checks(), BACKBONES.get("tiny-net")),
    ):
        for check in suite:
            try:
                check(thing)  # type: ignore[operator]
            except Exception as error:
                failures[f"{check.__module__}.{check.__name__}"] = repr(error)
    done["suites"] = failures
    print(json.dumps(done))


@pytest.fixture(scope="module")
def runs(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each command did, one after the other in a process that finds the package installed."""
    root = tmp_path_factory.mktemp("another")
    site = root / "site"
    info = site / "quarters_of-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "quarters_of.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quarters-of\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    where = {"OODBENCH_CACHE": str(root / "cache"), "OODBENCH_DATA": str(root / "data")}
    done = server.ran(f"{__name__}:job", json.dumps(COMMANDS), site=site, folder=root, env=where)
    assert done.status == 0, done.err
    result: dict[str, dict[str, Any]] = json.loads(done.out.splitlines()[-1])
    result["page"] = {"status": 0, "out": (root / "leaderboards" / "shades.md").read_text()}
    return result


def test_the_package_is_small() -> None:
    assert len(PACKAGE.strip().splitlines()) < 60


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "wrong"])
def test_every_command_takes_it(runs: dict[str, Any], name: str) -> None:
    assert runs[name]["status"] == 0, runs[name]["error"]


def test_it_passes_the_check_suites(runs: dict[str, Any]) -> None:
    assert runs["suites"] == {}


def test_it_is_listed(runs: dict[str, Any]) -> None:
    assert "Each quarter of an image is scored" in runs["tasks"]["out"]
    assert "A convolution and a mean" in runs["backbones"]["out"]
    assert "shades" in runs["benchmarks"]["out"]
    assert "corner" in runs["info"]["out"]


def test_rows_count_quarters_and_have_the_groups(runs: dict[str, Any]) -> None:
    rows = json.loads(runs["eval"]["out"])["rows"]
    assert {row["group"] for row in rows} == {"easy", "hard"}
    assert {row["ood"] for row in rows if row["is_mean"]} == {"easy", "hard"}
    assert {(row["n_id"], row["n_ood"]) for row in rows} == {(240, 240)}
    (mean,) = (row for row in rows if row["detector"] == "knn" and row["ood"] == "hard")
    aurocs = {row["ood"]: row["auroc"] for row in rows if row["detector"] == "knn"}
    assert mean["gap"] == pytest.approx(aurocs["bright"] - aurocs["dim"])
    assert mean["gap_low"] < mean["gap"] < mean["gap_high"]


def test_an_option_of_the_task_is_in_the_rows(runs: dict[str, Any]) -> None:
    corner, all_four = (json.loads(runs[name]["out"])["rows"] for name in ("corner", "eval"))
    assert {(row["corner"], row["n_id"]) for row in corner} == {(1, 60)}
    assert {row["corner"] for row in all_four} == {None}
    assert not {row["row_id"] for row in corner} & {row["row_id"] for row in all_four}
    assert runs["wrong"]["status"] == 2
    assert "no option 'side'" in runs["wrong"]["error"]
    assert "corner" in runs["wrong"]["error"]


def test_tuning_and_comparing_score_quarters(runs: dict[str, Any]) -> None:
    (choice,) = json.loads(runs["tune"]["out"])["choices"]
    assert all(0 <= trial["auroc"] <= 1 for trial in choice["trials"] if not trial["refused"])
    rows = json.loads(runs["compare"]["out"])["rows"]
    assert {row["backbone"] for row in rows} == {"tiny-net"}
    assert {row["n_ood"] for row in rows} == {240}


def test_its_page_has_its_words(runs: dict[str, Any]) -> None:
    page = runs["page"]["out"]
    assert "quarters" in page
    for title in ("easy", "hard"):
        assert title in page
