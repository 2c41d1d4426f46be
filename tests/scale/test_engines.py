"""Engines: what they ask of Ray and SLURM, and what they say of work that fails or is left."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oodbench.errors import OptionError
from oodbench.scale import records
from oodbench.scale.engines import Local, Ray, Requeued, Slurm, create_engine
from oodbench.scale.matrix import Cell
from oodbench.scale.work import Work
from tests.helpers.matrices import until


@dataclass
class Cluster:
    """What the engine asks of Ray, done in this process and noted; the last task ends first."""

    is_initialized_already: bool = False
    addresses: list[str | None] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    most: int = 0
    ended: list[Any] = field(default_factory=list)
    cancelled: list[Any] = field(default_factory=list)

    def is_initialized(self) -> bool:
        return self.is_initialized_already

    def init(self, address: str | None, log_to_driver: bool) -> None:
        self.addresses.append(address)

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.options = options
        return lambda function: SimpleNamespace(remote=lambda one: (function, one))

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        self.most = max(self.most, len(references))
        return references[-num_returns:], references[:-num_returns]

    def get(self, reference: Any) -> None:
        self.ended.append(reference[1])
        reference[0](reference[1])

    def cancel(self, reference: Any) -> None:
        self.cancelled.append(reference[1])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setitem(sys.modules, "ray", made)
    return made


@dataclass(frozen=True)
class Task:
    """Work of a test: ends well, or with an error of that text."""

    number: int
    error: str | None = None

    def __call__(self) -> None:
        if self.error is not None:
            raise RuntimeError(self.error)


def tasks(*errors: str | None) -> list[Any]:
    return [Task(number, error) for number, error in enumerate(errors)]


@pytest.mark.parametrize(("jobs", "most"), [(0, 5), (2, 2), (9, 5)])
def test_ray_runs_all_and_no_more_than_so_many_at_a_time(
    jobs: int, most: int, cluster: Cluster, tmp_path: Path
) -> None:
    engine = create_engine("ray", tmp_path, jobs, {"address": "here:1", "num_gpus": 1})
    work = tasks(None, None, None, None, None)
    assert sorted(engine.run(work), key=lambda ended: ended[0].number) == [
        (one, None) for one in work
    ]
    assert cluster.most == most
    assert cluster.addresses == ["here:1"]
    assert cluster.options == {"num_cpus": 1, "max_retries": 3, "num_gpus": 1}
    assert cluster.cancelled == []


def test_ray_that_is_connected_already_is_used(cluster: Cluster) -> None:
    cluster.is_initialized_already = True
    assert [why for _, why in Ray().run(tasks(None))] == [None]
    assert cluster.addresses == []


def test_ray_says_in_a_line_why_a_task_failed(cluster: Cluster) -> None:
    long = "x" * 1000
    found = Ray(1).run(
        tasks("a traceback\n  of many lines\nits node was lost \n\n", "", long, None)
    )
    assert [why for _, why in found] == ["its node was lost", "RuntimeError", "x" * 300, None]


def test_ray_cancels_what_is_left_when_nobody_wants_it(cluster: Cluster) -> None:
    work = tasks(None, None, None, None)
    running = Ray(2).run(work)
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert cluster.ended == [work[1]]
    assert cluster.cancelled == [work[0]]  # the others were never asked for


class Executor:
    """What the engine asks of submitit: jobs that run in this process when they are waited for."""

    made: list[Executor]

    def __init__(self, folder: str, cluster: str) -> None:
        self.folder, self.cluster, self.parameters = folder, cluster, {}
        self.jobs: list[SimpleNamespace] = []
        self.made.append(self)

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters = parameters

    def submit(self, function: Any, one: Any) -> Any:
        job = Job(function, one)
        self.jobs.append(job)
        return job


class Job:
    def __init__(self, function: Any, one: Any) -> None:
        self.function, self.one, self.is_cancelled = function, one, False

    def result(self) -> None:
        self.function(self.one)

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    def as_completed(jobs: list[Any], poll_frequency: float) -> Iterator[Any]:
        yield from jobs

    Executor.made = []
    stand_in = SimpleNamespace(
        AutoExecutor=Executor, helpers=SimpleNamespace(as_completed=as_completed)
    )
    monkeypatch.setitem(sys.modules, "submitit", stand_in)
    return Executor.made


def test_slurm_says_in_a_line_why_a_job_failed(executors: list[Any], tmp_path: Path) -> None:
    engine = create_engine("slurm", tmp_path, 0, {"partition": "short"})
    assert isinstance(engine, Slurm)
    found = list(engine.run(tasks("Job 7 failed:\nout of time", None)))
    assert [why for _, why in found] == ["out of time", None]
    (executor,) = executors
    assert executor.cluster == "slurm"
    assert executor.parameters == {"timeout_min": 24 * 60, "partition": "short"}


def test_slurm_cancels_what_is_left_when_nobody_wants_it(
    executors: list[Any], tmp_path: Path
) -> None:
    running = create_engine("slurm", tmp_path, 2).run(tasks(None, None, None, None))
    next(running)
    running.close()  # type: ignore[attr-defined]
    (executor,) = executors
    assert executor.parameters["slurm_array_parallelism"] == 2
    assert [job.is_cancelled for job in executor.jobs] == [False, True, True, True]


def test_a_job_that_is_told_to_end_is_queued_again_as_it_was() -> None:
    pytest.importorskip("submitit", reason="the extra slurm has it")
    (one,) = tasks("it ran")
    again = Requeued().checkpoint(one)
    with pytest.raises(RuntimeError, match="it ran"):
        again.function(*again.args, **again.kwargs)


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_devices_are_named_for_processes_of_this_machine_alone(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"for the engine local; {name} gives each cell its own"):
        create_engine(name, tmp_path, 1, devices=["0"])


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    told = rf"the engine needs {package}: pip install 'oodbench\[{name}\]', on all machines"
    with pytest.raises(OptionError, match=told):
        create_engine(name, tmp_path, 1)


@dataclass(frozen=True)
class Python(Work):
    """Work that runs some Python, where its own would evaluate a cell."""

    code: str = ""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-S", "-c", self.code]


def python(folder: Path, code: str, seed: int = 0) -> Python:
    cell = Cell("digits", ("msp",), "ce", "digits-cnn", seed)
    log = records.log_of(folder, cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    return Python(str(folder), str(folder), cell, code=code)


SLEEP = """
import os, pathlib, time
part = pathlib.Path({ready!r} + ".part")
part.write_text(str(os.getpid()))
part.rename({ready!r})
time.sleep(600)
"""


def test_local_ends_its_processes_when_nobody_wants_them(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(ready)!r}).exists(): time.sleep(.01)"
    work = [
        python(tmp_path, wait, 0),
        python(tmp_path, SLEEP.format(ready=str(ready)), 1),
        python(tmp_path, "", 2),
    ]
    running = Local(2).run(work)
    assert next(running) == (work[0], None)
    running.close()  # type: ignore[attr-defined]

    def is_gone() -> bool:
        try:
            os.kill(int(ready.read_text()), 0)
        except ProcessLookupError:
            return True
        return False

    until(is_gone, "the end of the process")


def test_work_that_ends_badly_says_how_and_where_its_log_is(tmp_path: Path) -> None:
    python(tmp_path, "print('all is well')")()
    failing = python(tmp_path, "import sys; print('so far'); sys.exit(3)", 1)
    log = records.log_of(tmp_path, failing.cell)
    with pytest.raises(RuntimeError, match="ended with exit status 3, before the cell was done"):
        failing()
    assert log.read_text() == "so far\n"


def test_work_that_is_interrupted_ends_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that does not listen to a polite signal."""
    monkeypatch.setattr("oodbench.scale.work.PATIENCE", 0.05)
    ready, started = tmp_path / "ready", []
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    work = python(tmp_path, deaf + SLEEP.format(ready=str(ready)))
    start = Python.start

    def interrupted(self: Python) -> Any:
        process = start(self)
        started.append(process)
        until(ready.exists, "the process")
        wait, calls = process.wait, iter([KeyboardInterrupt()])

        def once(timeout: float | None = None) -> int:
            for error in calls:
                raise error
            return wait(timeout)

        process.wait = once  # type: ignore[method-assign]
        return process

    monkeypatch.setattr(Python, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        work()
    (process,) = started
    assert process.wait(60) == -9
