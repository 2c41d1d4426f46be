"""What all check suites share."""

from __future__ import annotations

import json
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


def is_frozen(dataclass: Any) -> bool:
    """Whether the fields of a dataclass, or of an object of one, cannot be set."""
    return bool(dataclass.__dataclass_params__.frozen)


def is_json(value: Any) -> bool:
    """Whether JSON can hold a value; a tuple counts as a list."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
