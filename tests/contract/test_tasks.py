"""The public check suite over every task of this package, on drawn samples."""

from __future__ import annotations

from typing import Any

import pytest

import oodbench
from oodbench.testing import TaskCheck, drawn_benchmark, task_checks

# a task may fail a check only with a reason, and only as long as it does:
# {"name": {"check": "reason"}}
KNOWN_FAILURES: dict[str, dict[str, str]] = {}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "multimodal": [{}, {"modality": "left"}],
    "segmentation": [{}, {"background": ("plain",)}],
    "detection": [{"confidence": 0.1}],  # an untrained network is sure of nothing
}
CASES = [(name, options) for name in oodbench.list_tasks() for options in OPTIONS.get(name, [{}])]


@pytest.mark.parametrize("check", task_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_contract(
    name: str, options: dict[str, Any], check: TaskCheck, request: pytest.FixtureRequest
) -> None:
    reason = KNOWN_FAILURES.get(name, {}).get(check.__name__)
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    check(drawn_benchmark(name, options))
