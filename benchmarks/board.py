"""How long the html board takes to show, sort and filter entries, in Chromium without a window.

Run: ``python benchmarks/board.py [--rounds 5] [--limits]``. It prints, of each thing that a person
does, the clock until the next picture is there, and what the page's process computed for it, of
which script and layout: the clock counts what else the machine does, the processor does not.
``--limits`` ends with status 1 if a median by the clock is over its limit: 1 s for 500 entries,
200 ms to sort or filter 5,000.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oodbench.board.page import html
from tests.helpers import browser
from tests.helpers.boards import board

COUNTED = ("ProcessTime", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")

SHOW = (
    "const s = document.querySelector('.pager select'); s.value = '{}';"
    "s.dispatchEvent(new Event('change'))"
)
SORT = "document.querySelector('th[data-column=\"{}\"] button').click()"
FILTER = (
    "const s = document.querySelector('input[type=search]'); s.value = '{}';"
    "s.dispatchEvent(new Event('input'))"
)
CHOOSE = (
    "const s = [...document.querySelectorAll('.tools label')].find(l =>"
    " l.textContent.startsWith('Method')).querySelector('select'); s.value = '{}';"
    "s.dispatchEvent(new Event('change'))"
)


def counters(driver: Any) -> dict[str, float]:
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return {one["name"]: 1000 * one["value"] for one in metrics if one["name"] in COUNTED}


def timed(driver: Any, script: str) -> dict[str, float]:
    """Milliseconds of one act: until the picture after it (clock), and of the page's process."""
    before = counters(driver)
    clock = driver.execute_async_script(
        "const done = arguments[0], start = performance.now();" + script + ";"
        "document.body.offsetHeight;"
        "requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)))"
    )
    after = counters(driver)
    browser.settle(driver, 500)  # the plot is drawn a moment later
    return {"clock": clock} | {name: after[name] - before[name] for name in COUNTED}


def opened(driver: Any, address: str) -> dict[str, float]:
    """Milliseconds from the address to a page that is there, all of its program run."""
    driver.get("about:blank")
    driver.get(address)
    clock = driver.execute_script(
        "return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    )
    spent = counters(driver)
    browser.settle(driver, 500)
    return {"clock": clock} | spent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limits", action="store_true")
    options = parser.parse_args()
    if lacks := browser.missing():
        raise SystemExit(f"not here: {lacks}; {browser.NEEDS}")
    driver = browser.start()
    version = driver.capabilities["browserVersion"]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"Chromium {version}, {os.cpu_count()} processors, load {load:.1f} at the start")
    print(f"{'median of ' + str(options.rounds) + ', ms':44}{'clock':>8}", end="")
    print(f"{'best':>8}{'cpu':>8}{'script':>8}{'layout':>8}{'limit':>8}")
    slow = []

    def told(name: str, taken: list[dict[str, float]], limit: int) -> None:
        middle = {key: statistics.median(one[key] for one in taken) for key in taken[0]}
        best = min(one["clock"] for one in taken)
        layout = middle["LayoutDuration"] + middle["RecalcStyleDuration"]
        print(f"{name:44}{middle['clock']:8.0f}{best:8.0f}{middle['ProcessTime']:8.0f}", end="")
        print(f"{middle['ScriptDuration']:8.0f}{layout:8.0f}{limit:8}", flush=True)
        if middle["clock"] > limit:
            slow.append(name)

    with tempfile.TemporaryDirectory() as folder:
        places = {}
        for entries in (500, 5000):
            path = Path(folder) / f"{entries}.html"
            path.write_text(html(board(entries)), encoding="utf-8")
            places[entries] = path.as_uri() + "#toy"
        try:
            driver.execute_cdp_cmd("Performance.enable", {})
            browser.show(driver, places[500])
            turns = range(options.rounds)
            told("open a page of 500 entries", [opened(driver, places[500]) for _ in turns], 1000)
            told("show all 500 at once", [_all(driver) for _ in turns], 1000)
            told("sort the 500 that are shown", [_twice(driver) for _ in turns], 1000)
            browser.show(driver, places[5000])
            for column in ("f.1.0", "name", "rank"):
                taken = [timed(driver, SORT.format(column)) for _ in turns]
                told(f"sort 5,000 by {column}", taken, 200)
            for script, words in (
                (FILTER, ("detector-49", "d", "net-1 7", "nothing", "")),
                (CHOOSE, ("=method-3", "*")),
            ):
                for word in words:
                    taken = [timed(driver, script.format(word)) for _ in turns]
                    told(f"filter 5,000 by {word!r}", taken, 200)
        finally:
            driver.quit()
    if options.limits and slow:
        raise SystemExit("over the limit by the clock: " + "; ".join(slow))


def _all(driver: Any) -> dict[str, float]:
    timed(driver, SHOW.format(50))
    return timed(driver, SHOW.format(500))


def _twice(driver: Any) -> dict[str, float]:
    timed(driver, SORT.format("name"))
    return timed(driver, SORT.format("f.1.0"))


if __name__ == "__main__":
    main()
