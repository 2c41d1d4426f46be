"""Two machines do what one with two devices does: the same weights, the same rows, once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oodbench.results.store import ResultStore
from tests.helpers.attempts import Server
from tests.helpers.distributed import free_port
from tests.helpers.nodes import Node, calls, namespaces


@pytest.fixture(scope="module")
def one(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of one machine made."""
    folder, port = tmp_path_factory.mktemp("one"), free_port()
    both = [(rank, port, str(folder)) for rank in (0, 1)]
    server.together("tests.helpers.nodes:process", *both, cache=folder / "cache")
    return folder


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Two machines with a network each and a cable between them, which root may lay on Linux.

    Elsewhere they are two processes that are told apart by their numbers.
    """
    with contextlib.ExitStack() as laid:
        try:
            made = laid.enter_context(namespaces(29511))
        except OSError:
            port = free_port()
            made = [Node(number, "127.0.0.1", port) for number in (0, 1)]
        yield made


VARYING = ("seconds", "created", "command", "arguments", "row_id")
"""Arguments say of how many devices and nodes a row is, and are part of its id."""


def rows(folder: Path) -> list[dict[str, Any]]:
    found = ResultStore(folder / "leaderboards").rows("tiny-kill")
    return sorted(found, key=lambda row: (row["detector"], row["ood"]))


def test_two_nodes_are_two_devices(
    one: Path, nodes: list[Node], server: Server, tmp_path: Path
) -> None:
    """Bit by bit, as the sum of two numbers is the same either way around."""
    cache = tmp_path / "cache"
    server.together("tests.helpers.nodes:machine", *calls(nodes, tmp_path), cache=cache)
    found, expected = rows(tmp_path), rows(one)
    assert len(expected) == 8
    assert {"msp", "palm"} == {row["detector"] for row in expected}
    assert [_lasting(row) for row in found] == [_lasting(row) for row in expected]
    assert {str(row["arguments"]) for row in found} == {
        str({"devices": "1", "strategy": "ddp", "nodes": 2})
    }
    weights = [_weights(folder) for folder in (tmp_path, one)]
    assert len(weights[0]) == 2
    assert weights[0] == weights[1]


def _lasting(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in VARYING}


def _weights(folder: Path) -> dict[str, bytes]:
    found = (folder / "cache" / "runs").glob("*/weights.safetensors")
    return {path.parent.name: path.read_bytes() for path in found}
