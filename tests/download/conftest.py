"""A publisher for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.publisher import Publisher, publishing


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as one:
        yield one
