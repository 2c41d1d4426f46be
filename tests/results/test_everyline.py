"""The csv beside a page has all lines on all sets."""

from __future__ import annotations

import csv
import io
import statistics

import pytest

from oodbench.results import leaderboard
from tests.helpers.pages import PAGE, entry


def lines_of(rows: list) -> list[dict[str, str]]:
    text = leaderboard.csv_of(leaderboard.board_of(PAGE, rows))
    return list(csv.DictReader(io.StringIO(text)))


def test_every_line_has_every_set_and_figure() -> None:
    options = {"k": 3, "b": 'x,"y"'}
    rows = [*entry(0.7), *entry(0.8, 1), *entry(0.6, detector="knn", detector_options=options)]
    lines = lines_of(rows)
    assert [(line["number"], line["ood"], line["is_mean"]) for line in lines] == [
        (number, *ood)
        for number in "12"
        for ood in (("near", "yes"), ("far", "yes"), ("near-a", ""), ("far-a", ""))
    ]
    first = lines[0]
    assert first["auroc"] == "75.00"
    assert first["auroc_std"] == f"{100 * statistics.stdev([0.7, 0.8]):.2f}"
    assert float(first["auroc_low"]) < 74 < 76 < float(first["auroc_high"])
    assert (first["fpr95_id"], first["fpr95_ood"]) == ("25.00", "12.50")
    assert (first["aupr_in"], first["id_accuracy"], first["seeds"]) == ("37.50", "90.00", "0 1")
    assert lines[4]["settings"] == 'b=x,"y", k=3'
    assert lines[4]["auroc_std"] == ""
    assert "gap" not in first, "no line has one"


def test_figures_are_those_of_the_page() -> None:
    rows = [*entry(0.713), *entry(0.646, detector="knn")]
    page = leaderboard.render(PAGE, rows, whole=True)
    for line in lines_of(rows):
        assert f"{line['auroc']} [{line['auroc_low']}, {line['auroc_high']}]" in page


def test_sections_are_told_apart() -> None:
    other = entry(0.8, detector="knn", id_fingerprint="2" * 64)
    lines = lines_of([*entry(0.6), *other])
    assert {(line["part"], line["number"]) for line in lines} == {("1", "1"), ("2", "1")}


@pytest.mark.parametrize("name", ["a\nb", "\u202eabc"])
def test_what_cannot_be_seen_is_written_out(name: str) -> None:
    assert {line["backbone"] for line in lines_of(entry(0.6, backbone=name))} == {
        name.encode("unicode_escape").decode()
    }
