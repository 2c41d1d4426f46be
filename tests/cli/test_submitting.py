"""``oodbench submit``: what it makes, says and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from oodbench import cli
from oodbench.registry import BENCHMARKS
from tests.helpers.cli import CLI
from tests.helpers.rows import TOY, evaluate

CARD = [
    *("--who", "A. Body", "--contact", "a@body.org", "--paper", "none", "--code", "none"),
    *("--licence", "none", "--weights", "none", "--outlier-data", "none"),
    *("--test-time-adaptation", "none", "--tuned-on", "nothing"),
]


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The leaderboards with energy and msp, and those of somebody who has maxlogit."""
    monkeypatch.setitem(BENCHMARKS._objects, "toy", TOY)
    evaluate(detectors=["energy", "msp"], leaderboards=tmp_path / "leaderboards")
    evaluate(detectors=["maxlogit"], leaderboards=tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_result_to_a_pull_request(run: CLI, boards: Path) -> None:
    ran = run("submit", "maxlogit", "--from", "own", "--out", "new", *CARD)
    assert ran.status == 0, ran.both
    assert "passes" in ran.out
    assert "of 3 results on the same images" in ran.out
    assert "SUBMITTING.md has the steps" in ran.out
    ran = run("submit", "--check", "new")
    assert ran.status == 0
    assert "1 submitted results hold" in ran.out
    shutil.copytree(boards / "new" / "results", boards / "leaderboards/results", dirs_exist_ok=True)
    assert run("submit", "--check", "leaderboards").status == 0
    assert run("verify", "leaderboards/results").status == 0
    ran = run("submit", "--check", "new", "--json")
    assert ran.status == cli.SOME_FAILED
    (found,) = json.loads(ran.out)["results"]
    assert "once more" in found["faults"][0]
    card = next((boards / "leaderboards/results/toy").glob("maxlogit-*.card.toml"))
    ran = run("submit", "energy", "--out", "again", "--card", card, "--remark", "x")
    assert ran.status == cli.SOME_FAILED
    assert "Nothing was made" in ran.out
    assert not (boards / "again").exists()
    next((boards / "leaderboards/results/toy").glob("maxlogit-*.json")).unlink()
    assert run("submit", "--check", "leaderboards").status == cli.SOME_FAILED


def test_what_is_refused(run: CLI, boards: Path) -> None:
    assert "--contact" in run.refuses(
        "submit", "maxlogit", "--from", "own", "--out", "n", "--who", "A"
    )
    assert "--check FOLDER" in run.refuses("submit", "maxlogit", "--from", "own")
    assert "there is no folder" in run.refuses("submit", "--check", "nowhere")
    assert "leave out" in run.refuses("submit", "maxlogit", "--check", "own")
    assert "go with --check" in run.refuses("submit", "x", "--out", "n", "--base", "HEAD")
    assert "is no address" in run.refuses(
        "submit", "maxlogit", "--from", "own", "--out", "n", *CARD, "--contact", "me"
    )
    assert "is there already" in run.refuses(
        "submit", "maxlogit", "--from", "own", "--out", "own", *CARD
    )
