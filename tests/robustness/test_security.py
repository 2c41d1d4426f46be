"""What is installed and what is opened: floors of dependencies, one place where images are read."""

from __future__ import annotations

import ast
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import REPOSITORY
from tests.helpers.syntax import nodes

FIRST_SAFE = [
    ("torch", "2.6", "CVE-2025-32434"),  # weights_only=True could be got round
    ("torch", "2.10", "CVE-2026-24747"),  # and once more
    ("pytorch-lightning", "2.6.6", "CVE-2026-58659"),  # a checkpoint's text named code to call
    ("pillow", "12.3", "CVE-2026-55798"),
    ("pillow", "12.3", "CVE-2026-59197"),
    ("pillow", "12.3", "CVE-2026-59198"),
    ("pillow", "12.3", "CVE-2026-59199"),
    ("pillow", "12.3", "CVE-2026-59200"),
    ("pyarrow", "14.0.1", "CVE-2023-47248"),
]
"""Package, the first version in which a hole is closed, and the hole."""


def requirements() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for group in (project["dependencies"], *extras) for text in group]


@pytest.mark.parametrize(("package", "first", "hole"), FIRST_SAFE)
def test_no_version_with_a_known_hole_is_allowed(package: str, first: str, hole: str) -> None:
    found = [one for one in requirements() if one.name == package]
    assert found, f"{package} is no dependency any more: take {hole} off the list"
    for one in found:
        floors = [Version(s.version) for s in one.specifier if s.operator in (">=", "==", "~=")]
        assert floors, f"{one} has no floor"
        assert max(floors) >= Version(first), f"{one} allows versions with {hole}"
    assert Version(version(package)) >= Version(first)


def test_torchvision_is_that_of_torch() -> None:
    floors = {
        one.name: Version(next(s.version for s in one.specifier))
        for one in requirements()
        if one.name in ("torch", "torchvision")
    }
    assert floors["torchvision"].minor == floors["torch"].minor + 15


SOURCES = sorted(
    path for folder in ("oodbench", "datasets", "detectors") for path in
    (REPOSITORY / folder).glob("*.py")
)  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_images_are_opened_in_one_way(path: Path) -> None:
    """With a list of formats: an EPS called .png would start Ghostscript."""
    every = nodes(path.read_text(encoding="utf-8"))
    calls = [node for node in every if isinstance(node, ast.Call)]
    for call in calls:
        text = ast.unparse(call.func)
        if text == "Image.open":
            assert "formats" in {keyword.arg for keyword in call.keywords}, path
        readers = ("imread", "read_image", "decode_image", "default_loader", "pil_loader")
        assert text.rpartition(".")[2] not in readers, f"{path}: {text} takes any format"
