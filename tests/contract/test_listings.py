"""Every line of a listing stands alone: it says what a thing is, and refers to no other line."""

from __future__ import annotations

import dataclasses
import re
from importlib.metadata import entry_points

import pytest

import oodbench
from oodbench import registry
from oodbench.registry import DATASETS, Registry

REGISTRIES = {kind.plural: kind for kind in vars(registry).values() if isinstance(kind, Registry)}
REFERENCE = re.compile(
    r"^(the same|same|as above|as before|likewise|ditto|see|its|their|this|these|those)\b"
    r"|\b(the same (in|of|with|as)|as above|ditto|likewise)\b",
    re.IGNORECASE,
)
WIDEST = 100
"""Characters of a line, so that names and lines fit beside each other."""


def lines(kind: Registry) -> dict[str, str]:
    """The lines of what oodbench itself declares; other tests may have registered more."""
    names = [
        point.name
        for point in entry_points(group=kind.group)
        if point.dist is not None and point.dist.name == "oodbench"
    ]
    return {name: kind.summary(name) for name in kind.names() if name in names}


def test_all_kinds_are_looked_at() -> None:
    wanted = {"detectors", "methods", "benchmarks", "datasets", "backbones", "preparations"}
    assert wanted <= set(REGISTRIES)
    assert all(lines(REGISTRIES[plural]) for plural in wanted)


@pytest.mark.parametrize("plural", REGISTRIES)
def test_every_name_has_a_line_of_its_own(plural: str) -> None:
    said = lines(REGISTRIES[plural])
    names: dict[str, list[str]] = {}
    for name, line in said.items():
        names.setdefault(line, []).append(name)
    assert not names.get(""), "these names have no line"
    assert not {line: shared for line, shared in names.items() if len(shared) > 1}


@pytest.mark.parametrize("plural", REGISTRIES)
def test_no_line_refers_to_another(plural: str) -> None:
    said = lines(REGISTRIES[plural])
    assert not {name: line for name, line in said.items() if REFERENCE.search(line)}
    assert not {name: line for name, line in said.items() if len(line) > WIDEST}


@pytest.mark.parametrize(
    "line",
    [
        "The same in video, sound and flow.",
        "As above, but larger.",
        "Likewise of CIFAR-100.",
        "its test set: simulated street scenes",
        "digits, the same with one more",
    ],
)
def test_a_reference_is_noticed(line: str) -> None:
    assert REFERENCE.search(line)


def test_lines_of_datasets_are_their_descriptions() -> None:
    """The lines are read from the source, and are what the loaded thing says of itself."""
    for name, line in lines(DATASETS).items():
        spec = DATASETS.get(name)
        if dataclasses.is_dataclass(spec):
            assert line == spec.description  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(lines(REGISTRIES["benchmarks"])))
def test_sets_of_a_benchmark_are_described(name: str) -> None:
    """`oodbench info BENCHMARK` shows them below each other."""
    if name.split("/")[-1] == "folder":
        pytest.skip("a benchmark of somebody's own images")
    benchmark = oodbench.get_benchmark(benchmark=name)
    said = [benchmark.id.description, *(ood.spec.description for ood in benchmark.ood)]
    assert all(said)
    assert len(set(said)) == len(said)
    assert not [line for line in said if REFERENCE.search(line)]
