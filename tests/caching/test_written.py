"""The digest of code as it is written."""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path

import pytest

from oodbench.caching.fingerprint import code_digest
from oodbench.caching.written import written_digest
from oodbench.registry import DETECTORS

CODE = {
    "__init__.py": "",
    "mine.py": '''"""A module."""
from .help import twice
from . import more


class Mine:
    """A class."""

    paper = "one"

    def score(self, x):
        """A score."""
        return twice(x) + more.ONE  # why
''',
    "help.py": "def twice(x):\n    return 2 * x\n",
    "more.py": "ONE = 1\n\n\ndef unused():\n    return 5\n",
    "other.py": "def unused():\n    return 3\n",
}


def digest(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: str) -> str:
    """Of the class in a package of that code."""
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder.mkdir(exist_ok=True)
    for name, text in {**CODE, **{f"{k}.py": v for k, v in changed.items()}}.items():
        (folder / name).write_text(text)
    for name in [one for one in sys.modules if one.partition(".")[0] == folder.name]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return written_digest(importlib.import_module(f"{folder.name}.mine").Mine)


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({}, False),
        ({"mine": CODE["mine.py"].replace("  # why", "").replace("A score", "Another")}, False),
        ({"mine": CODE["mine.py"].replace("twice(x) +", "(twice(x)\n            ) +")}, False),
        ({"mine": CODE["mine.py"].replace("+ more", "- more")}, True),
        ({"help": "def twice(x):\n    return 3 * x\n"}, True),
        ({"mine": CODE["mine.py"].replace('"one"', '"two"')}, False),
        ({"more": "ONE = 2\n"}, True),
        ({"more": "ONE = 1\n\n\ndef unused():\n    return 6\n"}, False),
        ({"help": "from .more import ONE\n\n\ndef twice(x):\n    return 2 * x * ONE\n"}, True),
        ({"help": "import math\n\n\ndef twice(x):\n    return 2 * x\n"}, False),
        ({"other": "def unused():\n    return 4\n"}, False),
    ],
)
def test_what_changes_it(
    changed: dict[str, str], differs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(tmp_path / "a_package", monkeypatch)
    after = digest(tmp_path / "b_package", monkeypatch, **changed)
    assert (before != after) is differs


def test_what_a_used_function_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = "from .more import {0}\n\n\ndef twice(x):\n    return x * {0}\n"
    one = digest(
        tmp_path / "c_package", monkeypatch, help=far.format("TWO"), more="ONE = TWO = 1\n"
    )
    other = digest(
        tmp_path / "d_package", monkeypatch, help=far.format("TWO"), more="ONE = 1\nTWO = 3\n"
    )
    assert one != other


def test_detectors_differ() -> None:
    digests = {written_digest(DETECTORS.get(name)) for name in ("msp", "energy", "knn")}
    assert len(digests) == 3


def test_a_class_of_a_session() -> None:
    spaces = [{"__name__": "a_notebook"} for _ in range(3)]
    for space, value in zip(spaces, (1, 1, 2), strict=True):
        exec(f"class A:\n    def f(self):\n        return {value}\n", space)
    one, same, other = (written_digest(space["A"]) for space in spaces)
    assert one == same != other


def test_a_file_that_changes_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a class that was asked for before, in the same process, and of what it uses."""
    before = digest(tmp_path / "e_package", monkeypatch)
    cls = sys.modules["e_package.mine"].Mine
    assert written_digest(cls) == before
    changes = {"help": "def twice(x):\n    return 3 * x\n"}
    changes["mine"] = CODE["mine.py"].replace("+", "*")
    for number, (file, text) in enumerate(changes.items()):
        path = tmp_path / "e_package" / f"{file}.py"
        path.write_text(text)
        os.utime(path, ns=(number, number))
        assert written_digest(cls) != before, file
        before = written_digest(cls)


def test_a_class_of_a_script_is_told_by_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that Python cannot find by its name, but that has a file."""
    found = []
    for number, text in enumerate(("return 1", "return 1  # one", "return 2")):
        path = tmp_path / f"script{number}.py"
        path.write_text(f"class A:\n    def f(self):\n        {text}\n")
        script = types.ModuleType("a_script")
        script.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "a_script", script)
        exec(compile(path.read_text(), str(path), "exec"), vars(script))
        found.append(written_digest(script.A))
        assert found[-1] != code_digest(script.A)
    assert found[0] == found[1] != found[2]
