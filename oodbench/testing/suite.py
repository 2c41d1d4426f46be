"""What all check suites share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def checks_in(module: Mapping[str, Any]) -> list[Any]:
    """The functions ``check_…`` that a module defines, in the order of its file.

    Args:
        module: its ``globals()``.
    """
    return [
        value
        for name, value in module.items()
        if name.startswith("check_") and getattr(value, "__module__", "") == module["__name__"]
    ]
