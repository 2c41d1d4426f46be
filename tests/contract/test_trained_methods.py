"""The public check suite over every training method of this package."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest

import oodbench
from oodbench import Benchmark, Method
from oodbench.registry import METHODS
from oodbench.testing import MethodCheck, method_checks, methods
from oodbench.testing.networks import trained

# a method may fail a check only with a reason, and only as long as it does:
# {"name": {"check": "reason"}}
KNOWN_FAILURES: dict[str, dict[str, str]] = {}


# What checks ask of a trained network they ask of copies of one; two that are to be equal, and
# what looks on, are trained for it.


@functools.lru_cache(maxsize=2)
def trained_once(cls: type[Method]) -> Method:
    return trained(cls, methods._benchmark(cls, None))


def copy_of_trained(cls: type[Method], benchmark: Benchmark, **other: Any) -> Method:
    if other:
        return trained(cls, benchmark, **other)
    copied = copy.deepcopy(trained_once(cls))
    for own, first in zip(copied.parameters(), trained_once(cls).parameters(), strict=True):
        own.grad = None if first.grad is None else first.grad.clone()  # deepcopy leaves them out
    return copied


@pytest.fixture(autouse=True)
def _trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "trained", copy_of_trained)


@pytest.mark.parametrize("check", method_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", oodbench.list_methods())
def test_contract(name: str, check: MethodCheck, request: pytest.FixtureRequest) -> None:
    reason = KNOWN_FAILURES.get(name, {}).get(check.__name__)
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    check(METHODS.get(name))
