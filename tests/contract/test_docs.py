"""The examples of the README and of CONTRIBUTING do what the text around them says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import oodbench
from oodbench.registry import DETECTORS
from oodbench.testing import detector_checks
from tests.conftest import REPOSITORY
from tests.helpers.attempts import Server


def example(file: str, name: str) -> str:
    """The code block that follows ``<!-- example: name -->``."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found, f"{file} has no example {name!r}"
    return found.group(1)


def test_worked_detector_passes_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halo.py").write_text(example("CONTRIBUTING.md", "detector"))
    monkeypatch.syspath_prepend(str(tmp_path))
    import halo  # type: ignore[import-not-found]

    try:
        for check in detector_checks():
            check(halo.Halo())
        assert "halo" in oodbench.list_detectors()
    finally:
        DETECTORS.unregister("halo")


def printed_by(server: Server, code: str, folder: Path) -> str:
    script = folder / "script.py"
    script.write_text(code)
    return server.prints(script)


def test_own_detector_in_ten_lines(server: Server, tmp_path: Path) -> None:
    # a process of its own: the example registers a name
    code = example("README.md", "own detector")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    assert "mine" in printed_by(server, code, tmp_path)
    assert "| mine |" in (Path.cwd() / "leaderboards" / "digits.md").read_text()


def test_own_network(server: Server, tmp_path: Path) -> None:
    code = example("README.md", "own network")
    assert "auroc" in printed_by(server, code, tmp_path)


def test_files_of_tests_that_are_named_exist() -> None:
    """``Checked against: … (tests/…)`` leads a reader to the test."""
    named = re.compile(r"\btests/[\w/]+\.py\b")
    sources = [
        path
        for folder, kind in (
            ("oodbench", "py"),
            ("detectors", "py"),
            ("datasets", "py"),
            ("docs", "md"),
        )
        for path in (REPOSITORY / folder).rglob(f"*.{kind}")
    ]
    lost = {
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in sources
        for name in named.findall(path.read_text(encoding="utf-8"))
        if not (REPOSITORY / name).is_file()
    }
    assert not lost


def test_readme_names_what_there_is() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for name in [*oodbench.list_detectors(), *oodbench.list_methods()]:
        assert f"`{name}`" in text, f"the README does not name {name}"
    for name in oodbench.list_benchmarks():
        assert f"`{name}" in text, f"the README does not name {name}"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- test command -->\n```bash\n(.*?)\n```", text, re.DOTALL)
    assert found
    assert "pytest" in found.group(1)
    assert "test command" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
