"""The tests themselves: each can be read, run and moved alone."""

from __future__ import annotations

import ast
import contextlib
import re
import signal
from pathlib import Path

import pytest

from oodbench.runtime import signals
from tests.conftest import REPOSITORY
from tests.helpers.cli import stopped_by_signals
from tests.helpers.syntax import tree

TESTS = REPOSITORY / "tests"
FOLDERS = {"oodbench": "", "detectors": "detectors", "datasets": "datasets"}
ELSEWHERE = {
    # what outliers are refused for is told where training with them is
    "oodbench/checks/unseen.py": "training/test_outliers.py",
    "detectors/_outliers.py": "detectors/test_oe.py",
    "detectors/_queues.py": "detectors/test_vos.py",
    # the parts of what is one thing to whoever uses it: the key of a network and of its outputs
    "oodbench/caching/": "caching/test_fingerprint.py",
    # what several networks see together is seen beforehand for their evaluations
    "oodbench/ahead.py": "core/test_together.py",
    "oodbench/scale/": "scale/test_driver.py",
    # the command line is tested as a user runs it
    "oodbench/cli/": "cli/test_cli.py",
    # what is trained is a network for boxes as it is
    "detectors/ce_detection.py": "networks/test_boxes.py",
    # the conditions under which they matter are what their tests are about
    "oodbench/checks/classes.py": "checks/test_overlap.py",
    "oodbench/checks/level.py": "checks/test_doubts.py",
    "oodbench/disk/digests.py": "robustness/test_damage.py",
    "oodbench/disk/": "disk/test_full.py",
    "oodbench/runtime/process.py": "runtime/test_isolation.py",
    "oodbench/runtime/restore.py": "testing/test_untouched.py",
    "oodbench/testing/": "contract/test_detectors.py",
    "oodbench/tested.py": "contract/test_detectors.py",
    # small parts of a larger one
    "oodbench/networks/projects.py": "networks/test_pretrained.py",
    "oodbench/networks/rows.py": "caching/test_parts.py",
    "oodbench/networks/headed.py": "networks/test_checkpoints.py",
    "oodbench/networks/states.py": "networks/test_checkpoints.py",
    "oodbench/tasks/": "tasks/test_task.py",
    "oodbench/deploy/identity.py": "deploy/test_fitted.py",
    "oodbench/deploy/inputs.py": "deploy/test_fitted.py",
    "oodbench/deploy/sources.py": "deploy/test_scoring.py",
    "oodbench/deploy/writers.py": "deploy/test_scoring.py",
    "datasets/literature.py": "results/test_published.py",
    "oodbench/contenders.py": "core/test_evaluator.py",
    "oodbench/detector.py": "core/test_options.py",
    "oodbench/errors.py": "core/test_registry.py",
    "oodbench/evaluation.py": "core/test_evaluator.py",
    "oodbench/info.py": "cli/test_names.py",
    "oodbench/measures.py": "detectors/test_separability.py",
    "oodbench/papers.py": "contract/test_detectors.py",
    "oodbench/reporting.py": "checks/test_said.py",
    "oodbench/selection.py": "core/test_presets.py",
    "oodbench/settings.py": "cli/test_options.py",
    "oodbench/data/listing.py": "data/test_samples.py",
    "oodbench/metrics/ranks.py": "metrics/test_figures.py",
    "oodbench/networks/inputs.py": "core/test_preprocessing.py",
    "oodbench/networks/": "networks/test_classifier.py",
    "oodbench/results/rowcheck.py": "results/test_store.py",
    "oodbench/results/arranged.py": "results/test_leaderboard.py",
    "oodbench/results/outcome.py": "results/test_papertable.py",
    "oodbench/results/pagetables.py": "results/test_leaderboard.py",
    "oodbench/results/wording.py": "results/test_leaderboard.py",
    "oodbench/results/": "results/test_rows.py",
    "detectors/_contrastive.py": "contract/test_methods.py",
    "detectors/_figures.py": "detectors/test_a2d.py",
    "detectors/_modalities.py": "core/test_presets.py",
    "detectors/_multiood.py": "detectors/test_a2d_npmix.py",
    "detectors/multimodal_ce.py": "networks/test_modalities.py",
    "datasets/_bounds.py": "datasets/test_cifar.py",
    "datasets/_find.py": "datasets/test_images.py",
}
"""Modules, or folders of them, whose tests stand in a file of another name, and where."""
MODULES = sorted(path.relative_to(TESTS) for path in TESTS.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """All modules that a file imports, and what it takes from them, if a test may be among them."""
    names: set[str] = set()
    source = path.read_text(encoding="utf-8")
    if not re.search(r"(?<!def )\btest_", source):  # no name but those of its own tests
        return names
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_nothing_imports_a_test_module() -> None:
    """What several need stands in ``helpers/`` or, fixtures, in ``conftest.py``."""
    assert len(MODULES) > 150
    for path in MODULES:
        wrong = ", ".join(name for name in imported(TESTS / path) if ".test_" in name)
        assert not wrong, f"{path} imports {wrong}: move what is shared to tests/helpers/"


def test_the_rule_can_be_broken(tmp_path: Path) -> None:
    for number, line in enumerate(
        (
            "from tests.cli.test_cli import run",
            "from tests.cli import test_cli",
            "import tests.cli.test_cli",
        )
    ):
        path = tmp_path / f"{number}.py"
        path.write_text(line)
        assert any(".test_" in name for name in imported(path)), line


def place(module: Path) -> Path | None:
    """The file of a module's tests: that of its name, else the one that is named above."""
    folder, *inner = module.parts
    wing = Path(FOLDERS[folder], *inner[:-1])
    if folder == "oodbench" and len(inner) == 1:
        wing = Path("core")
    own = wing / f"test_{module.stem.lstrip('_')}.py"
    if (TESTS / own).is_file():
        return own
    name = module.as_posix()
    named = ELSEWHERE.get(name) or ELSEWHERE.get(f"{module.parent.as_posix()}/")
    return Path(named) if named else None


SOURCES = sorted(
    path.relative_to(REPOSITORY)
    for folder in FOLDERS
    for path in (REPOSITORY / folder).rglob("*.py")
    if not path.name.startswith("__")
)


def test_the_tests_of_a_module_are_found_by_its_name() -> None:
    assert len(SOURCES) > 250
    for module in SOURCES:
        found = place(module)
        assert found, (
            f"{module} has no tests: put them into a file test_{module.stem.lstrip('_')}.py, in "
            "the folder of tests that is named as the module's, or say in ELSEWHERE where they "
            "stand"
        )
        assert (TESTS / found).is_file(), f"{module}: there is no tests/{found}"


def test_public_detectors_have_tests_of_their_own() -> None:
    """Each file of them, but for those that are part of a task."""
    for module in SOURCES:
        if module.parts[0] == "detectors" and not module.name.startswith("_"):
            own = TESTS / "detectors" / f"test_{module.name}"
            assert own.is_file() or module.as_posix() in ELSEWHERE, module


def test_no_place_is_named_in_vain() -> None:
    for name, found in ELSEWHERE.items():
        assert (REPOSITORY / name).exists(), f"{name} is gone: take it out of ELSEWHERE"
        assert (TESTS / found).is_file(), found


def interrupted_command(signum: int | None) -> None:
    # tests that a shell runs in the background ignore Ctrl-C, and so would the command
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with contextlib.suppress(signals.Interrupted), signals.handled(ends=False):
            if signum is not None:
                signal.raise_signal(signum)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_from_outside_ends_the_tests(signum: signal.Signals) -> None:
    """Else whichever command was being tried would fail, and the tests would go on."""
    with pytest.raises(pytest.exit.Exception, match=f"{signum.name} came"), stopped_by_signals():
        interrupted_command(signum)
    with stopped_by_signals():
        interrupted_command(None)
