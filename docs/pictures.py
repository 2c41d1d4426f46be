"""Photographs the board for docs/pictures: front, benchmark, entry, phone, dark.

Run: ``oodbench leaderboard --html --out board.html && python docs/pictures.py board.html``.
It needs what tests/browser need (CONTRIBUTING.md).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.helpers import browser  # noqa: E402

ENTRY = "document.querySelector('.board tbody th a').getAttribute('href')"
VIEWS: dict[str, dict[str, Any]] = {
    "front": {},
    "benchmark": {"at": "#digits", "height": 1000},
    "dark": {"at": "#digits", "height": 900, "theme": "dark", "scroll": ".pager"},
    "row": {"at": "#cifar10-openood", "entry": True, "height": 1400},
    "phone": {"at": "#digits", "width": 360, "height": 740, "scroll": ".tools"},
}


def main(board: Path) -> None:
    """Write one picture of each view."""
    driver = browser.start()
    try:
        for name, view in VIEWS.items():
            picture = taken(driver, board.resolve().as_uri(), **view)
            # few colours are on the page, so a palette loses next to nothing
            picture = picture.convert("RGB").quantize(160, dither=Image.Dither.NONE)
            picture.save(ROOT / "docs" / "pictures" / f"board-{name}.png", optimize=True)
    finally:
        driver.quit()


def taken(
    driver: Any,
    address: str,
    at: str = "",
    width: int = 1280,
    height: int = 900,
    theme: str = "light",
    scroll: str = "",
    entry: bool = False,
) -> Image.Image:
    """A view of the board; ``entry``: of the first entry there; ``scroll``: from an element on."""
    browser.show(driver, address + at, width=width, theme=theme)
    if entry:
        at = driver.execute_script(f"return {ENTRY}")
        browser.show(driver, address + at, width=width, theme=theme)
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    if scroll:
        driver.execute_script(f"document.querySelector('{scroll}').scrollIntoView()")
    browser.settle(driver, 500)
    return Image.open(io.BytesIO(driver.get_screenshot_as_png()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
