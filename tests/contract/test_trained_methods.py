"""The public check suite over every training method of this package."""

from __future__ import annotations

import pytest

import oodbench
from oodbench.registry import METHODS
from oodbench.testing import MethodCheck, method_checks

# a method may fail a check only with a reason, and only as long as it does:
# {"name": {"check": "reason"}}
KNOWN_FAILURES: dict[str, dict[str, str]] = {}


@pytest.mark.parametrize("check", method_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", oodbench.list_methods())
def test_contract(name: str, check: MethodCheck, request: pytest.FixtureRequest) -> None:
    reason = KNOWN_FAILURES.get(name, {}).get(check.__name__)
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    check(METHODS.get(name))
