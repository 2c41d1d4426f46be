"""Options in messages: Python's names in Python, flags on the command line."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from pathlib import Path

import pytest
import typer

import oodbench
from oodbench import cli, settings
from oodbench.cli import flags
from oodbench.errors import OODBenchError
from tests.conftest import REPOSITORY
from tests.helpers.syntax import nodes


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Try a smaller `lr`.", "Try a smaller --lr."),
        ('(`id="cifar10"`)', "(--id cifar10)"),
        ("`batch_size` and `workers=0`", "--batch-size and --workers 0"),
        ("`recipe_options` input_size=224", "--recipe-set input_size=224"),
        ("`seed=0` of `detectors`, `pictures`", "--seed 0 of --detector, --pictures"),
        ("`ood=near=x`: no", "--ood near=x: no"),
        ("`oodbench list detectors`, `pip install -e .`", None),
        ("a file `lr.txt`, `nothing`, lr, id", None),
        ("", None),
    ],
)
def test_options_become_flags(message: str, told: str | None) -> None:
    assert flags.as_flags(message) == (message if told is None else told)


def test_every_name_is_an_option_of_the_command_line() -> None:
    commands = [typer.main.get_command(cli.app)]
    known: set[str] = set()
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        known |= {option for parameter in command.params for option in parameter.opts}
    assert set(flags.FLAGS.values()) <= known


@functools.cache
def messages() -> list[tuple[str, str]]:
    """Texts in the code, but for docstrings and what the command line says itself."""
    found = []
    for folder in ("oodbench", "detectors", "datasets"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            is_help = path.parent.name == "cli" or path == Path(settings.__file__)
            if is_help or path.parent.name == "testing":  # check suites speak of Python alone
                continue
            every = nodes(path.read_text(encoding="utf-8"))
            loose = {id(node.value) for node in every if isinstance(node, ast.Expr)}  # docstrings
            found += [
                (path.name, node.value)
                for node in every
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
                if id(node) not in loose
            ]
    return found


OF_OTHERS = ("pip install", "ulimit", "docker", "srun", "oodbench eval", "oodbench data",
             "oodbench verify", "oodbench leaderboard", "oodbench submit",
             "--name-status", "--no-renames", "--always", "--dirty", "--abbrev",
             "--match", " --id ", "(?<= --seed )", "--whole", " --ntasks-per-node=")  # fmt: skip
"""Words of texts that are command lines: other programs', or one of ours to copy."""

OF_PYTHON = {"measures", "layers", "full", "shifted", "full_spectrum", "digest", "load"}
OF_PYTHON |= {"clusters", "covariance"}  # options of detectors, which stand behind --set
"""Names between backticks that the command line has no option for."""


def test_no_message_speaks_of_flags() -> None:
    spoken = [
        (file, text)
        for file, text in messages()
        if re.search(r"(^|[\s(])--[a-z]", text) and not any(word in text for word in OF_OTHERS)
    ]
    assert spoken == []


def test_names_between_backticks_are_options() -> None:
    """A name that is none, such as `batchsize`, would stay as it is on the command line."""
    spoken = {
        name for _, text in messages() for name in re.findall(r"`([a-z_]+)(?:=[^`]*)?`", text)
    }
    assert spoken - set(flags.FLAGS) == OF_PYTHON
    assert {"lr", "id", "recipe_options", "precision", "devices", "mean"} <= spoken


def test_an_error_in_python_and_on_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(OODBenchError, match=r'`id="cifar10"`'):
        oodbench.evaluate(detectors=["msp"])
    monkeypatch.setattr("sys.argv", ["oodbench", "eval", "--detector", "msp"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "name an ID set (--id cifar10)" in capsys.readouterr().err
    assert "id" in inspect.signature(oodbench.evaluate).parameters
