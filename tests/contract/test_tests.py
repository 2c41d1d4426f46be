"""The tests themselves: each can be read, run and moved alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

TESTS = REPOSITORY / "tests"
MODULES = sorted(path.relative_to(TESTS) for path in TESTS.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """All modules that a file imports, and what it takes from them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_imports_a_test_module(path: Path) -> None:
    """What several need stands in ``helpers/`` or, fixtures, in ``conftest.py``."""
    wrong = [name for name in imported(TESTS / path) if ".test_" in name]
    assert not wrong, f"{path} imports {', '.join(wrong)}: move what is shared to tests/helpers/"


def test_the_rule_can_be_broken(tmp_path: Path) -> None:
    for number, line in enumerate(
        (
            "from tests.cli.test_cli import run",
            "from tests.cli import test_cli",
            "import tests.cli.test_cli",
        )
    ):
        path = tmp_path / f"{number}.py"
        path.write_text(line)
        assert any(".test_" in name for name in imported(path)), line
