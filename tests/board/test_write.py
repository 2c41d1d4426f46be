"""`oodbench leaderboard --html`: one file of all benchmarks that have results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.board.write import write
from oodbench.errors import OODBenchError, OptionError
from oodbench.results.store import ResultStore
from tests.conftest import REPOSITORY
from tests.helpers.cli import CLI
from tests.helpers.rows import TOY, evaluate, numbered


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def stored(folder: Path, benchmark: str, **fields: Any) -> None:
    ResultStore(folder).append([numbered(benchmark=benchmark, **fields)])  # type: ignore[list-item]


def test_all_benchmarks_with_results(tmp_path: Path, run: CLI) -> None:
    stored(tmp_path, "digits")
    stored(tmp_path, "cifar100/palm")
    out = tmp_path / "board.html"
    ran = run("leaderboard", "--html", "--out", out, "--leaderboards", tmp_path)
    assert ran.status == 0, ran.both
    assert ran.out.strip() == str(out)
    shown = data_of(out)
    assert [b["name"] for b in shown["benchmarks"]] == ["cifar100/palm", "digits"]
    assert [b["key"] for b in shown["benchmarks"]] == ["cifar100-palm", "digits"]
    assert shown["leftOut"] == []
    again = out.read_bytes()
    assert run("leaderboard", "--html", "--out", out, "--leaderboards", tmp_path).status == 0
    assert out.read_bytes() == again, "the same results give the same file"


def test_one_benchmark(tmp_path: Path, run: CLI) -> None:
    stored(tmp_path, "digits")
    stored(tmp_path, "cifar10")
    ran = run("leaderboard", "--html", "--id", "digits", "--leaderboards", tmp_path)
    assert ran.status == 0, ran.both
    shown = data_of(tmp_path / "board.html")
    assert [b["name"] for b in shown["benchmarks"]] == ["digits"]


def test_a_benchmark_that_is_not_known_is_left_out_and_said(tmp_path: Path, run: CLI) -> None:
    stored(tmp_path, "digits")
    stored(tmp_path, "of-a-plug-in")
    ran = run("leaderboard", "--html", "--leaderboards", tmp_path)
    assert ran.status == 0, ran.both
    assert "left out: of-a-plug-in" in ran.err
    shown = data_of(tmp_path / "board.html")
    assert [one["name"] for one in shown["leftOut"]] == ["of-a-plug-in"]
    assert shown["leftOut"][0]["why"]


def test_nothing_to_show_is_refused(tmp_path: Path, run: CLI) -> None:
    with pytest.raises(OptionError, match="no results to show"):
        write(tmp_path, tmp_path / "board.html")
    ran = run("leaderboard", "--html", "--leaderboards", tmp_path)
    assert ran.status == 2
    assert "--leaderboards" in ran.err
    assert not (tmp_path / "board.html").exists()


def test_out_without_html_is_refused(tmp_path: Path, run: CLI) -> None:
    ran = run("leaderboard", "--id", "digits", "--out", tmp_path / "x.html")
    assert ran.status == 2
    assert "--html" in ran.err
    assert not (tmp_path / "x.html").exists()


def test_curves_are_of_stored_scores(tmp_path: Path) -> None:
    evaluate(detectors=["msp", "energy"], leaderboards=tmp_path)
    board = write(tmp_path, tmp_path / "board.html", TOY)
    (benchmark,) = data_of(board.path)["benchmarks"]
    (part,) = benchmark["parts"]
    for one in part["entries"]:
        singles = [s["name"] for s in part["sets"] if not s["mean"]]
        assert [c["ood"] for c in one["curves"]["sets"]] == singles
        for curve in one["curves"]["sets"]:
            at = [s["name"] for s in part["sets"]].index(curve["ood"])
            grid = (np.arange(101) / 100) ** 2
            tpr = np.array(curve["roc"]) / 1000
            area = float(((tpr[1:] + tpr[:-1]) / 2 * np.diff(grid)).sum())
            assert 100 * area == pytest.approx(one["figures"][at][0][0], abs=2.5)
        assert one["runs"][0]["results"][0].endswith(".json")


def test_scores_that_were_changed_are_refused(tmp_path: Path) -> None:
    evaluate(detectors=["msp"], leaderboards=tmp_path)
    (path,) = tmp_path.rglob("*.scores.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(OODBenchError, match="changed"):
        write(tmp_path, tmp_path / "board.html", TOY)
    assert not (tmp_path / "board.html").exists()


def test_the_committed_results_make_a_board_of_moderate_size(tmp_path: Path) -> None:
    board = write(REPOSITORY / "leaderboards", tmp_path / "board.html")
    folders = [p for p in (REPOSITORY / "leaderboards" / "results").iterdir() if p.is_dir()]
    assert len(board.benchmarks) == len(folders)
    assert board.left_out == {}
    assert board.path.stat().st_size < 3_000_000
