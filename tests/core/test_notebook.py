"""What a notebook shows of results, detectors and benchmarks: all of it, and names as text."""

from __future__ import annotations

import dataclasses
import logging
from html.parser import HTMLParser
from typing import Any

import pytest

from oodbench import notebook
from oodbench.benchmark import get_benchmark
from oodbench.detector import Detector, create_detector
from oodbench.registry import DETECTORS
from oodbench.results.outcome import Results
from tests.helpers.pages import entry

EVIL = "<script>alert(1)</script>|\"'&<b>שלום"


class Parsed(HTMLParser):
    """Tags and cells of html; a tag that is not closed is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.lines: list[list[str]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        if tag != "br":
            self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.lines[-1][-1] += data


SAFE = {"table", "caption", "thead", "tbody", "tr", "th", "td", "bdi", "b", "br", "p", "ul", "li"}


def rows(**changes: Any) -> list[dict[str, Any]]:
    one = {"detector": "msp", "method": "ce", "recipe": None, "backbone": "net", "modality": None,
           "benchmark": "toy", "detector_options": {}, "recipe_options": {}, "ood": "near-a",
           "is_mean": False, "seed": 0, "auroc": 0.5, "fpr95_id": 0.25,
           "fpr95_ood": 0.75}  # fmt: skip
    return [one | changes]


def test_results_are_a_table() -> None:
    second = rows(seed=1, auroc=0.7)
    results = Results([*rows(), *second, *rows(ood="near", is_mean=True)])  # type: ignore[arg-type]
    shown = Parsed(results._repr_html_())
    assert shown.lines == [
        ["Detector", "OOD", "AUROC", "FPR@95 (ID positive)", "FPR@95 (OOD positive)", "seeds"],
        ["msp", "near-a", "60.00 ± 14.14", "25.00 ± 0.00", "75.00 ± 0.00", "2"],
        ["msp", "near (mean)", "50.00", "25.00", "75.00", "1"],
    ]
    assert "benchmark toy; method ce; backbone net; figures in percent" in shown.text


def test_two_networks_of_one_seed_are_two_lines() -> None:
    results = Results([*rows(), *rows(auroc=0.7)])  # type: ignore[arg-type]
    lines = Parsed(results._repr_html_()).lines
    assert [line[2] for line in lines[1:]] == ["50.00", "70.00"]


def test_what_went_wrong_is_there() -> None:
    results = Results([], {"svhn": EVIL}, [f"warned {EVIL}"], {"knn": "no features"})
    shown = Parsed(results._repr_html_())
    assert set(shown.tags) <= SAFE
    for word in ("No rows", f"svhn: {EVIL}", f"warned {EVIL}", "knn: no features"):
        assert word in shown.text


def test_rows_of_the_page_helper_are_shown() -> None:
    shown = Parsed(Results(entry(0.8))._repr_html_())  # type: ignore[arg-type]
    assert [line[0] for line in shown.lines[1:]] == ["msp"] * 4
    assert shown.lines[1][1:3] == ["near-a", "80.00"]


def test_long_results_say_how_many_more() -> None:
    many = [row for i in range(notebook.MOST + 5) for row in rows(ood=f"set-{i}")]
    shown = Parsed(Results(many)._repr_html_())  # type: ignore[arg-type]
    assert len(shown.lines) == notebook.MOST + 2
    assert "and 5 more lines" in shown.text


def test_names_are_text() -> None:
    for name in ("detector", "method", "backbone", "ood", "benchmark", "modality"):
        both = [*rows(), *rows(**{name: EVIL})]
        for chosen in (both, both[1:]):
            shown = Parsed(Results(chosen)._repr_html_())  # type: ignore[arg-type]
            assert set(shown.tags) <= SAFE
            assert EVIL in shown.text


@pytest.mark.parametrize("name", DETECTORS.names())
def test_every_detector(name: str) -> None:
    detector = create_detector(name)
    shown = Parsed(detector._repr_html_())
    assert set(shown.tags) <= SAFE
    for option in detector.options():
        assert option in shown.text
    assert name in shown.text


def test_a_detector_says_whether_it_is_fitted() -> None:
    knn = create_detector("knn")
    assert "not fitted; fit() reads train" in knn._repr_html_()
    knn._is_fitted = True
    assert "not fitted" not in knn._repr_html_()
    assert "learns nothing" in create_detector("msp")._repr_html_()


def test_a_detector_without_anything() -> None:
    @dataclasses.dataclass
    class Plain(Detector):
        word: str = EVIL

    shown = Parsed(Plain()._repr_html_())
    assert set(shown.tags) <= SAFE
    assert EVIL in shown.text


def test_a_benchmark_names_its_sets() -> None:
    shown = Parsed(get_benchmark("digits")._repr_html_())
    for word in ("digits-6-9", "photo-patches", "near OOD", "ranked by", "classification"):
        assert word in shown.text


def test_the_library_logs_nothing_by_itself(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = logging.lastResort
    log = logging.getLogger("oodbench")
    silent = [one for one in log.handlers if isinstance(one, logging.NullHandler)]
    assert silent
    monkeypatch.setattr(log, "handlers", silent)  # a command that ran here prints its warnings
    assert kept is not None
    propagates, log.propagate = log.propagate, False  # pytest listens further up
    try:
        logging.getLogger("oodbench.disk").warning("to nobody")
    finally:
        log.propagate = propagates
    assert "to nobody" not in capfd.readouterr().err
