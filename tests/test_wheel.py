"""A wheel installs and runs outside the repository, and takes no names that are not its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    ignored = shutil.ignore_patterns(
        ".git", "*.egg-info", "build", "dist", ".*_cache", "__pycache__"
    )
    shutil.copytree(REPOSITORY, source, ignore=ignored)
    # the build back end is that of the running environment: no network needed
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "-o",
        str(root),
        str(source),
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = root.glob("*.whl")
    return found


def test_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "oodbench/py.typed",
        "oodbench/cli.py",
        "oodbench/detectors/__init__.py",
        "oodbench/detectors/palm.py",
        "oodbench/detectors/_numerics.py",
        "oodbench/datasets/digits.py",
    ):
        assert wanted in names, wanted
    top = {name.split("/")[0] for name in names}
    assert top == {"oodbench", next(t for t in top if t.endswith(".dist-info"))}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_runs_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    # An environment of its own would install torch again; a target folder that stands first on the
    # path, with the editable install's finder switched off, is the same wheel without that.
    target = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    code = (
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        "import oodbench, oodbench.detectors.palm, oodbench.datasets.digits\n"
        f"assert oodbench.__file__.startswith({str(target)!r}), oodbench.__file__\n"
        f"assert oodbench.detectors.palm.__file__.startswith({str(target)!r})\n"
        "from oodbench.cli import main\n"
        "sys.argv = ['oodbench', 'eval', '--detector', 'msp', '--id', 'digits', '--epochs', '1']\n"
        "main()\n"
    )
    env = {**os.environ, "OODBENCH_CACHE": str(tmp_path / "cache")}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "leaderboards" / "digits.md").is_file()
    assert not (target / "datasets").exists()
    assert not (target / "detectors").exists()
