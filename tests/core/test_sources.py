"""What is read of a module's source is what the imported module says."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oodbench import sources
from oodbench.registry import DETECTORS, METHODS


@pytest.mark.parametrize("registry", [DETECTORS, METHODS], ids=["detectors", "methods"])
def test_what_is_read_is_what_there_is(registry: object) -> None:
    told = 0
    for name, point in registry._declared().items():  # type: ignore[attr-defined]
        found = getattr(importlib.import_module(point.module), point.attr)
        doc = sources.first_line(found.__doc__ or "")
        assert sources.description(point.module, point.attr) == doc, name
        title = sources.first_line(sys.modules[point.module].__doc__ or "")
        assert sources.title(point.module) == title
        for of in ("needs", "method", "fit_split"):
            value = sources.attribute(point.module, point.attr, of)
            # what is not written as a literal is not known, and nothing else is said of it
            assert value is None or value == getattr(found, of), (name, of)
            told += value is not None
        if registry is DETECTORS and "needs" in vars(found):
            assert sources.attribute(point.module, point.attr, "needs") == set(found.needs), name
    assert told > 40 or registry is METHODS


SOURCE = '''"""  Somebody's detectors.

More of them."""
from .beyond import Base as Renamed, absent
from .beyond import made

size: int = 3
wide = make(1, description="  What it is made for.\\nMore.")
plain = make(2)


class Own(Renamed):
    """One of their own."""

    needs: frozenset = frozenset({"logits"})
    of_its: tuple = (1, 2)
    computed = size + 1


class Empty(Renamed):
    pass
'''
BEYOND = """
class Root:
    method = "ce"


class Base(Root):
    needs = frozenset({"features", "head"})


made = 1
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "somebodys_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "theirs.py").write_text(SOURCE)
    (folder / "beyond.py").write_text(BEYOND)
    monkeypatch.syspath_prepend(tmp_path)
    yield "somebodys_package"
    sys.modules.pop("somebodys_package", None)  # a module is found by way of its package


def test_a_package_is_read_and_not_run(package: str) -> None:
    theirs = f"{package}.theirs"
    assert sources.title(theirs) == "Somebody's detectors."
    assert sources.description(theirs, "Own") == "One of their own."
    assert sources.description(theirs, "Empty") == ""
    assert sources.description(theirs, "wide") == "What it is made for."
    assert sources.description(theirs, "plain") == "Somebody's detectors."
    assert sources.title(f"{package}.beyond") == ""
    assert theirs not in sys.modules


@pytest.mark.parametrize(
    ("name", "of", "value"),
    [
        ("Own", "needs", {"logits"}),
        ("Own", "of_its", (1, 2)),
        ("Own", "computed", None),  # no literal
        ("Own", "method", "ce"),  # of the base's base, in another module under another name
        ("Empty", "needs", {"features", "head"}),
        ("Empty", "absent", None),
        ("Renamed", "method", "ce"),
        ("absent", "needs", None),
        ("nowhere", "needs", None),
    ],
)
def test_attributes(package: str, name: str, of: str, value: object) -> None:
    assert sources.attribute(f"{package}.theirs", name, of) == value


def test_a_file_that_changed_is_read_anew(package: str, tmp_path: Path) -> None:
    module = f"{package}.beyond"
    assert sources.attribute(module, "Root", "method") == "ce"
    path = tmp_path / package / "beyond.py"
    path.write_text(BEYOND.replace('"ce"', '"palm"'))
    assert sources.attribute(module, "Root", "method") == "palm"


def test_what_has_no_source() -> None:
    assert sources.source("sys") is None
    assert sources.version("nowhere_at_all") is None
    assert sources.description("sys", "path") == ""
    assert sources.attribute("sys", "path", "needs") is None
