"""Running a matrix: cells that die, fail, are done already, or come from another machine."""

from __future__ import annotations

import importlib.util
import os
import runpy
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import oodbench
from oodbench import Hardware
from oodbench.errors import OODBenchError, OptionError
from oodbench.results.store import ResultStore
from oodbench.scale import records
from oodbench.scale.driver import cost_of, merge, run_matrix
from oodbench.scale.engines import Local, Slurm, create_engine
from oodbench.scale.work import Work
from tests.helpers import jobs
from tests.helpers.attempts import Server
from tests.helpers.matrices import Here, figures, matrix, rows, until


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all tests share, so that each network is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(trained))
    monkeypatch.delenv("OODBENCH_LEADERBOARDS", raising=False)


def test_a_matrix_gives_what_evaluations_give_and_runs_no_cell_twice(tmp_path: Path) -> None:
    asked, boards, engine, lines = matrix(tmp_path), tmp_path / "boards", Here(), []
    found = run_matrix(asked, engine, boards, report=lines.append)
    assert [one.state for one in found] == [records.DONE] * 2
    assert engine.ran == [0, 1]
    assert (boards / "digits.md").is_file()
    assert len(list(ResultStore(boards).path("digits").glob("*.json"))) == 4

    alone = tmp_path / "alone"
    for seed in (0, 1):
        oodbench.evaluate(
            benchmark="digits",
            detectors=["msp", "energy"],
            method="ce",
            seed=seed,
            recipe="quick",
            recipe_options={"epochs": 1},
            ood=["digits-6-9"],
            hardware=Hardware("cpu", "1", progress=False),
            leaderboards=alone,
        )
    assert figures(boards) == figures(alone)
    names = [
        sorted(p.name for p in ResultStore(b).path("digits").iterdir()) for b in (boards, alone)
    ]
    assert names[0] == names[1]

    before = {p: p.read_bytes() for p in (boards / "results").rglob("*") if p.is_file()}
    run_matrix(asked, engine, boards, report=lines.append)
    assert engine.ran == [0, 1]
    assert lines[-1] == "2 of 2 cells are done already"
    assert before == {p: p.read_bytes() for p in (boards / "results").rglob("*") if p.is_file()}


def test_a_cell_that_dies_is_tried_again_after_the_others(tmp_path: Path) -> None:
    asked, boards, engine = matrix(tmp_path), tmp_path / "boards", Here({0: 1})
    found = run_matrix(asked, engine, boards, retries=1)
    assert engine.ran == [0, 1, 0]
    assert [(one.state, one.attempts) for one in found] == [(records.DONE, 2), (records.DONE, 1)]
    assert len({row["seed"] for row in rows(boards)}) == 2


def test_what_fails_is_told_and_tried_by_the_next_run(tmp_path: Path) -> None:
    asked, boards, engine = matrix(tmp_path), tmp_path / "boards", Here({1: 2})
    found = run_matrix(asked, engine, boards, retries=1)
    assert engine.ran == [0, 1, 1]
    assert [one.state for one in found] == [records.DONE, records.FAILED]
    assert "signal 9" in found[1].reason
    assert found[1].attempts == 2
    assert {row["seed"] for row in rows(boards)} == {0}  # the finished cell is not lost
    assert records.seconds_left(found) == pytest.approx(found[0].seconds)
    found = run_matrix(asked, engine, boards)
    assert engine.ran == [0, 1, 1, 1]
    assert [one.state for one in found] == [records.DONE] * 2


def test_a_cell_whose_detector_or_data_fails(tmp_path: Path) -> None:
    asked, lines = matrix(tmp_path, [0], ood="absent-set"), []
    (found,) = run_matrix(asked, Here(), tmp_path / "boards", retries=0, report=lines.append)
    assert found.state == records.FAILED
    assert "absent-set" in found.reason
    assert "absent-set" in lines[-1]


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    asked, engine = matrix(tmp_path, [0]), Here()
    run_matrix(asked, engine, tmp_path / "boards")
    path = records.path_of(asked.folder, asked.cells[0])
    path.write_text("{")
    run_matrix(asked, engine, tmp_path / "boards")
    assert engine.ran == [0, 0]
    assert len(rows(tmp_path / "boards")) == len({r["row_id"] for r in rows(tmp_path / "boards")})


def test_what_was_run_elsewhere_is_merged_once(tmp_path: Path) -> None:
    mine, theirs = matrix(tmp_path / "mine"), matrix(tmp_path / "theirs")
    boards, other = tmp_path / "mine" / "leaderboards", tmp_path / "theirs" / "leaderboards"
    run_matrix(matrix(tmp_path / "theirs", [1]), Here(), other)
    run_matrix(matrix(tmp_path / "mine", [0]), Here(), boards)
    mine = matrix(tmp_path / "mine")
    assert merge(mine, [tmp_path / "theirs"], boards) == (2, 1)
    assert merge(mine, [tmp_path / "theirs"], boards) == (0, 0)
    assert {row["seed"] for row in rows(boards)} == {0, 1}
    assert [one.state for one in records.read_all(mine)] == [records.DONE] * 2
    assert all(result.scores is not None for result in ResultStore(boards).results("digits"))
    with pytest.raises(OptionError, match="neither results nor records"):
        merge(mine, [tmp_path], boards)
    scores = next(ResultStore(other).path("digits").glob("*.safetensors"))
    scores.write_bytes(scores.read_bytes()[:-1] + b"x")
    with pytest.raises(OODBenchError, match="not what"):
        merge(theirs, [other], tmp_path / "third")


def test_a_plan_says_what_a_cell_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    asked = matrix(tmp_path, [0])
    cost = cost_of(asked.cells[0])
    assert (cost.detectors, cost.problem) == (2, "")
    assert cost.images > 100
    assert "epoch" in cost.training
    run_matrix(asked, Here(), tmp_path / "boards")
    assert cost_of(asked.cells[0]).training == "trained already"
    assert "absent-set" in cost_of(matrix(tmp_path, [0], "absent-set").cells[0]).problem


# Engines


def job(*command: str) -> None:
    """A cell in this process, as its command runs it."""
    _, flag, module, *words = command
    assert flag == "-m"
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Forked:
    """A process of the server that runs a cell, and has imported everything already."""

    one_at_a_time = threading.Lock()

    def __init__(self, server: Server, work: Work) -> None:
        self.server, self.work = server, work

    def wait(self) -> int:
        with self.one_at_a_time:
            ran = self.server.ran(f"{__name__}:job", *self.work.command)
        records.log_of(Path(self.work.folder), self.work.cell).write_text(ran.both)
        return ran.status


class Child:
    """The same, a process of the driver."""

    def __init__(self, work: Work) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            with records.log_of(Path(work.folder), work.cell).open("wb") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            job(*work.command)  # which ends this process
            os._exit(0)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


COMMAND_IS_TRIED = importlib.util.find_spec("submitit") is not None
"""By the test with submitit: a new process that imports everything. If not, by the next one."""


def driver(*words: str) -> None:
    """The command line, whose workers have imported everything already where that is enough."""
    if COMMAND_IS_TRIED:
        Work.start = lambda self: Child(self)  # type: ignore[assignment,method-assign,return-value]
    jobs.command(*words)


def test_local_processes_and_a_worker_that_is_killed(server: Server, tmp_path: Path) -> None:
    """That a worker's command starts one, ``COMMAND_IS_TRIED`` says where."""
    asked, boards = matrix(tmp_path), tmp_path / "boards"
    engine = Local(jobs=2)
    killed: list[int] = []
    start = Work.start

    def kills(self: Work) -> Any:
        if self.cell.seed == 1 and not killed:
            process = start(self)
            killed.append(process.pid)
            process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            return process
        return Forked(server, self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "start", kills)
        found = run_matrix(asked, engine, boards, retries=1)
    assert killed
    assert [(one.state, one.attempts) for one in found] == [(records.DONE, 1), (records.DONE, 2)]
    here = tmp_path / "here"
    asked.folder.rename(tmp_path / "before")
    run_matrix(asked, Here(), here)
    assert figures(boards) == figures(here)
    assert "sees" in records.log_of(tmp_path / "before", asked.cells[0]).read_text()


@pytest.mark.skipif(os.name != "posix", reason="a process that is killed at once is POSIX's")
def test_a_driver_that_is_killed_loses_no_finished_cell(
    server: Server, trained: Path, tmp_path: Path
) -> None:
    asked, boards = matrix(tmp_path), tmp_path / "boards"
    first = records.path_of(asked.folder, asked.cells[0]).relative_to(tmp_path)
    words = ("matrix", "run", str(asked.path), "--leaderboards", str(boards))
    when = {"kill_after": 0, "once": str(first), "watched": tmp_path}
    code, _ = server.run(f"{__name__}:driver", *words, cache=trained, **when)
    assert code == -signal.SIGKILL
    assert records.read(asked.folder, asked.cells[0]).state == records.DONE
    engine = Here()
    found = run_matrix(asked, engine, boards)
    assert 0 not in engine.ran
    assert [one.state for one in found] == [records.DONE] * 2
    assert len(rows(boards)) == len({row["row_id"] for row in rows(boards)})
    assert {row["seed"] for row in rows(boards)} == {0, 1}


def test_slurm_by_submitits_local_executor(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="the extra slurm has it")
    asked, boards = matrix(tmp_path, [0]), tmp_path / "boards"
    engine = create_engine("slurm", asked.folder, 1, {"cluster": "local", "timeout_min": 5})
    assert isinstance(engine, Slurm)
    (found,) = run_matrix(asked, engine, boards)
    assert found.state == records.DONE
    assert {row["seed"] for row in rows(boards)} == {0}


def _task_of(job: int) -> int:
    """The process of a submitit job that runs its function; its controller starts it."""
    (child,) = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    return int(child)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it looks for the processes of jobs in /proc")
@pytest.mark.parametrize("how", ["SIGUSR2", "SIGKILL"])
def test_a_job_that_is_preempted_or_killed(tmp_path: Path, how: str) -> None:
    """By the signal that SLURM warns with it is queued again, its work resumed; killed, retried."""
    pytest.importorskip("submitit", reason="the extra slurm has it")
    asked, boards = matrix(tmp_path, [0, 1]), tmp_path / "boards"
    options = {"cluster": "local", "timeout_min": 60}
    engine = create_engine("slurm", asked.folder, 1, options)
    killed: list[int] = []

    def kill() -> None:
        log = records.log_of(asked.folder, asked.cells[0])
        until(lambda: log.is_file() and log.stat().st_size, "the first line of the cell", 600)
        (submitted,) = (asked.folder / "slurm").glob("*_submitted.pkl")
        job = int(submitted.name.partition("_")[0])
        killed.append(job)
        os.kill(_task_of(job), getattr(signal, how))

    killer = threading.Thread(target=kill)
    killer.start()
    found = run_matrix(asked, engine, boards, retries=1)
    killer.join()
    assert [one.state for one in found] == [records.DONE] * 2
    made = rows(boards)
    assert {row["seed"] for row in made} == {0, 1}
    assert len(made) == len({row["row_id"] for row in made}) == 8
    (job,) = killed
    told = "".join(p.read_text() for p in (asked.folder / "slurm").glob(f"{job}_0_log.*"))
    assert ("Requeued job" in told) is (how == "SIGUSR2")
    here = tmp_path / "here"
    asked.folder.rename(tmp_path / "before")
    run_matrix(asked, Here(), here)
    assert figures(boards) == figures(here)


def test_engines_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no engine .locl.\. Did you mean .local."):
        create_engine("locl", tmp_path, 1)
    with pytest.raises(OptionError, match="no options of its own"):
        create_engine("local", tmp_path, 1, {"num_gpus": 1})
    engine = create_engine("local", tmp_path, 0, devices=["0", "1"])
    assert isinstance(engine, Local)
    assert (engine.jobs, list(engine.devices)) == (2, ["0", "1"])


def test_each_local_process_sees_its_own_device(tmp_path: Path) -> None:
    asked = matrix(tmp_path, [0, 1, 2])
    seen: list[str] = []

    class Process:
        def wait(self) -> int:
            return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Work,
            "start",
            lambda self: seen.append(self.variables["CUDA_VISIBLE_DEVICES"]) or Process(),
        )
        work = [Work(str(tmp_path), str(tmp_path), cell) for cell in asked.cells]
        ended = list(Local(jobs=2, devices=["3", "5"]).run(work))
    assert {why for _, why in ended} == {None}
    assert len(seen) == 3
    assert set(seen) == {"3", "5"}
