"""Engines that cells run on: processes of this machine, Ray, or SLURM. None of them is ours.

An engine is given work, and says of each piece as soon as it ended whether its process did; what
became of the cell is in its record. Retries are the caller's, so that they are the same everywhere.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import queue
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from oodbench.errors import OptionError, did_you_mean
from oodbench.scale import records
from oodbench.scale.work import Work, died

Ended = tuple[Work, str | None]
"""Work whose process ended, and why before its time; None if it ended by itself."""


class Engine(Protocol):
    """What runs work, here or elsewhere."""

    def run(self, work: Sequence[Work]) -> Iterator[Ended]:
        """Run all of it; each piece as soon as it ended, in whatever order."""


@dataclass
class Local:
    """Processes of this machine, one a cell.

    Args:
        jobs: how many at a time.
        devices: numbers of CUDA devices, of which each process sees one; none for all of them.
    """

    jobs: int = 1
    devices: Sequence[str] = ()

    def run(self, work: Sequence[Work]) -> Iterator[Ended]:
        """Run all of it; where this ends early, the processes are ended too."""
        free: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for number in range(self.jobs):
            free.put(self.devices[number % len(self.devices)] if self.devices else None)
        running: set[subprocess.Popen[bytes]] = set()

        def do(one: Work) -> Ended:
            device = free.get()
            try:
                seen = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
                process = replace(one, variables={**one.variables, **seen}).start()
                running.add(process)
                code = process.wait()
                running.discard(process)
            finally:
                free.put(device)
            log = records.log_of(Path(one.folder), one.cell)
            return one, None if code == 0 else died(code, log)

        pool = concurrent.futures.ThreadPoolExecutor(self.jobs)
        try:
            for future in concurrent.futures.as_completed([pool.submit(do, one) for one in work]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()


@dataclass
class Ray:
    """Tasks of Ray, which finds nodes for them and replaces those that are lost.

    Args:
        jobs: how many at a time at most; 0 for as many as the cluster has room for.
        options: of ``ray.remote``, such as ``num_cpus`` and ``num_gpus``.
        address: of the cluster; None for the one that Ray knows of, or one of this machine.
    """

    jobs: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None

    def run(self, work: Sequence[Work]) -> Iterator[Ended]:
        """Run all of it; a task whose node is lost is run on another."""
        ray = _required("ray", "ray")
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False)
        remote = ray.remote(**{"num_cpus": 1, "max_retries": 3, **self.options})(_run)
        waiting = list(reversed(work))
        running: dict[Any, Work] = {}
        try:
            while waiting or running:
                while waiting and (not self.jobs or len(running) < self.jobs):
                    one = waiting.pop()
                    running[remote.remote(one)] = one
                (done, *_), _ = ray.wait(list(running), num_returns=1)
                one = running.pop(done)
                try:
                    ray.get(done)
                except Exception as error:  # whatever Ray makes of a task that failed
                    yield one, _in_a_line(error)
                else:
                    yield one, None
        finally:
            for reference in running:
                ray.cancel(reference)


@dataclass
class Slurm:
    """Jobs of SLURM, by submitit.

    Args:
        folder: of the jobs' logs, which all nodes see.
        jobs: how many at a time at most; 0 for as many as SLURM starts.
        options: of submitit, such as ``timeout_min``, ``slurm_partition``, ``gpus_per_node``.
        cluster: ``"slurm"``; ``"local"`` runs jobs as processes here, as a rehearsal.
    """

    folder: Path
    jobs: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    cluster: str = "slurm"

    def run(self, work: Sequence[Work]) -> Iterator[Ended]:
        """Run all of it; a job whose time is up, or whose node is wanted, is queued again."""
        submitit = _required("submitit", "slurm")
        executor = submitit.AutoExecutor(folder=str(self.folder), cluster=self.cluster)
        options = dict(self.options)
        if self.jobs:
            options.setdefault("slurm_array_parallelism", self.jobs)
        executor.update_parameters(**{"timeout_min": 24 * 60, **options})
        waiting = list(reversed(work))
        running: dict[Any, Work] = {}
        # processes of this machine wait for each other here: there is no queue that they stand in
        most = self.jobs if self.cluster == "local" and self.jobs else len(waiting)
        try:
            while waiting or running:
                while waiting and len(running) < most:
                    one = waiting.pop()
                    running[executor.submit(Requeued(), one)] = one
                job = next(iter(submitit.helpers.as_completed(list(running), poll_frequency=1)))
                one = running.pop(job)
                try:
                    job.result()
                except Exception as error:  # whatever submitit makes of a job that failed
                    yield one, _in_a_line(error)
                else:
                    yield one, None
        finally:
            for job in running:
                job.cancel()


NAMES = ("local", "ray", "slurm")


def create_engine(
    name: str,
    folder: Path,
    jobs: int,
    options: Mapping[str, Any] | None = None,
    devices: Sequence[str] = (),
) -> Engine:
    """The engine of that name.

    Args:
        name: ``local``, ``ray`` or ``slurm``.
        folder: of the records.
        jobs: how many cells at a time; 0 for the engine's own choice.
        options: the engine's own.
        devices: numbers of CUDA devices of this machine.

    Raises:
        OptionError: no such engine, or its package is not installed.
    """
    given = dict(options or {})
    if name == "local":
        if given:
            raise OptionError(
                "the engine local has no options of its own: say how many jobs, and which devices."
            )
        return Local(jobs or max(len(devices), 1), devices)
    if devices:
        raise OptionError(
            f"devices are named for the engine local; {name} gives each cell its own, by the "
            "engine's option num_gpus=1 (ray) or gpus_per_node=1 (slurm)."
        )
    if name == "ray":
        _required("ray", "ray")
        address = given.pop("address", None)
        return Ray(jobs, given, address)
    if name == "slurm":
        _required("submitit", "slurm")
        cluster = str(given.pop("cluster", "slurm"))
        return Slurm(folder / "slurm", jobs, given, cluster)
    raise OptionError(
        f"there is no engine {name!r}.{did_you_mean(name, NAMES)} Engines: {', '.join(NAMES)}."
    )


def _run(work: Work) -> None:
    work()


class Requeued:
    """A job that submitit queues again when it is told to end: training goes on where it was."""

    def __call__(self, work: Work) -> None:
        """Run the work."""
        work()

    def checkpoint(self, work: Work) -> Any:
        """The job that takes the place of this one: the same, as all that it made is on disk."""
        return _required("submitit", "slurm").helpers.DelayedSubmission(self, work)


def _required(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise OptionError(
            f"the engine needs {package}: pip install 'oodbench[{extra}]', on all machines."
        ) from error


def _in_a_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
