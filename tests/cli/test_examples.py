"""The examples of ``--help`` are commands that the command line reads."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from oodbench import cli
from oodbench.cli.examples import EXAMPLES, examples
from oodbench.registry import BENCHMARKS, DETECTORS, METHODS

COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
LINES = [line for lines in EXAMPLES.values() for line in lines]


def test_every_command_has_some() -> None:
    groups = {"list", "data", "plot", "cache", "matrix"}
    of_matrix = {f"matrix {name}" for name in COMMANDS["matrix"].commands}
    assert set(EXAMPLES) == set(COMMANDS) - groups | of_matrix
    for name in EXAMPLES:
        group, _, inner = name.partition(" ")
        command = COMMANDS[group].commands[inner] if inner else COMMANDS[name]
        assert command.epilog == examples(name)
        assert examples(name).startswith("Example")


@pytest.mark.parametrize("line", LINES)
def test_an_example_is_read_and_fits_a_terminal(line: str) -> None:
    assert len(line) <= 92
    program, command, *words = shlex.split(line.rpartition("| ")[2])
    assert program == "oodbench"
    asked = COMMANDS[command]
    if command == "matrix":
        asked, words = asked.commands[words[0]], words[1:]
    context = asked.make_context(command, words, resilient_parsing=False)
    chosen = context.params
    for name in chosen.get("detectors") or ():
        for detector in name.split(","):
            assert detector == "all" or detector in DETECTORS
    for registry, option in ((BENCHMARKS, "id"), (BENCHMARKS, "benchmark"), (METHODS, "method")):
        value = chosen.get(option)
        assert value is None or value.partition(":")[0] in registry
