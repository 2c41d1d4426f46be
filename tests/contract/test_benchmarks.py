"""The public check suite over every benchmark of this package, where its data is not at hand."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

import oodbench
from oodbench import Benchmark
from oodbench.registry import BENCHMARKS
from oodbench.testing import BenchmarkCheck, benchmark_checks, benchmarks
from oodbench.testing.benchmarks import check_makes_the_same, check_reads_nothing
from tests.conftest import write_images

# a benchmark may fail a check only with a reason, and only as long as it does:
# {"name": {"check": "reason"}}
_ANYBODYS = "a folder is anybody's: nothing says what may be done with its images"
KNOWN_FAILURES: dict[str, dict[str, str]] = {
    "folder": {"check_described": _ANYBODYS},
    "ptood/folder": {
        "check_described": _ANYBODYS,
        "check_reads_nothing": "the native size is the median of the sizes of the folder's images",
    },
}
WITH_ARGUMENT = ("folder", "ptood/folder")
NAMES = [name for name in oodbench.list_benchmarks() if name not in WITH_ARGUMENT]


@pytest.fixture(autouse=True)
def _known_failure(name: str, check: BenchmarkCheck, request: pytest.FixtureRequest) -> None:
    reason = KNOWN_FAILURES.get(name, {}).get(check.__name__)
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


ABOUT_MAKING = (check_makes_the_same, check_reads_nothing)
"""Checks that make a benchmark anew; the others look at what is made, and long lists take long."""


@functools.cache
def made(name: str) -> Benchmark:
    make = BENCHMARKS.get(name)
    return make if isinstance(make, Benchmark) else make()


_last: list[tuple[Benchmark, list[Any]]] = []
"""The benchmark that was looked at last, and its sets."""


@pytest.fixture
def _loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists of a benchmark are read once for all checks, not once for each."""
    load = benchmarks._loaded

    def loaded(benchmark: Benchmark) -> Iterator[Any]:
        if not _last or _last[0][0] is not benchmark:
            _last[:] = [(benchmark, [*load(benchmark)])]
        return iter(_last[0][1])

    monkeypatch.setattr(benchmarks, "_loaded", loaded)


@pytest.mark.usefixtures("_loaded_once")
@pytest.mark.parametrize("check", benchmark_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str, check: BenchmarkCheck) -> None:
    check(BENCHMARKS.get(name) if check in ABOUT_MAKING else made(name))  # type: ignore[arg-type]


@pytest.mark.parametrize("check", benchmark_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", WITH_ARGUMENT)
def test_contract_of_folders(
    name: str, check: BenchmarkCheck, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("birds")
    for seed, split in enumerate(("train", "val", "test")):
        write_images(root / split, {"crow": 3, "tit": 3}, size=8, seed=seed)
    make = BENCHMARKS.get(name)
    check(lambda: make(str(root)))  # type: ignore[operator]
