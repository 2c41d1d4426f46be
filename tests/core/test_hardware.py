"""How many data workers and cores a run takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from oodbench import Hardware, hardware


def machine(monkeypatch: pytest.MonkeyPatch, spare: int, free: int = 2**40) -> None:
    """A machine of so many spare cores and bytes."""
    monkeypatch.setattr(hardware, "spare_cores", lambda: spare)
    monkeypatch.setattr(hardware, "free_memory", lambda device: free)


class Files:
    """As many samples, which lie on disk."""

    in_memory = False

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def asked(processes: int, kind: str, **options: Any) -> Hardware:
    """Hardware that asks for so many processes on that kind of device."""
    made = Hardware("cpu", "1", **options)
    made.__dict__["_plan"] = (processes, kind)
    return made


BATCH = 256 * 3 * 32 * 32 * 4
"""Bytes of a batch of 256 images of 32 pixels."""


@pytest.mark.parametrize(
    ("count", "spare", "free", "workers"),
    [
        (1999, 7, 2**40, 0),  # few
        (2000, 7, 2**40, 4),  # half of the cores, where the CPU computes
        (2000, 4, 2**40, 4),  # few cores are all for reading
        (2000, 0, 2**40, 0),
        (2000, 1, 2**40, 1),
        (2000, 31, 2**40, 8),  # batches: 2000 / 256
        (2000, 31, 4 * 3 * BATCH * 5, 5),  # what a quarter of the memory holds, three batches each
        (2000, 31, 0, 1),
    ],
)
def test_data_workers(
    count: int, spare: int, free: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, spare, free)
    samples: Any = Files(count)
    assert asked(1, "cpu").workers_for(samples) == workers
    assert asked(1, "cpu", workers=3).workers_for(samples) == 3


def test_larger_images_are_more_work(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 2)
    samples: Any = Files(125)
    assert asked(1, "cpu").workers_for(samples, SimpleNamespace(size=128)) == 1  # one batch
    assert asked(1, "cpu").workers_for(samples, SimpleNamespace(size=127)) == 0


@pytest.mark.parametrize(
    ("processes", "nodes", "spare", "cores"),
    [(1, 1, 7, 7), (4, 1, 7, 1), (4, 2, 7, 3), (8, 1, 7, 1), (8, 1, 0, 0)],
)
def test_processes_of_a_machine_share_its_cores_where_accelerators_compute(
    processes: int, nodes: int, spare: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, spare)
    assert asked(processes, "cuda", nodes=nodes).cores_for_data == cores
