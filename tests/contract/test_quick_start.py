"""What a newcomer does first, word by word: the README's commands in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
LEFT_OUT = (".git", "build", "*.egg-info", "__pycache__", ".*_cache", "leaderboards")


def block(before: str, language: str) -> str:
    """The README's first block in that language after some words."""
    _, words, rest = README.partition(before)
    assert words, before
    found = re.search(rf"```{language}\n(.*?)```", rest, re.DOTALL)
    assert found, before
    return found[1]


@pytest.mark.slow
def test_the_first_command_and_the_examples_in_a_new_environment(tmp_path: Path) -> None:
    checkout = tmp_path / "oodbench"
    shutil.copytree(REPOSITORY, checkout, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (checkout / "leaderboards").mkdir()
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    variables = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    variables |= {
        "PATH": os.pathsep.join([str(programs), variables["PATH"]]),
        "VIRTUAL_ENV": str(tmp_path / "venv"),
        "OODBENCH_DATA": str(tmp_path / "data"),
        "OODBENCH_CACHE": str(tmp_path / "cache"),
        "COLUMNS": "80",
    }

    def printed(command: str | list[str]) -> str:
        ended = subprocess.run(
            command,
            shell=isinstance(command, str),
            cwd=checkout,
            env=variables,
            text=True,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        return ended.stdout

    command = block("## Two commands", "bash").strip()
    assert "pip install ." in command
    told = printed(command)
    # other processors round differently: the lines are the README's, figures may be others
    for line in ("near: digits-6-9 *", "far: photo-patches", "again: oodbench eval"):
        assert line in told
    assert (checkout / "leaderboards" / "digits.md").is_file()
    installed = printed([str(programs / Path(sys.executable).name), "-m", "pip", "list"])
    assert "pytest" not in installed, "users do not need what tests need"

    for name in ("own network", "own detector"):
        script = tmp_path / "script.py"
        script.write_text(block(f"<!-- example: {name} -->", "python"), encoding="utf-8")
        told = printed([str(programs / Path(sys.executable).name), str(script)])
    assert "| mine |" in told
    assert "mine" in printed("oodbench leaderboard --id digits") + told
