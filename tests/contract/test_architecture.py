"""The direction of imports, and that the installed names are those of the folders."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks.house import House, Import, circles
from tests.conftest import REPOSITORY
from tests.helpers.attempts import Server
from tests.helpers.syntax import nodes, tree


@functools.cache
def house() -> House:
    """Read when a test asks for it: it is two seconds' work."""
    read = House(REPOSITORY)
    for module in read.modules.values():
        module.tree = tree(module.text)
    return read


CORE = sorted((REPOSITORY / "oodbench").rglob("*.py"))
FOLDERS = ("detectors", "datasets")
PLUGINS = sorted(path for name in FOLDERS for path in (REPOSITORY / name).rglob("*.py"))
HELPERS = {"imglists.py", "validation.py"}  # what several benchmarks are made of, but no plug-in


def imported(path: Path) -> set[str]:
    """Names that a module imports, absolute ones in full."""
    names: set[str] = set()
    for node in nodes(path.read_text(encoding="utf-8")):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


AT_MOST = {"msp": 11, "ce": 10, "palm": 17, "godin": 16, "abet": 37, "ptood": 33, "locoop": 43}
"""Rooms of the core that are loaded with a file of ``detectors/``.

All but ``ce`` have ``notebook`` among them, what a detector shows of itself. ``godin`` calls the
network itself; the last three make networks.
"""

USUALLY = 16
"""The same for every other detector and method, but those of pixels and boxes."""

DENSE = {"_dense", "ce_segmentation", "ce_detection"}

UPSTAIRS = set(
    "ahead cli contenders evaluation evaluator extract looking passes scale selection tested "
    "together tune".split()
)
"""Who asks for networks and scores; those below are asked."""

DOWNSTAIRS = set(
    "caching checks data detector disk method metrics networks outputs runtime".split()
)

AGAIN = {f"oodbench.results.{room}" for room in ("again", "compare", "submission", "verify")}
"""Rooms of results that evaluate: networks to compare, and results to make again."""

INSIDE = {
    ("oodbench.outputs", "oodbench.caching.arrays"): "detectors load without what writes to disk",
    ("oodbench.outputs", "oodbench.disk.mapped"): "as above",
    ("oodbench.outputs", "oodbench.text"): "few heads are made of texts",
}
"""Imports inside functions outside of the command line, and why."""


ONE_THING = {
    "oodbench.benchmark": "a benchmark and its protocol, as frozen data",
    "oodbench.caching.description": "what a function's code depends on",
    "oodbench.checking": "the trial of a network on ID images",
    "oodbench.deploy.state": "what a fitted detector holds, written and read",
    "oodbench.hardware": "where and how networks run, as frozen data",
    "oodbench.outputs": "what a network says, in memory and on disk",
    "oodbench.training.train": "a training run",
    "oodbench.tune": "the search for options on validation sets",
}
"""Rooms of more than 450 lines."""


def inside_functions() -> list[Import]:
    """Imports of ours inside functions; the command line's are there so that it starts fast."""
    return [
        one
        for one in house().imports
        if one.function and not f"{one.source}.".startswith("oodbench.cli.")
    ]


def test_no_circles() -> None:
    assert circles(house().arrows(inside_functions=False)) == []
    assert circles(house().arrows(inside_functions=True)) == []


def test_a_circle_is_seen() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a", "f"}, "f": {"e"}}
    assert sorted(map(sorted, circles(graph))) == [["a", "b", "c"], ["e", "f"]]


def test_no_import_inside_a_function_hides_a_circle() -> None:
    assert {(one.source, one.target) for one in inside_functions()} == set(INSIDE)


def test_tasks_and_methods_know_no_evaluator() -> None:
    """A network is trained, and a kind of sample is read, without whoever asks for it."""
    above = {
        name
        for name in house().modules
        if name.startswith(("oodbench.tasks", "oodbench.detectors"))
        and "oodbench.evaluator" in house().pulled_in(name)
    }
    assert not above


def test_a_method_loads_few_rooms() -> None:
    for name in house().modules:
        file = name.removeprefix("oodbench.detectors.")
        if file != name and file not in DENSE:
            rooms = house().pulled_in(name)
            assert len(rooms) <= AT_MOST.get(file, USUALLY), f"{file}: {sorted(rooms)}"


def folder(name: str) -> str:
    """The room's folder, or itself if it stands in none: ``"data"``, ``"evaluator"``."""
    return name.split(".")[1]


def test_who_is_asked_knows_not_who_asks() -> None:
    """Imports inside functions count too."""
    for name, rooms in house().reach(inside_functions=True).items():
        reached = {folder(one) for one in rooms}
        if folder(name) in DOWNSTAIRS:
            above = UPSTAIRS | {"tasks", "training", "measures"}
            assert not reached & above, f"{name} -> {sorted(reached & above)}"
        elif folder(name) in ("tasks", "training"):
            above = UPSTAIRS - {"extract", "looking", "passes"}
            assert not reached & above, f"{name} -> {sorted(reached & above)}"
        if folder(name) != "cli":
            assert "cli" not in reached, name
            asks = name in AGAIN or folder(name) in ("testing", "evaluation", "scale")
            assert "evaluator" not in reached or asks, name  # the checks of a task evaluate on it


def test_the_core_stays_in_readable_pieces() -> None:
    """A room is about 400 lines, unless it is one thing; the longest are such."""
    long = {name: room.lines for name, room in house().rooms.items() if room.lines > 450}
    assert set(long) <= set(ONE_THING), long
    assert max(long.values()) <= 610


def test_what_is_drawn_is_what_python_loads(without_editable: dict[str, set[str]]) -> None:
    """The arrows are read from the source; this compares them with a process that imports."""
    drawn: set[str] = set()
    for name in ("msp", "palm"):
        drawn |= house().pulled_in(f"oodbench.detectors.{name}")
        loaded = {one for one in without_editable[name] if one in house().rooms}
        assert loaded - {"oodbench"} == drawn


def importing(paths: list[Path], *names: str) -> dict[str, set[str]]:
    """Files that import one of these packages, or from them, and what."""
    found = {}
    for path in paths:
        dotted = tuple(f"{name}." for name in names)
        wrong = {one for one in imported(path) if f"{one}.".startswith(dotted)}
        if wrong:
            found[path.relative_to(REPOSITORY).as_posix()] = wrong
    return found


def test_core_knows_no_plugin() -> None:
    assert len(CORE) > 100
    assert importing(CORE, "oodbench.detectors", "oodbench.datasets") == {}


def test_neighbours_are_imported_relatively() -> None:
    assert len(PLUGINS) > 80
    names = ("oodbench.detectors", "oodbench.datasets", "detectors", "datasets")
    assert importing(PLUGINS, *names) == {}


def test_an_import_that_is_wrong_is_seen() -> None:
    path = REPOSITORY / "oodbench" / "evaluator.py"
    assert importing([path], "oodbench.hard") == {}
    assert importing([path], "oodbench.hard", "oodbench.hardware")["oodbench/evaluator.py"] >= {
        "oodbench.hardware",
        "oodbench.hardware.Hardware",
    }


def test_entry_points_name_what_the_folders_hold() -> None:
    points = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"]
    for group, table in points.items():
        for name, target in table.items():
            module, _, attribute = target.partition(":")
            thing = getattr(importlib.import_module(module), attribute.removesuffix(" [alias]"))
            if group in ("oodbench.detectors", "oodbench.methods"):
                assert thing.name == name, f"{target} is registered as {thing.name!r}, not {name!r}"
            if group == "oodbench.datasets" and hasattr(thing, "name"):
                assert thing.name == name
    used = {target.partition(":")[0] for table in points.values() for target in table.values()}
    families = {".".join(module.split(".")[:3]) for module in used}
    for folder in FOLDERS:
        for path in (REPOSITORY / folder).iterdir():
            if path.name.startswith("_") or path.name in HELPERS:
                continue
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                module = f"oodbench.{folder}.{path.stem}"
                assert module in families, f"{path} has no entry point in pyproject.toml"


def test_installed_metadata_is_that_of_the_project() -> None:
    import oodbench

    points = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(points["oodbench.detectors"]) <= set(oodbench.list_detectors())
    assert set(points["oodbench.methods"]) <= set(oodbench.list_methods())


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


def test_listing_and_importing_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, oodbench, oodbench.cli\n"
        "assert 'knn' in oodbench.list_detectors()\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'timm', 'PIL', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    found = run(code, tmp_path)
    assert found.returncode == 0, found.stderr


def test_a_script_in_the_repository_root_gets_the_right_answer() -> None:
    """That ``oodbench.datasets`` is found there, all other tests show."""
    found = run("import datasets", REPOSITORY)
    assert found.returncode != 0
    assert "oodbench.datasets" in found.stderr


@pytest.fixture(scope="module")
def without_editable(server: Server) -> dict[str, set[str]]:
    """What a process has loaded after it imported one detector, then another, and what it prints.

    In the repository root, where the folder ``oodbench`` shadows an installed wheel.
    """
    code = (
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "sys.path = ['', *(p for p in sys.path if 'editable' not in p)]\n"
        "import oodbench.detectors.msp\n"
        "print(*sys.modules)\n"
        "import oodbench.detectors.palm\n"
        "print(*sys.modules)\n"
        "import oodbench.datasets.digits\n"
        "import oodbench\n"
        "print(oodbench.create_detector('palm').name, oodbench.get_benchmark('digits').name)\n"
    )
    found = server.imports(code, folder=REPOSITORY)
    assert found.status == 0, found.both
    lines = [set(line.split()) for line in found.out.splitlines()[-3:]]
    return dict(zip(("msp", "palm", "made"), lines, strict=True))


def test_a_checkout_works_where_a_wheel_is_installed(
    without_editable: dict[str, set[str]],
) -> None:
    """In the repository root the folder ``oodbench`` shadows an installed wheel."""
    assert without_editable["made"] == {"palm", "digits"}


def test_public_names_exist() -> None:
    import oodbench

    for name in oodbench.__all__:
        assert getattr(oodbench, name) is not None
    assert set(oodbench.__all__) <= set(dir(oodbench))
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = oodbench.nothing_like_this
