"""``oodbench verify``: what it prints, and its exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path

from oodbench import cli
from tests.helpers.cli import CLI
from tests.helpers.rows import evaluate


def test_what_holds_and_what_does_not(run: CLI, tmp_path: Path) -> None:
    evaluate(detectors=["energy", "msp"], leaderboards=tmp_path / "boards")
    ran = run("verify", tmp_path / "boards")
    assert ran.status == 0
    last = ran.out.splitlines()[-1]
    assert re.fullmatch(r"4 files, \d+ figures derived: 4 identical", last)
    assert "identical, 140 figures" in ran.out
    assert run("verify", tmp_path / "boards", "--quiet").out.splitlines() == [last]

    path = next((tmp_path / "boards" / "results" / "toy").glob("msp-*.json"))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    ran = run("verify", tmp_path / "boards", "--quiet")
    assert ran.status == cli.SOME_FAILED
    assert f"{path.name}, row 1 is not what was measured" in ran.out
    assert "energy" not in ran.out
    ran = run("verify", path, "--json")
    assert ran.status == cli.SOME_FAILED
    (verdict,) = json.loads(ran.out)
    assert verdict["outcome"] == "different"
    assert verdict["path"] == path.as_posix()


def test_without_a_path_the_leaderboards_here(run: CLI) -> None:
    evaluate(detectors="msp", leaderboards="leaderboards")
    assert run("verify").status == 0
    assert "nothing to verify" in run.refuses("verify", "elsewhere")
