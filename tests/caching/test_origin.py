"""Whose a module is, and which installed distribution tells its code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
import types
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


@pytest.mark.parametrize(
    ("module", "whose"),
    [
        ("oodbench", "ours"),
        ("oodbench.detectors.knn", "ours"),
        ("builtins", "library"),
        ("json.decoder", "library"),
        ("torch.nn", "library"),
        ("scipy.special", "library"),
        ("yaml", "library"),
        ("requests", "library"),
        ("__main__", "user"),
        ("__mp_main__", "user"),
        ("", "user"),
        ("oodbench_users_own", "user"),
        ("oodbenchs_own", "user"),
    ],
)
def test_whose_a_module_is(module: str, whose: str) -> None:
    assert origin.origin(module) == whose


def test_what_is_no_part_of_this_process() -> None:
    assert origin.is_outside("requests.sessions")
    assert origin.is_outside("onnxruntime")
    assert not origin.is_outside("torch.nn")
    assert not origin.is_outside("requests_of_ones_own")
    assert origin.is_in("torch.cuda.graphs", ("torch.cuda",))
    assert not origin.is_in("torch.cudas", ("torch.cuda",))


def test_the_digest_of_a_compiled_module_is_that_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = types.ModuleType("users_fast")
    monkeypatch.setitem(sys.modules, "users_fast", made)
    for suffix in (".so", ".pyd", ".dylib"):
        made.__file__ = str(tmp_path / f"fast{suffix}")
        assert origin.file_digest("users_fast") is None, "it is gone"
        Path(made.__file__).write_bytes(b"code")
        assert origin.file_digest("users_fast") == hashlib.sha256(b"code").hexdigest()
    made.__file__ = str(tmp_path / "fast.py")
    Path(made.__file__).write_bytes(b"code")
    assert origin.file_digest("users_fast") is None, "what Python made of it is told instead"
    assert origin.file_digest("users_nowhere") is None
