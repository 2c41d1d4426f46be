"""A publisher for each test, and the data folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oodbench import files
from tests.helpers.publisher import Publisher, publishing


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as one:
        yield one


@pytest.fixture
def data() -> Path:
    return files.data_dir()
