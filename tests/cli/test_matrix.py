"""``oodbench matrix``: what it prints, asks of the engine, and leaves on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oodbench import cli
from oodbench.scale import engines, records
from tests.helpers.cli import CLI
from tests.helpers.matrices import Here, figures, matrix, rows


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Here:
    """Cells run in this process, whichever engine is asked for."""
    here = Here()
    here.asked = []  # type: ignore[attr-defined]

    def create(*asked: Any) -> Here:
        here.asked.append(asked)  # type: ignore[attr-defined]
        return here

    monkeypatch.setattr(engines, "create_engine", create)
    return here


def test_plan_run_status(run: CLI, engine: Here, tmp_path: Path) -> None:
    asked, boards = matrix(tmp_path), tmp_path / "boards"
    said = run("matrix", "plan", asked.path)
    assert said.status == 0
    header, *cells, last = [line.split() for line in said.out.splitlines() if line.strip()]
    assert header[:4] == ["benchmark", "network", "seed", "detectors"]
    of_seeds = [cell for cell in cells if cell[0] == "digits"]
    assert [cell[cell.index("ce") + 1] for cell in of_seeds] == ["0", "1"]
    assert last == "2 cells: 2 waiting".split()
    (one, two) = json.loads(run("matrix", "plan", asked.path, "--json").out)["cells"]
    assert (one["state"], one["detectors"], two["cell"]["seed"]) == ("waiting", 2, 1)
    assert engine.ran == [], "nothing is run"

    options = ["--engine", "ray", "--jobs", "3", "--device", "0,2"]
    own = ["--engine-set", "num_gpus=0.5", "--engine-set", "cpus=2", "--engine-set", "name=a=b"]
    ran = run("matrix", "run", asked.path, "--leaderboards", boards, *options, *own)
    assert ran.status == 0, ran.both
    assert engine.asked == [  # type: ignore[attr-defined]
        ("ray", asked.folder, 3, {"num_gpus": 0.5, "cpus": 2, "name": "a=b"}, ["0", "2"])
    ]
    assert ran.out.splitlines()[-1] == "2 cells: 2 done"
    assert {row["seed"] for row in rows(boards)} == {0, 1}
    assert run("matrix", "status", asked.path).out.splitlines() == ["2 cells: 2 done"]
    told = json.loads(run("matrix", "status", asked.path, "--json").out)["cells"]
    assert [cell["state"] for cell in told] == ["done", "done"]
    assert all(cell["attempts"] == 1 for cell in told)


def test_what_fails_is_named_and_is_the_status(run: CLI, engine: Here, tmp_path: Path) -> None:
    asked = matrix(tmp_path)
    engine.dies = {1: 2}
    command = ["matrix", "run", asked.path, "--leaderboards", tmp_path / "boards"]
    ran = run(*command)
    assert ran.status == cli.SOME_FAILED
    name = asked.cells[1].name
    assert f"failed: {name} (2 times): its process ended with signal 9" in ran.out
    assert "2 cells: 1 done, 1 failed" in ran.out
    assert "minutes are left" in ran.out
    failed = run("matrix", "status", asked.path)
    assert f"failed: {name}" in failed.out
    assert failed.status == 0, "asking is no failure"
    engine.dies = {1: 1}
    ran = run(*command, "--retries", "0", "--json")
    assert ran.status == cli.SOME_FAILED
    states = [cell["state"] for cell in json.loads(ran.out)["cells"]]
    assert states == ["done", "failed"], "JSON alone"
    assert run(*command).out.splitlines()[-1] == "2 cells: 2 done"


def test_another_machines_results_come_in(run: CLI, engine: Here, tmp_path: Path) -> None:
    there = matrix(tmp_path / "there")
    run("matrix", "run", there.path, "--leaderboards", tmp_path / "there" / "boards")
    here = matrix(tmp_path / "here")
    boards = tmp_path / "here" / "boards"
    sources = [tmp_path / "there" / "boards", there.folder]
    said = run("matrix", "merge", here.path, *sources, "--leaderboards", boards)
    assert said.out.splitlines() == ["4 results and 2 cells came in that were not here"]
    assert figures(boards) == figures(tmp_path / "there" / "boards")
    assert run("matrix", "status", here.path).out.splitlines() == ["2 cells: 2 done"]
    again = run("matrix", "merge", here.path, *sources, "--leaderboards", boards)
    assert again.out.splitlines() == ["0 results and 0 cells came in that were not here"]
    assert records.read(here.folder, here.cells[0]).state == records.DONE


@pytest.mark.parametrize("text", ["num_gpus", "=1", ""])
def test_an_engines_option_without_a_value(
    run: CLI, engine: Here, tmp_path: Path, text: str
) -> None:
    told = run.refuses("matrix", "run", matrix(tmp_path).path, "--engine-set", text)
    assert f"--engine-set {text}: give NAME=VALUE." in told
    assert engine.ran == []
