"""``oodbench rate``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.cli import CLI
from tests.helpers.results import drawn, stored_result


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    ids, own = drawn(1, 1.5)
    np.save(tmp_path / "a.npy", ids)
    for name, values in own.items():
        np.save(tmp_path / f"{name}.npy", values)
    np.save(tmp_path / "labels.npy", np.zeros(len(ids), int))
    np.save(tmp_path / "decisions.npy", np.arange(len(ids)) % 4)
    return tmp_path


def test_figures_a_comparison_and_a_page(run: CLI, arrays: Path) -> None:
    other = stored_result(arrays / "boards", "stored", *drawn(3, 0.5))
    given = ["--id-scores", arrays / "a.npy", "--ood-scores", f"near:near-a={arrays}/near-a.npy"]
    given += ["--ood-scores", f"far-a={arrays}/far-a.npy"]
    labels = ["--labels", arrays / "labels.npy", "--predictions", arrays / "decisions.npy"]
    ran = run("rate", *given, *labels, "--against", other.path, "--leaderboards", arrays / "own")
    assert ran.status == 0, ran.both
    assert "ID accuracy: 25.00 %" in ran.out
    assert "Told apart: mine is better than stored" in ran.out
    assert (arrays / "own" / "own-scores.md").is_file()
    rows = json.loads(run("rate", *given, "--json").out)["rows"]
    assert [row["ood"] for row in rows] == ["near-a", "far-a", "near", "far"]
    ran = run("rate", *given, "--higher", "id")
    assert "--higher id" in ran.err


def test_what_is_refused(run: CLI, arrays: Path) -> None:
    ids = ["--id-scores", arrays / "a.npy"]
    ood = ["--ood-scores", f"x={arrays}/near-a.npy"]
    assert "give the scores of the ID test set" in run.refuses("rate", *ids)
    assert "write NAME=FILE" in run.refuses("rate", *ids, "--ood-scores", "x.npy")
    assert "twice" in run.refuses("rate", *ids, *ood, *ood)
    assert "both" in run.refuses("rate", *ids, *ood, "--labels", arrays / "labels.npy")
    assert "give ood or id" in run.refuses("rate", *ids, *ood, "--higher", "x")
    assert "leave out" in run.refuses("rate", *ids, *ood, "--scores", "x.csv")
    assert "is a detector" in run.refuses("rate", *ids, *ood, "--name", "msp")
    assert "holds no scores" in run.refuses("rate", "--id-scores", "no.npy", *ood)
