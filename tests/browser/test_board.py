"""The board in a browser: fast, usable by keyboard and on a phone, and it asks nobody for anything.

They run where there are Chromium with its driver and ``selenium``; the audit of accessibility wants
``axe.min.js`` too, whose place ``AXE`` says (``npm pack axe-core`` has it).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oodbench.board.content import FIGURES
from oodbench.board.page import html

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
AXE = Path(os.environ.get("AXE", "axe.min.js"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER and importlib.util.find_spec("selenium")),
        reason="needs Chromium with chromedriver (apt-get install chromium chromium-driver) and "
        "selenium (pip install selenium)",
    ),
]

EVIL = "<script>window.pwned=1</script>|\"'<img src=x onerror=window.pwned=1>שלום"


def an_entry(number: int, detector: str, sets: int) -> dict[str, Any]:
    value = round(50 + (number * 7919 % 5000) / 100, 2)
    figure = [value, round(value - 0.5, 2), round(value + 0.4, 2), 0.21]
    return {
        "id": f"d-{number:06d}", "rank": number + 1, "detector": detector,
        "settings": f"k={number}",
        "method": f"method-{number % 7}", "recipe": "quick", "backbone": f"net-{number % 3}",
        "modality": "", "seeds": [0, 1], "older": False, "word": None, "tuned": "",
        "figures": [[figure] * len(FIGURES)] * sets, "extras": [[91.25]], "notes": [], "twins": [],
        "each": [[[value, value]] * 3] * sets, "made": 0, "input": 0, "idTest": "1" * 64,
        "idTrain": None, "bibtex": [1], "published": [],
        "runs": [{"seed": s, "command": 0, "with": 0, "weights": "w" * 64, "when": "2026-01-01",
                  "seconds": 1.5, "results": ["a.json"], "row": f"{number:030d}{s:02d}",
                  "checked": "reported"} for s in (0, 1)],
        "curves": {"seed": 0, "sets": [{"ood": "near-a", "roc": list(range(0, 1010, 10)),
                                        "id": [25] * 40, "out": [25] * 40, "ends": [0.0, 1.0]}]},
    }  # fmt: skip


def board(entries: int, name: str = "toy") -> dict[str, Any]:
    sets = [
        {"name": n, "group": g, "mean": m, "of": [n], "n": 100, "fingerprint": "f" * 64}
        for n, g, m in (("near-a", "near", False), ("near", "near", True), ("far", "far", True))
    ]
    part = {
        "title": "near, far", "about": ["ID test: 60 images."], "sets": sets,
        "extras": [{"title": "ID accuracy", "low": False}], "ranked": [1, 0],
        "entries": [an_entry(i, EVIL if i == 1 else f"detector-{i}", 3) for i in range(entries)],
    }  # fmt: skip
    benchmark = {
        "name": name, "key": "toy", "id": "toy", "task": "classification", "about": ["About it."],
        "metric": "AUROC", "figures": FIGURES, "fpr": 1, "parts": [part],
        "texts": ["oodbench eval --id toy", "@inproceedings{x}"],
    }  # fmt: skip
    return {"oodbench": "1", "leftOut": [{"name": EVIL, "why": EVIL}], "benchmarks": [benchmark]}


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    root = tmp_path_factory.mktemp("boards")
    made = {}
    for entries in (30, 500, 5000):
        path = root / f"{entries}.html"
        path.write_text(html(board(entries, EVIL if entries == 30 else "toy")), encoding="utf-8")
        made[entries] = path.as_uri()
    return made


def show(driver: Any, address: str, *, width: int = 1280, theme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get("about:blank")
    driver.get(address)
    driver.execute_script("return new Promise(done => setTimeout(done, 400))")


VIEWS = {"front": "", "benchmark": "#toy", "entry": "#toy/d-000000"}


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("view", VIEWS)
def test_names_are_text_and_nothing_is_asked_for(
    driver: Any, pages: dict[int, str], view: str, width: int
) -> None:
    driver.get_log("performance")
    show(driver, pages[30] + VIEWS[view], width=width)
    assert driver.execute_script("return window.pwned === undefined")
    assert (
        driver.execute_script("return document.querySelectorAll('main script, main img').length")
        == 0
    )
    assert EVIL in driver.execute_script("return document.querySelector('main').textContent")
    sent = [json.loads(one["message"])["message"] for one in driver.get_log("performance")]
    asked = [
        m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"
    ]
    assert {url.partition("#")[0] for url in asked} <= {pages[30], "about:blank", "data:,"}
    assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_of_360_pixels_scrolls_no_page_sideways(
    driver: Any, pages: dict[int, str], view: str
) -> None:
    show(driver, pages[30] + VIEWS[view], width=360)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 360


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe.min.js, whose place the variable AXE says")
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(
    driver: Any, pages: dict[int, str], view: str, theme: str, width: int
) -> None:
    show(driver, pages[30] + VIEWS[view], theme=theme, width=width)
    driver.execute_script(
        "document.querySelectorAll('details').forEach(one => { one.open = true; })"
    )
    driver.execute_script(AXE.read_text(encoding="utf-8"))
    found = driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa',"
        " 'best-practice']}).then(r => done(r.violations.map(v =>"
        " [v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + n.failureSummary)])))"
    )
    assert found == []


def milliseconds(driver: Any, script: str) -> float:
    """What a script takes with the layout that follows; the best of three.

    It is the time that the page's process computes, so that other programs do not count.
    """
    driver.execute_cdp_cmd("Performance.enable", {})

    def spent() -> float:
        metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(1000.0 * one["value"] for one in metrics if one["name"] == "ProcessTime")

    taken = []
    for _ in range(3):
        before = spent()
        driver.execute_script(script + ";document.body.offsetHeight")
        taken.append(spent() - before)
    return min(taken)


def test_500_entries_are_shown_in_a_second(driver: Any, pages: dict[int, str]) -> None:
    show(driver, pages[500] + "#toy")
    choose = (
        "const s = document.querySelector('.pager select'); s.value = '500';"
        "s.dispatchEvent(new Event('change'))"
    )
    assert milliseconds(driver, choose) < 1000
    assert (
        driver.execute_script("return document.querySelectorAll('.board tbody tr').length") == 500
    )


def test_5000_entries_are_sorted_and_filtered_at_once(driver: Any, pages: dict[int, str]) -> None:
    show(driver, pages[5000] + "#toy")
    for column in ("f.1.0", "name"):
        click = f"document.querySelector('th[data-column=\"{column}\"] button').click()"
        assert milliseconds(driver, click) < 200
    search = (
        "const s = document.querySelector('input[type=search]'); s.value = 'detector-49';"
        "s.dispatchEvent(new Event('input'))"
    )
    assert milliseconds(driver, search) < 200
    text = driver.execute_script("return document.querySelector('.pager').textContent")
    assert "of 111 entries" in text


def test_a_table_sorts_by_its_figures(driver: Any, pages: dict[int, str]) -> None:
    show(driver, pages[500] + "#toy")
    column = "th[data-column='f.1.0']"
    driver.execute_script(f'document.querySelector("{column} button").click()')
    shown = driver.execute_script(
        f'const i = document.querySelector("{column}").cellIndex;'
        "return [...document.querySelectorAll('.board tbody tr')]"
        ".map(row => parseFloat(row.cells[i].textContent))"
    )
    assert len(shown) == 50
    entries = board(500)["benchmarks"][0]["parts"][0]["entries"]
    values = sorted((one["figures"][1][0][0] for one in entries), reverse=True)
    assert shown == values[:50]
    assert driver.find_element("css selector", column).get_attribute("aria-sort") == "descending"


def test_the_keyboard_alone_reaches_a_row_and_comes_back(
    driver: Any, pages: dict[int, str]
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(driver, pages[30] + "#toy")

    def press(key: str) -> None:
        ActionChains(driver).send_keys(key).perform()

    def focused(script: str) -> Any:
        return driver.execute_script(f"const e = document.activeElement; return {script}")

    reached = set()
    for _ in range(80):
        press(Keys.TAB)
        reached.add(focused("e.tagName + ' ' + (e.type || e.getAttribute('href') || '')"))
        if focused("e.getAttribute('href')") == "#toy/d-000001":
            break
    assert {"INPUT search", "SELECT select-one", "INPUT checkbox", "SUMMARY ", "BUTTON button",
            "A #toy/d-000000", "A #toy/d-000001"} <= reached  # fmt: skip
    press(Keys.ENTER)
    driver.execute_script("return new Promise(done => setTimeout(done, 200))")
    assert focused("e.tagName") == "H1"
    assert EVIL in driver.execute_script("return document.querySelector('h1').textContent")
    driver.back()
    driver.execute_script("return new Promise(done => setTimeout(done, 200))")
    assert focused("e.getAttribute('href')") == "#toy/d-000001"


def test_the_points_of_the_plot_by_arrows(driver: Any, pages: dict[int, str]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(driver, pages[30] + "#toy")
    driver.execute_script("document.querySelector('figure svg a[tabindex=\"0\"]').focus()")
    at = "return document.activeElement.getAttribute('href')"
    first = driver.execute_script(at)
    ActionChains(driver).send_keys(Keys.ARROW_RIGHT).perform()
    assert driver.execute_script(at) not in (first, None)
    assert (
        driver.execute_script(
            "return document.querySelectorAll('figure svg a[tabindex=\"0\"]').length"
        )
        == 1
    )


def test_links_to_rows(driver: Any, pages: dict[int, str]) -> None:
    for link in ("#toy/d-000003", f"#toy/{3:030d}01"):
        show(driver, pages[30] + link)
        assert driver.execute_script("return document.querySelector('h1').textContent").startswith(
            "detector-3 "
        )
    show(driver, pages[30] + "#toy/nobody-12345")
    assert "no such entry" in driver.execute_script(
        "return document.querySelector('.note').textContent"
    )
    show(driver, pages[30] + "#%E0%A4%A")
    assert driver.execute_script("return document.querySelectorAll('.card').length") == 1


def test_the_theme_can_be_chosen(driver: Any, pages: dict[int, str]) -> None:
    back = "return getComputedStyle(document.body).backgroundColor"
    show(driver, pages[30])
    light = driver.execute_script(back)
    choose = (
        "const t = document.getElementById('theme'); t.value = '{}';"
        "t.dispatchEvent(new Event('change'))"
    )
    driver.execute_script(choose.format("dark"))
    dark = driver.execute_script(back)
    assert dark != light
    driver.execute_script(choose.format(""))
    show(driver, pages[30], theme="dark")
    assert driver.execute_script(back) == dark


def test_print_has_all_rows(driver: Any, pages: dict[int, str]) -> None:
    show(driver, pages[500] + "#toy")
    driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert (
        driver.execute_script("return document.querySelectorAll('.board tbody tr').length") == 500
    )
    driver.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert driver.execute_script("return document.querySelectorAll('.board tbody tr').length") == 50
