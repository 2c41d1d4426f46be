"""A detector from another installed package is a first-class citizen."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oodbench.cli import main
from oodbench.errors import OODBenchWarning, PluginError
from oodbench.info import describe
from oodbench.registry import BENCHMARKS, DATASETS, DETECTORS, METHODS
from oodbench.selection import expanded
from tests.helpers.attempts import Server

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


def test_entry_point_of_another_package(server: Server, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "their_package", "[oodbench.detectors]\ntheirs = their_package:Theirs\n")

    env = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "oodbench.cli", "list", "detectors"]
    listed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    assert "theirs" in listed.stdout
    assert "Minus the norm" in listed.stdout

    script = tmp_path / "script.py"
    words = "eval --detector theirs --set power=2 --id digits --epochs 1 --json"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(site)!r})
from oodbench.cli import main
from oodbench.registry import DETECTORS
DETECTORS._entry_points = None  # another test may have had them read already
sys.argv = "oodbench {words}".split()
main()
""")
    rows = json.loads(server.prints(script))["rows"]
    assert {row["detector"] for row in rows} == {"theirs"}
    assert rows[0]["detector_options"] == {"power": 2.0}
    assert "| theirs | power=2.0 |" in (Path.cwd() / "leaderboards" / "digits.md").read_text()


def test_two_packages_with_one_name_are_told_apart(server: Server, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name in ("one_package", "two_package"):
        install(site, name, f"[oodbench.detectors]\ntheirs = {name}:Theirs\n")
    assert server.command("list", "detectors", site=site).status == 0
    asked = server.command("info", "theirs", site=site)
    assert asked.status == 2
    assert "one_package:Theirs" in asked.err
    assert "two_package:Theirs" in asked.err
    assert "Traceback" not in asked.err


# Broken ones

GOOD = "from oodbench.detectors.msp import MSP\n\nclass Fine(MSP):\n    pass\n"
ENDS = "class Ends(MSP):\n    def __init__(self):\n        sys.exit(0)\n"
BROKEN = {
    "missing": ("import not_there\n", "Fine", "not_there"),
    "syntax": ("def (:\n", "Fine", "SyntaxError"),
    "exits": ("import sys\nsys.exit(0)\n", "Fine", "SystemExit"),
    "raises": ("raise ValueError('no licence')\n", "Fine", "no licence"),
    "ends": ("class Own(BaseException): pass\nraise Own('own')\n", "Fine", "own"),
    "nothing": ("", "Fine", "Fine"),
    "function": ("def Fine(): pass\n", "Fine", "derives from oodbench.Detector"),
    "number": ("Fine = 3\n", "Fine", "derives from oodbench.Detector"),
    "stranger": ("class Fine: pass\n", "Fine", "derives from oodbench.Detector"),
    "module": (GOOD, "", "derives from oodbench.Detector"),
    "absent": (None, "Fine", "no_such"),
}


class Site:
    """A folder of installed packages, and registries that look there."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        root.mkdir()
        monkeypatch.syspath_prepend(str(root))
        self.forget()

    def forget(self) -> None:
        for known in (DETECTORS, METHODS, BENCHMARKS, DATASETS):
            self.monkeypatch.setattr(known, "_entry_points", None)
            self.monkeypatch.setattr(known, "_objects", dict(known._objects))
            self.monkeypatch.setattr(known, "_disputed", {})

    def add(self, name: str, module: str | None, thing: str, kind: str = "detectors") -> str:
        """The declared name of what a package has."""
        package = f"pack_{kind}_{name}"
        value = f"{package}:{thing}" if thing else package
        value = value if module is not None else "no_such_module:Fine"
        install(self.root, package, f"[oodbench.{kind}]\nx-{name} = {value}\n", module or "")
        importlib.invalidate_caches()
        self.forget()
        return f"x-{name}"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield Site(tmp_path / "site", monkeypatch)
    for name in [name for name in sys.modules if name.startswith("pack_")]:
        del sys.modules[name]


def ran(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["oodbench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_asked_for_by_name(name: str, site: Site) -> None:
    module, thing, reason = BROKEN[name]
    asked = site.add(name, module, thing)
    with pytest.raises(PluginError) as raised:
        DETECTORS.get(asked)
    told = str(raised.value)
    assert f"'{asked}' of the package pack_detectors_{name} 1.0" in told
    assert reason in told
    with pytest.raises(PluginError):
        describe(asked)


def test_all_without_the_broken_ones(site: Site) -> None:
    """Each is named in a line, and the others go on."""
    for name, (module, thing, _) in BROKEN.items():
        site.add(name, module, thing)
    site.add("init", f"import sys\n{GOOD}\n{ENDS}", "Ends")
    site.add("fine", GOOD, "Fine")
    with pytest.warns(OODBenchWarning) as caught:
        found = expanded(["all"], None)
    assert "x-fine" in found
    assert "knn" in found
    assert not {f"x-{name}" for name in [*BROKEN, "init"]} & set(found)
    told = [str(one.message) for one in caught]
    assert len(told) == len(BROKEN) + 1
    assert all(sum(f"'x-{name}'" in line for line in told) == 1 for name in [*BROKEN, "init"])
    assert not any("\n" in line for line in told if "SyntaxError" not in line)


def test_lists_have_all_names(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("detectors", "methods", "benchmarks", "datasets"):
        for name in ("missing", "exits", "syntax"):
            site.add(name, BROKEN[name][0], "Fine", kind)
        assert ran(monkeypatch, "list", kind) == 0
        printed = capsys.readouterr().out
        assert all(f"x-{name}" in printed for name in ("missing", "exits", "syntax"))
        assert len(printed.splitlines()) > 3


def test_data_status_with_broken_ones(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("missing", "exits", "raises"):
        site.add(name, BROKEN[name][0], "Fine", "datasets")
    loads = (
        "from oodbench import DatasetSpec\ndef load(split):\n    {}\nx = DatasetSpec('x', load)\n"
    )
    site.add("dies", "import sys\n" + loads.format("sys.exit(0)"), "x", "datasets")
    site.add("fails", loads.format("raise RuntimeError('gone')"), "x", "datasets")
    assert ran(monkeypatch, "data", "status") == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("missing", "exits", "raises", "dies", "fails"):
        assert sum(line.startswith(f"x-{name}") for line in lines) >= 1
    (place,) = (i for i, line in enumerate(lines) if line.startswith("digits "))
    assert lines[place + 1].startswith("  here: digits")


@pytest.mark.parametrize("kind", ["methods", "benchmarks", "datasets"])
def test_other_kinds_asked_for_by_name(
    kind: str, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = site.add("exits", BROKEN["exits"][0], "Fine", kind)
    assert ran(monkeypatch, "info", asked) == 2
    told = capsys.readouterr().err
    assert f"pack_{kind}_exits" in told
    assert "SystemExit" in told
    assert "Traceback" not in told


def test_a_package_whose_declarations_are_damaged(site: Site) -> None:
    install(site.root, "pack_damaged", "[oodbench.detectors]\nno equals sign\n")
    site.add("fine", GOOD, "Fine")
    assert {"x-fine", "msp"} <= set(DETECTORS.names())


def test_an_evaluation_of_all(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.add("exits", BROKEN["exits"][0], "Fine")
    site.add("fine", GOOD, "Fine")
    monkeypatch.setattr(DETECTORS, "names", lambda: ["msp", "x-exits", "x-fine"])
    words = "eval --id digits --detector all --recipe quick --epochs 1 --accelerator cpu --json"
    assert ran(monkeypatch, *words.split()) == 0
    printed = capsys.readouterr()
    found = {row["detector"] for row in json.loads(printed.out)["rows"]}
    assert found == {"msp", "x-fine"}
