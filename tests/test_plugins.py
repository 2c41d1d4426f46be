"""A detector from another installed package is a first-class citizen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

MODULE = '''
from dataclasses import dataclass
import oodbench

@oodbench.register_detector("theirs")
@dataclass
class Theirs(oodbench.Detector):
    """Minus the norm of the features. Higher = more OOD."""
    needs = frozenset({"features"})
    power: float = 1.0

    def score(self, outputs):
        return -outputs.features.norm(dim=1) ** self.power
'''


def install(root: Path, name: str, entry_points: str, module: str = MODULE) -> None:
    """What pip leaves in site-packages for a package of one module."""
    (root / f"{name}.py").write_text(module)
    info = root / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def oodbench(site: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "oodbench.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_entry_point_of_another_package(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "their_package", "[oodbench.detectors]\ntheirs = their_package:Theirs\n")

    listed = oodbench(site, tmp_path, "list", "detectors")
    assert listed.returncode == 0, listed.stderr
    assert "theirs" in listed.stdout
    assert "Minus the norm" in listed.stdout

    run = oodbench(
        site,
        tmp_path,
        *"eval --detector theirs --set power=2 --id digits --epochs 1 --json".split(),
    )
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)["rows"]
    assert {row["detector"] for row in rows} == {"theirs"}
    assert rows[0]["detector_options"] == {"power": 2.0}
    assert "| theirs | power=2.0 |" in (tmp_path / "leaderboards" / "digits.md").read_text()


def test_two_packages_with_one_name_are_told_apart(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name in ("one_package", "two_package"):
        install(site, name, f"[oodbench.detectors]\ntheirs = {name}:Theirs\n")
    assert oodbench(site, tmp_path, "list", "detectors").returncode == 0
    asked = oodbench(site, tmp_path, "info", "theirs")
    assert asked.returncode == 2
    assert "one_package:Theirs" in asked.stderr
    assert "two_package:Theirs" in asked.stderr
    assert "Traceback" not in asked.stderr
