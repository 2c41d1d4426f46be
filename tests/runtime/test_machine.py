"""What a row says of the machine that it was computed on."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from oodbench import evaluate
from oodbench.benchmark import Benchmark
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.hardware import Hardware
from oodbench.results.rows import COLUMNS, row_id
from oodbench.results.store import ResultStore
from oodbench.runtime import machine


def spec(name: str, seed: int) -> DatasetSpec:
    images = np.random.default_rng(seed).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    samples = ImageArrays(f"{name}/test", images, np.arange(12) % 2, ("a", "b"))
    return DatasetSpec(name, lambda split: samples, ("train", "test"))


BENCHMARK = Benchmark(
    "toy-known", spec("toy", 0), (spec("other", 1),), (), Preprocess(8, (0.5,), (0.25,), mode="L")
)


@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_rows_have_the_machine(asked: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    found = evaluate(
        model,
        benchmark=BENCHMARK,
        hardware=Hardware(accelerator=asked),
        leaderboards=tmp_path,
        preprocess="benchmark",
    )
    row = ResultStore(tmp_path).rows("toy-known")[0]
    assert row["row_id"] == found.rows[0]["row_id"]
    assert row["device"] == asked
    if asked == "auto" and torch.cuda.is_available():
        assert row["accelerator"] == f"cuda {torch.cuda.get_device_name()}"
    else:
        assert row["accelerator"] in (("cpu", "mps") if asked == "auto" else ("cpu",))
    assert row["threads"] == torch.get_num_threads()
    assert row["processor"] == machine.processor_name() != ""
    elsewhere = {**row, "threads": 99, "processor": "another", "accelerator": "cuda X"}
    assert row_id(elsewhere) == row_id(row), "the same measurement, wherever"
    assert set(row) == set(COLUMNS)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name\t: Some  CPU @ 3 GHz \n", "Some CPU @ 3 GHz"),
        ("Processor\t: x\nModel\t\t: Raspberry Pi 5\n", "Raspberry Pi 5"),
        ("model name\t:\ncpu model : Loongson\n", "Loongson"),
    ],
)
def test_the_name_of_a_processor(text: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: text)
    assert machine.processor_name.__wrapped__() == name


def test_auto_is_a_device_of_this_machine() -> None:
    assert machine.device_of("cpu") == torch.device("cpu")
    found = machine.device_of("auto")
    assert machine.accelerator_name("auto").startswith(found.type)
    assert torch.empty(1, device=found).device.type == found.type


def test_a_processor_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise OSError

    monkeypatch.setattr(machine, "_from_system", refuse)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "riscv64")
    assert machine.processor_name.__wrapped__() == "riscv64"


def test_free_memory_is_some_of_the_machines() -> None:
    assert 0 < machine.free_memory(torch.device("cpu")) < psutil.virtual_memory().total


def test_processors_of_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """What macOS and Windows are asked for, by what stands in for them."""
    asked: list[Any] = []

    def run(command: list[str], **options: Any) -> Any:
        asked.append(command)
        return SimpleNamespace(stdout="Apple  M9 \n")

    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine.subprocess, "run", run)
    assert machine.processor_name.__wrapped__() == "Apple M9"
    assert asked == [["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]]

    registry = SimpleNamespace(
        HKEY_LOCAL_MACHINE="local",
        OpenKey=lambda root, where: contextlib.nullcontext((root, where)),
        QueryValueEx=lambda key, name: (f"{key[0]} {name}", 1),
    )
    monkeypatch.setattr(machine.sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "winreg", registry)
    assert machine.processor_name.__wrapped__() == "local ProcessorNameString"


def test_linux_that_does_not_name_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.Path, "read_text", lambda *_, **__: "processor : 0\nmodel name :\n")
    monkeypatch.setattr(machine.platform, "processor", lambda: "aarch64")
    assert machine.processor_name.__wrapped__() == "aarch64"


def test_a_cuda_device_has_a_name_and_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 1)
    monkeypatch.setattr(machine, "device_of", lambda accelerator: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"H100 {device.index}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 + device.index, 100))
    assert machine.accelerator_name("auto") == "cuda H100 1"
    assert machine.free_memory(cuda) == 8
