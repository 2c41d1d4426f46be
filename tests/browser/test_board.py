"""The board in a browser: usable by keyboard and on a phone, and it asks nobody for anything.

What they need is said where they are skipped; ``benchmarks/board.py`` measures how fast it is.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.helpers.boards import EVIL, board
from tests.helpers.browser import axe, settle, show

pytestmark = pytest.mark.browser

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
    # right-to-left text is isolated, so that it moves nothing around it
    loose = driver.execute_script(
        "const walk = document.createTreeWalker(document.querySelector('main'), 4), loose = [];"
        "while (walk.nextNode()) if (walk.currentNode.data.includes('שלום') && !walk.currentNode"
        ".parentElement.closest('bdi, p, pre, option, title, li, caption, [aria-label] > svg'))"
        " loose.push(walk.currentNode.data);"
        "return loose"
    )
    assert loose == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_of_360_pixels_scrolls_no_page_sideways(
    driver: Any, pages: dict[int, str], view: str
) -> None:
    show(driver, pages[30] + VIEWS[view], width=360)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 360


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
    source = axe()
    assert source
    driver.execute_script(source.read_text(encoding="utf-8"))
    found = driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa',"
        " 'best-practice'], resultTypes: ['violations']}).then(r => done(r.violations.map(v =>"
        " [v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + n.failureSummary)])))"
    )
    assert found == []


def test_500_entries_are_shown_at_once(driver: Any, pages: dict[int, str]) -> None:
    show(driver, pages[500] + "#toy")
    driver.execute_script(
        "const s = document.querySelector('.pager select'); s.value = '500';"
        "s.dispatchEvent(new Event('change'))"
    )
    count = "return document.querySelectorAll('.board tbody tr').length"
    assert driver.execute_script(count) == 500


FILTERS = {
    "Method": ("method-3", lambda e: e["method"] == "method-3"),
    "Backbone": ("net-1", lambda e: e["backbone"] == "net-1"),
    "Tag": ("reads logits", lambda e: "reads logits" in e["tags"]),
}


@pytest.mark.parametrize("label", FILTERS)
def test_5000_entries_are_filtered(driver: Any, pages: dict[int, str], label: str) -> None:
    word, passes = FILTERS[label]
    show(driver, pages[5000] + "#toy")
    driver.execute_script(
        "const s = [...document.querySelectorAll('[role=search] label')].find("
        f"l => l.textContent.startsWith('{label}')).querySelector('select');"
        f"s.value = '={word}'; s.dispatchEvent(new Event('change'))"
    )
    entries = board(5000)["benchmarks"][0]["parts"][0]["entries"]
    wanted = [one["detector"] for one in entries if passes(one)]
    text = driver.execute_script("return document.querySelector('.pager').textContent")
    assert f"of {len(wanted):,} entries" in text
    shown = driver.execute_script(
        "return [...document.querySelectorAll('.board tbody th a')].map(a => a.textContent)"
    )
    assert shown == wanted[:50]


def test_5000_entries_are_searched(driver: Any, pages: dict[int, str]) -> None:
    show(driver, pages[5000] + "#toy")
    driver.execute_script(
        "const s = document.querySelector('input[type=search]'); s.value = 'detector-49';"
        "s.dispatchEvent(new Event('input'))"
    )
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
    settle(driver)
    assert focused("e.tagName") == "H1"
    assert EVIL in driver.execute_script("return document.querySelector('h1').textContent")
    driver.back()
    settle(driver)
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


CONTROLS = """
const own = [...document.querySelectorAll('a[href], button, input, select, summary, pre, .scroll')];
own.forEach((one, i) => { one.dataset.number = i; });
return own.filter(one => one.checkVisibility() && !one.disabled && one.tabIndex >= 0)
    .map(one => one.dataset.number);
"""


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("view", VIEWS)
def test_the_keyboard_alone_reaches_everything(
    driver: Any, pages: dict[int, str], view: str, width: int
) -> None:
    """Tab comes to every link and control, what is folded among it once Enter has opened it."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(driver, pages[30] + VIEWS[view], width=width)
    for_mice = driver.execute_script(
        "return [...document.querySelectorAll('body *')].filter(one => getComputedStyle(one).cursor"
        " === 'pointer' && !one.closest('a[href], button, summary, select, input, label'))"
        ".map(one => one.outerHTML.slice(0, 200))"
    )
    assert for_mice == [], "what can be clicked can be reached by Tab"
    at = "const e = document.activeElement; return [e.tagName, e.parentElement.open, {}]".format
    wanted: set[str] = set()
    reached = set()
    for _ in range(400):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        tag, is_open, _ = driver.execute_script(at("0"))
        if tag == "SUMMARY" and not is_open:
            ActionChains(driver).send_keys(Keys.ENTER).perform()
            wanted = set()
        wanted = wanted or set(driver.execute_script(CONTROLS))
        number = driver.execute_script(at("e.dataset.number || null"))[2]
        if number in reached and wanted <= reached:
            break
        reached.add(number)
    assert len(wanted) > 4
    assert not driver.execute_script(
        "return document.querySelectorAll('details:not([open])').length"
    )
    assert wanted - reached == set()


def test_the_keyboard_sorts_chooses_columns_and_filters(driver: Any, pages: dict[int, str]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(driver, pages[30] + "#toy")

    def press(place: str, *keys: str) -> None:
        driver.execute_script(f"{place}.focus()")
        ActionChains(driver).send_keys(*keys).perform()

    press("document.querySelector('th[data-column=name] button')", Keys.SPACE)
    cell = driver.find_element("css selector", "th[data-column=name]")
    assert cell.get_attribute("aria-sort") == "ascending"
    focused = "return document.activeElement.closest('th')?.dataset.column"
    assert driver.execute_script(focused) == "name", "the focus stays where it was"

    columns = "return document.querySelectorAll('.board thead th').length"
    before = driver.execute_script(columns)
    press("document.querySelector('details.columns summary')", Keys.ENTER)
    press("document.querySelector('details.columns input')", Keys.SPACE)
    assert driver.execute_script(columns) != before

    press("document.querySelector('input[type=search]')", "detector-7")
    assert "of 1 entries" in driver.execute_script(
        "return document.querySelector('.pager').textContent"
    )
    settle(driver, 400)
    said = driver.execute_script("return document.getElementById('said').textContent")
    assert "1 to 1 of 1 entries" in said


def test_a_printed_entry_has_the_curves_of_all_sets(driver: Any, pages: dict[int, str]) -> None:
    show(driver, pages[30] + "#toy/d-000000")
    figures = "return document.querySelectorAll('.plots figure').length"
    assert driver.execute_script(figures) == 2
    driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert driver.execute_script(figures) == 4
    driver.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert driver.execute_script(figures) == 2


def test_published_figures_stand_beside_the_own(driver: Any, pages: dict[int, str]) -> None:
    show(driver, pages[30] + "#toy/d-000003")
    text = driver.execute_script("return document.querySelector('main').textContent")
    assert "80.1" in text
    assert "outside of the interval" in text
