"""What a training run left in a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def weights(cache: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    (path,) = (cache / "runs").glob("*/weights.safetensors")
    return load_file(path)


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not one[name].equal(other[name])] == []


def log_of(cache: Path) -> list[str]:
    (path,) = (cache / "runs").glob("*/csv/metrics.csv")
    return path.read_text().splitlines()
