"""A matrix on a cluster of Ray: nodes that are lost, and a driver that is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oodbench.scale import records
from oodbench.scale.driver import run_matrix
from oodbench.scale.engines import Local
from oodbench.scale.matrix import Matrix
from tests.helpers.matrices import contents, matrix, rows, until

CELLS = 24


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Three nodes with room for a cell each, all on this machine."""
    pytest.importorskip("ray", reason="the extra ray has it; its cluster wants 2 GB")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache-ray"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else whatever else runs here comes first
    head = {"num_cpus": 1, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield made
    finally:
        made.shutdown()


def done(asked: Matrix) -> int:
    """How many cells are."""
    return sum(record.state == records.DONE for record in records.read_all(asked))


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_and_its_driver(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is there, none twice, each file as processes of one machine write it."""
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    asked, boards = _asked(tmp_path / "ray"), tmp_path / "ray" / "boards"
    assert len(asked.cells) == CELLS
    driver = _driver(asked, cluster.address, boards)
    until(lambda: done(asked) >= 5 or driver.poll() is not None, "the fifth cell", 900)
    assert driver.poll() is None
    driver.kill()
    driver.wait()
    before = done(asked)
    assert 5 <= before < CELLS

    driver = _driver(asked, cluster.address, boards)
    until(lambda: done(asked) >= before + 5, "five more", 900)
    cluster.remove_node(nodes[0], allow_graceful=False)
    assert done(asked) < CELLS
    assert driver.wait(timeout=1500) == 0

    assert done(asked) == CELLS
    made = rows(boards)
    assert len(made) == len({row["row_id"] for row in made})
    assert {(row["method"], row["seed"]) for row in made} == {
        (cell.method, cell.seed) for cell in asked.cells
    }
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache-local"))
    again, here = _asked(tmp_path / "local"), tmp_path / "local" / "boards"
    run_matrix(again, Local(jobs=2), here)
    assert contents(boards) == contents(here)
    assert len(contents(here)) == 2 * 2 * CELLS  # two detectors, each a result and its scores


def _asked(folder: Path) -> Matrix:
    return matrix(folder, range(CELLS // 2), methods=("ce", "logitnorm"))


def _driver(asked: Matrix, address: str, boards: Path) -> subprocess.Popen[bytes]:
    words = ["matrix", "run", str(asked.path), "--engine", "ray"]
    words += ["--engine-set", f"address={address}", "--leaderboards", str(boards)]
    command = [sys.executable, "-m", "oodbench.cli", *words]
    with (boards.parent / "driver.log").open("ab") as log:
        return subprocess.Popen(command, cwd=boards.parent, stdout=log, stderr=log)
