"""What several tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from oodbench.registry import METHODS


@pytest.fixture
def spy() -> Iterator[Any]:
    """The method ``spy``, which has seen nothing so far."""
    from tests.helpers.training import Spy

    METHODS.register("spy")(Spy)
    for notes in (Spy.seen, Spy.rates, Spy.noise):
        notes.clear()
    Spy.fits = 0
    yield Spy
    METHODS.unregister("spy")
