"""Chromium without a window, driven by Selenium: for tests and benchmarks of the html board."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NEEDS = (
    "they need Chromium with chromedriver (Debian: apt-get install chromium chromium-driver; "
    "elsewhere CHROMIUM and CHROMEDRIVER name the files) and pip install -e '.[browser]'"
)


def chromium() -> tuple[str, str] | None:
    """The browser and its driver: those that the environment names, else those on the path."""
    on_path = next((found for name in NAMES if (found := shutil.which(name))), None)
    browser = os.environ.get("CHROMIUM") or on_path
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


def missing() -> str:
    """What is not here of what a browser's tests need; empty if all is."""
    lacks = [] if chromium() else ["Chromium or chromedriver"]
    lacks += [name for name in ("selenium",) if importlib.util.find_spec(name) is None]
    lacks += [] if axe() else ["axe-playwright-python"]
    return ", ".join(lacks)


def axe() -> Path | None:
    """axe-core, the audit of accessibility, which a package carries as one file."""
    spec = importlib.util.find_spec("axe_playwright_python")
    folders = (spec and spec.submodule_search_locations) or ()
    return next((p for f in folders if (p := Path(f) / "axe.min.js").is_file()), None)


def start() -> Any:
    """A driver of a new browser, whose log and requests are kept; ``quit`` ends it."""
    from selenium import webdriver

    found = chromium()
    assert found, NEEDS
    options = webdriver.ChromeOptions()
    options.binary_location, driver = found
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    made.set_script_timeout(120)
    return made


def show(driver: Any, address: str, *, width: int = 1280, theme: str = "light") -> None:
    """Open a page, as a window of this width in this theme shows it, and wait for its plot."""
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get("about:blank")
    driver.get(address)
    settle(driver, 260)  # what waits longest does so for 250 ms


def settle(driver: Any, milliseconds: int = 200) -> None:
    """Let the page do what it has put off."""
    driver.execute_script(f"return new Promise(done => setTimeout(done, {milliseconds}))")
