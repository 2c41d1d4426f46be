"""A browser for all tests of this folder, and the boards that they look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from oodbench.board.page import html
from tests.helpers import browser
from tests.helpers.boards import EVIL, board


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """Chromium. Where it is not, the tests are skipped; BROWSER_TESTS=required lets them fail."""
    if lacks := browser.missing():
        message = f"not here: {lacks}. The tests of the board in a browser: {browser.NEEDS}"
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(message)
        pytest.skip(message)
    made = browser.start()
    yield made
    made.quit()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Addresses of boards with so many entries."""
    root = tmp_path_factory.mktemp("boards")
    made = {}
    for entries in (30, 500, 5000):
        path = root / f"{entries}.html"
        path.write_text(html(board(entries, EVIL if entries == 30 else "toy")), encoding="utf-8")
        made[entries] = path.as_uri()
    return made
