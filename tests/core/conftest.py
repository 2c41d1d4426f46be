"""What several tests of the core share."""

from __future__ import annotations

import pytest


@pytest.fixture
def none_seen() -> None:
    """What detectors and samples of ``tests.helpers.tuning`` saw is forgotten."""
    from tests.helpers.tuning import Counted, Distance

    Counted.read = 0
    Distance.fits.clear()
    Distance.scored.clear()
