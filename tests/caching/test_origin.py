"""Which installed distribution a package is of, by which its code is told."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from oodbench.caching import origin


def installed(site: Path, name: str, record: str, top_level: str | None = None) -> None:
    """A distribution that was installed into a folder."""
    folder = site / f"{name.replace('-', '_')}-1.5.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (folder / "RECORD").write_text(record)
    if top_level is not None:
        (folder / "top_level.txt").write_text(top_level)


def test_packages_are_found_as_the_standard_library_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = "pack/__init__.py,sha256=x,1\npack/inner/deep.py,,\nsingle.py,,\npack.libs/lib.so,,\n"
    installed(tmp_path, "by-files", files)
    installed(tmp_path, "blank", "wide/__init__.py,,\nsolo.py,,\n", top_level="\n")
    installed(tmp_path, "declared", "hidden/__init__.py,,\n", top_level="told\nother\n")
    installed(tmp_path, "again", "other/__init__.py,,\nnested/single.py,,\nhas pack/a.py,,\n")
    installed(tmp_path, "bare", "data/notes.txt,,\nlib.so,,\nxsingle.py,,\n")
    egg = tmp_path / "old.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: old\nVersion: 2\n")
    (egg / "SOURCES.txt").write_text("setup.py\naged/__init__.py\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = importlib.metadata.packages_distributions()
    made = {"pack", "single", "wide", "solo", "told", "other", "nested", "has pack", "aged"}
    assert made <= expected.keys()
    tops = made | {"PIL", "sklearn", "lightning_fabric", "hidden", "data", "lib", "xsingle"}
    for top in sorted(tops):
        assert list(origin._of_top(top)) == list(expected.get(top, ())), top


def test_a_version_is_that_of_the_distribution_of_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "by-files", "oodbench_invented/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    origin.version.cache_clear()
    assert origin.version("oodbench_invented") == "1.5"
    assert origin.version("PIL") == importlib.metadata.version("pillow")
    assert origin.version("oodbench_nowhere") == ""
