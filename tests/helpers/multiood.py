"""MultiOOD in miniature: its benchmarks, files of its sets, and a mirror of its lists."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oodbench import Benchmark, DatasetSpec
from oodbench.datasets.multiood import benchmarks
from oodbench.datasets.multiood.splits import SPLIT_FILES, split_url
from tests.helpers.publisher import Publisher

BENCHMARKS = (
    benchmarks.near_hmdb,
    benchmarks.near_ucf,
    benchmarks.near_kinetics,
    benchmarks.near_kinetics_audio,
    benchmarks.near_epic,
    benchmarks.near_epic_audio,
    benchmarks.far_hmdb,
    benchmarks.far_kinetics,
    benchmarks.hmdb,
    benchmarks.hmdb_near,
    benchmarks.ucf,
    benchmarks.kinetics,
    benchmarks.kinetics_near,
)


def sets_of(benchmark: Benchmark) -> list[DatasetSpec]:
    """Its ID set and its OOD sets."""
    return [benchmark.id, *benchmark.near, *benchmark.far]


ALL_SETS = {spec.name: spec for make in BENCHMARKS for spec in sets_of(make())}


def fill(base: Path, *paths: str, content: bytes = b"content") -> None:
    """Writes files of one content below MultiOOD's folder."""
    for path in paths:
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(content)


class Shift(nn.Module):
    """A flow that is the same everywhere; ``after`` so many batches it is interrupted."""

    def __init__(self, x: float, y: float, after: int = 1000) -> None:
        super().__init__()
        self.x, self.y, self.after, self.sizes = x, y, after, []

    def forward(self, one: Tensor, two: Tensor) -> list[Tensor]:
        if len(self.sizes) == self.after:
            raise KeyboardInterrupt
        assert one.shape == two.shape
        assert one.abs().max() <= 1
        self.sizes.append(one.shape)
        flow = torch.zeros(len(one), 2, *one.shape[2:])
        return [flow, flow + torch.tensor([self.x, self.y])[:, None, None]]


def address(name: str) -> str:
    """Where the mirror has a split file."""
    return f"/{split_url(name).removeprefix('https://')}"


def publish(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    """Puts a split file on the mirror, and has its sum taken for the published one."""
    monkeypatch.setitem(SPLIT_FILES, name, hashlib.sha256(content).hexdigest())
    publisher.put(address(name), content)
