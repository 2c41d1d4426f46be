"""What changes a network's numbers, as one text and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oodbench.errors import OptionError
from tests.helpers.images import CPU


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "32-true"),
        ({"precision": "bf16"}, "bf16-mixed"),
        ({"compile": True}, "32-true + compile"),
        ({"channels_last": False}, "32-true + no-channels-last"),
        (
            {"compile": True, "channels_last": True, "precision": "16"},
            "16-mixed + compile + channels-last",
        ),
    ],
)
def test_hardware_says_what_changes_its_numbers(changed: dict[str, Any], said: str) -> None:
    asked = replace(CPU, **changed)
    assert asked.numbers == said
    assert CPU.computing(said) == asked
    assert replace(CPU, compile=True, channels_last=True).computing(said) == asked


def test_words_that_are_not_known_are_refused() -> None:
    with pytest.raises(OptionError, match="says sparse beside the precision"):
        CPU.computing("32-true + sparse")
