"""Variables that launchers leave behind count only in a run that asks for several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only

from oodbench import Hardware
from oodbench.errors import OptionError
from oodbench.hardware import gathered, is_distributed, is_first_process
from oodbench.results.store import ResultStore
from oodbench.runtime.launchers import environment
from oodbench.training.train import train
from tests.helpers.attempts import Server
from tests.helpers.training import short, tiny

TORCHRUN = (
    "TORCHELASTIC_RUN_ID=x RANK=1 LOCAL_RANK=1 GROUP_RANK=0 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 "
    "MASTER_ADDR=127.0.0.1 MASTER_PORT=29999"
)
SLURM = "SLURM_JOB_ID=7 SLURM_NTASKS=2 SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NODEID=0"
STEP = f"{SLURM} SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2"
LEFTOVERS = (
    "RANK=1",
    "LOCAL_RANK=1",
    "NODE_RANK=1",
    "WORLD_SIZE=2",
    "RANK=1 WORLD_SIZE=2 MASTER_ADDR=nowhere.invalid MASTER_PORT=none",
    "JSM_NAMESPACE_RANK=1",
    "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 PMI_RANK=1",
    TORCHRUN,
    SLURM,
    f"{STEP} SLURM_NTASKS_PER_NODE=4 SLURM_NNODES=3",
    f"{SLURM} SLURM_JOB_NAME=bash",
)


@pytest.fixture(autouse=True)
def _ranks() -> Iterator[None]:
    yield
    rank_zero_only.rank = 0


def set_all(monkeypatch: pytest.MonkeyPatch, variables: str) -> None:
    for one in variables.split():
        monkeypatch.setenv(*one.split("=", 1))


@pytest.mark.parametrize("variables", LEFTOVERS)
def test_one_process_is_the_first(variables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, variables)
    rank_zero_only.rank = 1  # as it is where Lightning was imported with them
    for hardware in (Hardware("cpu"), Hardware("cpu", "1", "ddp")):
        assert is_first_process(hardware)
        trainer = hardware.trainer(logger=False)
        assert (trainer.world_size, trainer.global_rank, rank_zero_only.rank) == (1, 0, 0)


@pytest.mark.parametrize("variables", ["RANK=1 WORLD_SIZE=2", TORCHRUN, SLURM])
def test_one_process_trains_and_logs(variables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, variables)
    rank_zero_only.rank = 1
    run = short(tiny()[0])
    train(run, Hardware("cpu"), retrain=True)
    assert run.weights.is_file()
    assert list((run.folder / "tensorboard").glob("events*"))


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ("NONE=1", True),
        ("LOCAL_RANK=1", False),
        ("LOCAL_RANK=0", True),
        (TORCHRUN, False),
        (TORCHRUN.replace("RANK=1", "RANK=0"), True),
        (STEP, False),
        (STEP.replace("SLURM_PROCID=1", "SLURM_PROCID=0"), True),
        (f"{STEP} SLURM_NTASKS_PER_NODE=2", False),
        (SLURM, True),  # sbatch without srun: Lightning starts the second process
        (f"{STEP} SLURM_JOB_NAME=bash", True),
    ],
)
def test_of_several_processes(variables: str, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, variables)
    hardware = Hardware("cpu", "2", "ddp")
    assert is_first_process(hardware) is first
    assert hardware.trainer(logger=False).world_size == 2


@pytest.mark.parametrize("processes", [3, 4])
def test_slurm_started_another_number(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, STEP)
    with pytest.raises(OptionError, match=f"started 2 processes.*asks for {processes}"):
        Hardware("cpu", str(processes), "ddp").trainer(logger=False)


MEETING = "MASTER_ADDR=10.0.0.1 MASTER_PORT=29500"


@pytest.mark.parametrize(
    ("variables", "devices", "first"),
    [
        (f"{MEETING} NODE_RANK=0", "1", True),
        (f"{MEETING} NODE_RANK=1", "1", False),
        (f"{MEETING} NODE_RANK=1 LOCAL_RANK=0", "1", False),
        (TORCHRUN, "1", False),
        (STEP, "1", False),
        (STEP.replace("SLURM_PROCID=1", "SLURM_PROCID=0"), "1", True),
        (f"{MEETING} NODE_RANK=1", "2", False),
    ],
)
def test_of_several_machines(
    variables: str, devices: str, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    hardware = Hardware("cpu", devices, "ddp", nodes=2)
    assert hardware.processes == 2 * int(devices)
    assert is_first_process(hardware) is first
    trainer = hardware.trainer(logger=False)
    assert (trainer.num_nodes, trainer.world_size) == (2, 2 * int(devices))
    assert hardware.told() == {"devices": devices, "strategy": "ddp", "nodes": 2}


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ("NONE=1", "MASTER_ADDR, MASTER_PORT, NODE_RANK"),
        ("MASTER_ADDR=10.0.0.1 NODE_RANK=1", "MASTER_PORT"),
        (MEETING, "NODE_RANK"),
        (f"{SLURM} {MEETING}", "NODE_RANK"),
    ],
)
def test_machines_that_would_wait_for_each_other_in_vain(
    variables: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    with pytest.raises(OptionError, match=f"which the others are: {missing} not set"):
        Hardware("cpu", "1", "ddp", nodes=2).trainer(logger=False)


def test_slurm_started_another_number_on_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, STEP)
    with pytest.raises(OptionError, match=r"started 2 processes.*--nodes=2 --ntasks-per-node=2"):
        Hardware("cpu", "2", "ddp", nodes=2).trainer(logger=False)


def test_slurm_makes_no_checkpoint_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the middle of an epoch would not be gone on with exactly."""
    set_all(monkeypatch, STEP)
    assert environment(2).auto_requeue is False  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "value"), [("LIMIT_TRAIN_BATCHES", "1"), ("FAST_DEV_RUN", "1"), ("MAX_STEPS", "1")]
)
def test_lightnings_defaults_are_not_changed_by_variables(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the cache would hold weights of a part of the data as those of the whole."""
    monkeypatch.setenv(f"PL_TRAINER_{name}", value)
    trainer = Hardware("cpu").trainer(logger=False)
    assert (trainer.limit_train_batches, trainer.fast_dev_run, trainer.max_steps) == (1.0, 0, -1)
    assert os.environ[f"PL_TRAINER_{name}"] == value


def test_one_process_starts_no_others_and_speaks_for_itself() -> None:
    hardware = Hardware("cpu", "1")
    hardware.start_processes()
    assert not is_distributed()
    assert gathered({"a": 1}) == [{"a": 1}]
    assert hardware.own_device == torch.device("cpu")


@pytest.mark.parametrize("variables", ["RANK=1 LOCAL_RANK=none"])
def test_the_command_line_prints_and_writes(variables: str, server: Server, tmp_path: Path) -> None:
    """Where Lightning, too, is imported with the variables: it reads them when it is."""
    words = "eval --detector msp --id digits --recipe quick --epochs 1 --accelerator cpu --json"
    given = dict(one.split("=", 1) for one in variables.split())
    code = f"import sys, oodbench.cli\nsys.argv = {['oodbench', *words.split()]}\n"
    lightning = ("lightning_fabric", "lightning_utilities", "pytorch_lightning")
    ran = server.imports(f"{code}oodbench.cli.main()", *lightning, folder=tmp_path, env=given)
    assert ran.status == 0, ran.both
    assert '"auroc"' in ran.out
    assert len(ResultStore(tmp_path / "leaderboards").rows("digits")) == 4
