"""The tables of ``data status``: what a set's state is, and that they fit where they are read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from oodbench import stock
from oodbench.benchmark import get_benchmark
from oodbench.cli import data
from oodbench.cli.stocks import content_of, print_stock, print_stocks, sets_of
from oodbench.errors import OODBenchError
from oodbench.registry import BENCHMARKS
from oodbench.stock import SplitStock, Stock
from oodbench.stocktaking import take


def here(name: str, split: str = "test", **about: object) -> SplitStock:
    return SplitStock(name, split, count=3, **about)  # type: ignore[arg-type]


def absent(name: str, split: str = "test") -> SplitStock:
    return SplitStock(name, split, problem="nowhere", command="get it", to_fetch=5)


@pytest.mark.parametrize(
    ("splits", "state"),
    [
        ((here("a"),), "here"),
        ((here("a", "train"), here("a")), "here"),
        ((here("a", "train"), absent("a")), "part"),
        ((absent("a", "train"), here("a")), "part"),
        ((absent("a", "train"), absent("a")), "not here"),
        ((here("a", expected=4, problem="part: 3 of 4"),), "part"),
        ((here("a", expected=3, problem="other images"),), "another"),
        ((here("a", expected=2, problem="more"),), "another"),
        ((SplitStock("a", "test", problem="damaged"), absent("a", "train")), "damaged"),
    ],
)
def test_the_state_of_a_set_is_that_of_its_splits(
    splits: tuple[SplitStock, ...], state: str
) -> None:
    assert sets_of(Stock("b", "benchmark", splits)) == {"a": state}


@pytest.mark.parametrize(
    ("split", "told"),
    [
        (here("a", expected=4, published="0" * 64, fingerprint="1" * 64,
              problem="part: 3 of 4"), "part: 3 of 4"),
        (here("a", expected=3, published="0" * 64, fingerprint="1" * 64,
              problem="other images"), "another: 11111111, not 00000000"),
        (here("a", expected=3, published="0" * 64, fingerprint="0" * 64),
         "as published (00000000)"),
        (here("a", expected=3, published="0" * 64), "not compared: --check"),
        (here("a", expected=3), "as many as published"),
        (here("a"), "nothing to compare"),
        (absent("a"), "not here, 5"),
    ],
)  # fmt: skip
def test_what_is_said_of_contents(split: SplitStock, told: str) -> None:
    assert content_of(split).startswith(told)


def printed(show: object, *what: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(*what, console)  # type: ignore[operator]
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_part_says_what_to_do() -> None:
    splits = (here("a", expected=4, problem="part: 3 of 4"),)
    text = printed(print_stock, Stock("b", "benchmark", splits))
    assert "part: 3 of 4" in text
    assert "to have all of a: move away what is here, then oodbench data prepare a" in text


def test_all_benchmarks_fit_a_page() -> None:
    """A few lines of 100 columns each, with nothing here, and a screen for each by itself."""
    stocks = []
    for name in BENCHMARKS.names():
        try:
            get_benchmark(benchmark=name)
        except OODBenchError:  # one that wants an argument
            continue
        stocks.append(take(name))
    text = printed(print_stocks, stocks)
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) <= 4 * len(stocks)
    for one in stocks:
        assert f"\n{one.name} " in f"\n{text}"
        alone = printed(print_stock, one)
        assert len(alone.splitlines()) <= 24, one.name
        assert max(map(len, alone.splitlines()[:-1])) <= 100


def test_what_was_checked_with_care_is_told_where_less_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    fast, careful = Stock("digits", "fast"), Stock("digits", "careful")
    stock.remember(fast, stock.look(), is_checked=False)
    assert data.stock_of("digits", False) == fast
    stock.remember(careful, stock.look(), is_checked=True)
    assert data.stock_of("digits", False) == data.stock_of("digits", True) == careful
    assert data.stocks_of(["digits"], False) == ([careful], {})
