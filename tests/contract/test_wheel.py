"""A wheel installs and runs outside the repository, and takes no names that are not its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import oodbench
from tests.conftest import REPOSITORY
from tests.helpers.attempts import Server


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
        "oodbench/cli/__init__.py",
        "oodbench/data/samples.py",
        "oodbench/detectors/__init__.py",
        "oodbench/detectors/palm.py",
        "oodbench/detectors/_numerics.py",
        "oodbench/datasets/digits.py",
        "oodbench/datasets/multiood/sets.py",
    ):
        assert wanted in names, wanted
    top = {name.split("/")[0] for name in names}
    assert top == {"oodbench", next(t for t in top if t.endswith(".dist-info"))}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_runs_outside_the_repository(server: Server, wheel: Path, tmp_path: Path) -> None:
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
        "--no-compile",
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
    run = server.imports(code, folder=tmp_path)
    assert run.status == 0, run.both
    assert (tmp_path / "leaderboards" / "digits.md").is_file()
    assert not (target / "datasets").exists()
    assert not (target / "detectors").exists()


# --- the commit of what is installed -----------------------------------------------------------


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x@y.z", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own packaging around a package that is small, in a repository of its own."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(REPOSITORY / name, root / name)
    for package in ("oodbench", "detectors", "datasets"):
        for found in (REPOSITORY / package).rglob("__init__.py"):
            copy = root / found.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True)
            copy.write_text("")
    module = Path("oodbench", "results", "versions.py")  # it is asked for the commit
    shutil.copy(REPOSITORY / module, root / module)
    _git(root, "init", "-q")
    _git(root, "add", "-A")
    _git(root, "commit", "-qm", "one")
    return root


def _installed(source: Path, target: Path) -> str | None:
    """The commit in what ``pip install SOURCE`` puts into a folder."""
    words = "-m pip install --quiet --no-deps --no-compile --no-build-isolation --no-index"
    command = [sys.executable, *words.split(), "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    note = target / "oodbench" / "_commit.txt"
    return note.read_text().strip() if note.is_file() else None


def test_an_install_from_a_checkout_knows_its_commit(checkout: Path, tmp_path: Path) -> None:
    head = _git(checkout, "rev-parse", "HEAD")
    _git(checkout, "tag", "-f", "v0.1")
    assert _installed(checkout, tmp_path / "clean") == head

    with (checkout / "README.md").open("a") as handle:
        handle.write("changed\n")
    assert _installed(checkout, tmp_path / "dirty") == f"{head}-dirty"

    shutil.rmtree(checkout / ".git")  # as in an sdist; the note of the last build must go
    assert _installed(checkout, tmp_path / "bare") is None


def test_an_installed_package_reads_the_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oodbench.results import versions as module_of_versions

    module = tmp_path / "oodbench" / "__init__.py"
    module.parent.mkdir()
    monkeypatch.setattr(oodbench, "__file__", str(module))
    monkeypatch.setattr(module_of_versions, "distribution", lambda name: _Installed(None))
    ask = module_of_versions.versions.__wrapped__
    assert ask()["git_commit"] is None
    monkeypatch.setattr(
        module_of_versions,
        "distribution",
        lambda name: _Installed('{"vcs_info": {"commit_id": "abc"}}'),
    )
    assert ask()["git_commit"] == "abc"
    (module.parent / "_commit.txt").write_text("def-dirty\n")
    assert ask()["git_commit"] == "def-dirty"


class _Installed:
    def __init__(self, url: str | None) -> None:
        self.url = url

    def read_text(self, name: str) -> str | None:
        return self.url
