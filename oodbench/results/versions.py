"""Which versions compute: what a row says of the code behind it."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import oodbench
from oodbench.results.rows import Row


@cache
def versions() -> Row:
    """Versions of what computes: oodbench, torch, python, and oodbench's commit if it has one."""
    root = Path(oodbench.__file__).resolve().parents[1]
    commit = _described(root) if (root / ".git").exists() else _noted()
    return {
        "oodbench": own_version(),
        "torch": version("torch"),
        "python": platform.python_version(),
        "git_commit": commit,
    }


def own_version() -> str:
    """The version of the installed package; ``"unknown"`` in a checkout that is not installed."""
    try:
        return version("oodbench")
    except PackageNotFoundError:
        return "unknown"


def _described(root: Path) -> str | None:
    """The commit of a checkout that oodbench runs in; not inside somebody else's."""
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        completed = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip() or None


def _noted() -> str | None:
    """The commit that an installed oodbench was built from: setup.py notes it, or pip did."""
    note = Path(oodbench.__file__).with_name("_commit.txt")
    if note.is_file():
        return note.read_text(encoding="utf-8").strip() or None
    try:
        origin = json.loads(distribution("oodbench").read_text("direct_url.json") or "{}")
        commit = origin.get("vcs_info", {}).get("commit_id")
    except (PackageNotFoundError, ValueError, AttributeError):
        return None
    return str(commit) if commit else None
