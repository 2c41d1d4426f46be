"""What launchers of several processes leave in the environment, and when it counts.

``torchrun``, ``srun`` and others tell each process by variables which one it is. Such variables
outlive their launcher (an exported ``RANK=1``, an interactive SLURM shell, a notebook after a
training), so they count only in a run that asks for several processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import (
    LightningEnvironment,
    find_free_network_port,
)
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from oodbench.errors import OptionError


class Alone(LightningEnvironment):
    """The only process, whatever the variables say."""

    @property
    def creates_processes_externally(self) -> bool:
        """False: this process is the only one."""
        return False

    @property
    def main_address(self) -> str:
        """The address of this machine."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """A port that is free."""
        if self._main_port == -1:
            self._main_port = find_free_network_port()
        return self._main_port

    def local_rank(self) -> int:
        """0: the only process of this machine."""
        return 0

    def node_rank(self) -> int:
        """0: the only machine."""
        return 0

    def teardown(self) -> None:
        """Leave the environment variables, which are the caller's."""


class Slurm(SLURMEnvironment):
    """The tasks of one ``srun`` on one machine.

    A checkpoint that Lightning would make for another job in the middle of an epoch is not made:
    a run goes on from the end of one.
    """

    def __init__(self, tasks: int) -> None:
        super().__init__(auto_requeue=False)
        self.tasks = tasks

    def world_size(self) -> int:
        """The number of tasks of the Slurm job step."""
        return self.tasks

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """See :func:`environment`."""

    @staticmethod
    def _validate_srun_used() -> None: ...

    @staticmethod
    def _validate_srun_variables() -> None: ...


def environment(processes: int, nodes: int = 1) -> ClusterEnvironment | None:
    """What tells the processes of a run which one they are; None for what Lightning finds.

    Args:
        processes: how many the run asks for, on all machines together.
        nodes: how many machines it asks for.

    Raises:
        OptionError: SLURM started another number of them, or nothing tells the machines of each
            other.
    """
    if processes == 1:
        return Alone()
    if TorchElasticEnvironment.detect():
        return None
    tasks = _slurm_tasks() if "SLURM_NTASKS" in os.environ else 0
    if tasks > 1:
        return _slurm(tasks, processes, nodes)
    if nodes > 1:
        _check_meeting(nodes)
    # sbatch without srun, or an interactive shell: processes are started here
    return LightningEnvironment() if tasks else None


def _slurm(tasks: int, processes: int, nodes: int) -> Slurm:
    if tasks == processes:
        return Slurm(tasks)
    if nodes == 1:
        asked, fewer = f"`devices` asks for {processes}", f"`devices={tasks}`"
        srun = f"srun --ntasks={processes}"
    else:
        each = processes // nodes
        asked, fewer = f"`devices` and `nodes` ask for {nodes} x {each}", "other numbers of them"
        srun = f"srun --nodes={nodes} --ntasks-per-node={each}"
    raise OptionError(
        f"SLURM started {tasks} processes of this command, but {asked}. Ask for as many of both: "
        f"{srun}, or {fewer}."
    )


def _check_meeting(nodes: int) -> None:
    """Refuse to wait for other machines where nothing tells which they are."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if not {"NODE_RANK", "GROUP_RANK"} & set(os.environ):
        missing.append("NODE_RANK")
    if missing:
        raise OptionError(
            f"`nodes={nodes}`, but nothing tells this machine which the others are: "
            f"{', '.join(missing)} not set. Start the command on each machine by srun or torchrun, "
            "or with MASTER_ADDR (the first machine's address), MASTER_PORT (one of its ports) and "
            f"NODE_RANK (0 on the first, up to {nodes - 1})."
        )


def _slurm_tasks() -> int:
    """How many tasks the step has that this process belongs to; 1 outside of one."""
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return 1
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS" if "SLURM_STEP_ID" in os.environ else ""):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 1


@contextlib.contextmanager
def without_defaults() -> Iterator[None]:
    """Without ``PL_TRAINER_*``, by which variables change options that were not given.

    Such a one would train or look at a part of the data, and the cache would take it for whole.
    """
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name[:11] == "PL_TRAINER_"}
    try:
        yield
    finally:
        os.environ.update(kept)
