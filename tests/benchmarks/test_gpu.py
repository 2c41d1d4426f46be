"""The script for a GPU: what fails or takes too long is told, and loses nothing else."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module("gpu")
    for name in ("gpu", "training", "extraction"):
        if name not in before:
            sys.modules.pop(name, None)


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", *words])
    status: int = script.main()
    return status


def test_a_part_that_fails_loses_nothing_else(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    def breaks(here: Any) -> Iterator[Any]:
        yield script.Line("extraction", "the first", 30.0, 20.0)
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setitem(script.PARTS, "extraction", breaks)
    file = tmp_path / "gpu.json"
    assert run(script, monkeypatch, "--only", "extraction,search", "--json", str(file)) == 1
    found = json.loads(file.read_text())
    assert found["about"]["device"] == "cpu"
    first, failed, *others = found["lines"]
    assert first["ratio"] == 1.5
    assert failed["note"] == "FAILED: out of memory"
    assert [line["what"].partition(",")[0] for line in others] == ["mahalanobis", "knn"]
    assert all(line["ours"] > 0 for line in others)
    assert others[1]["ratio"] > 0
    table = capsys.readouterr().out
    assert "| extraction | the first | 30 | 20 | 1.50 | images/s |" in table


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system cannot interrupt a part")
def test_a_part_that_takes_too_long_is_left(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleeps(here: Any) -> Iterator[Any]:
        yield script.Line("extraction", "the first")
        time.sleep(60)

    monkeypatch.setitem(script.PARTS, "extraction", sleeps)
    began = time.perf_counter()
    lines = list(script.run_part("extraction", None, 1.0))
    assert time.perf_counter() - began < 30
    assert [line.what for line in lines] == ["the first", "the rest"]
    assert "are over" in lines[1].note
