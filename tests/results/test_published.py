"""Published figures: data that is whole, and no wrong pairing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodbench import create_detector
from oodbench.board.content import content_of
from oodbench.errors import OODBenchError
from oodbench.results import leaderboard, published
from oodbench.results.entries import Entry, entries_of
from oodbench.results.published import ANY, COLUMNS, Published
from tests.helpers.pages import PAGE, entry

HEADER = ",".join(COLUMNS)
LINE = (
    "kNN,ResNet18,toy,near mean,AUROC,90.64,0.20,unweighted mean,their table,"
    "knn,ce,resnet18-cifar,toy,near,auroc"
)


def of(tmp_path: Path, *lines: str) -> tuple[Published, ...]:
    path = tmp_path / "figures.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return published.read(path)


def measured(auroc: float = 0.9, **fields: Any) -> Entry:
    usual = {
        "detector": "knn",
        "detector_options": create_detector("knn").options(),
        "backbone": "resnet18-cifar",
        "recipe": "published",
    }
    (found,) = entries_of(entry(auroc, **{**usual, **fields}))  # type: ignore[arg-type]
    return found


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Published, ...]:
    """One published figure is known, and no other."""
    figures = of(tmp_path, LINE)
    monkeypatch.setattr(published, "figures", lambda: iter(figures))
    return figures


def test_a_line_by_hand(tmp_path: Path) -> None:
    (figure,) = of(tmp_path, LINE)
    assert (figure.value, figure.spread, figure.printed) == (pytest.approx(0.9064), 0.002, "90.64")
    assert figure.half_digit == pytest.approx(0.00005)
    assert figure.is_comparable
    (other,) = of(tmp_path, LINE.replace(",resnet18-cifar,toy,near,auroc", ",,,,"))
    assert not other.is_comparable


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (LINE.replace("90.64", "190.64"), "no percentage"),
        (LINE.replace("90.64", "ninety"), "could not convert"),
        (LINE.replace("0.20", "-1"), "no percentage"),
        (LINE.replace("their table", ""), "source is empty"),
        (LINE.replace(",auroc", ",aurok"), "no column 'aurok'"),
        (LINE.replace(",near,auroc", ",,auroc"), "of the set None"),
        (LINE + ",more", "15 columns"),
        ("kNN,ResNet18", "15 columns"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(OODBenchError, match=rf"line 2: .*{why}"):
        of(tmp_path, line)
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(OODBenchError, match="must have the columns"):
        published.read(tmp_path / "x.csv")


def test_what_agrees_stands_beside(known: Any) -> None:
    (one,) = published.beside(measured(0.90))
    assert one.difference == pytest.approx(-0.0064)
    assert not one.is_beyond  # the interval is 89 to 91
    (one,) = published.beside(measured(0.93))
    assert one.is_beyond


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "resnet20"},
        {"benchmark": "toy/other"},
        {"detector": "msp", "detector_options": {}},
        {"method": "supcon"},
        {"recipe": "quick"},
        {"recipe_options": {"epochs": 3}},
        {"recipe": None, "method": "external"},
        {"detector_options": {"k": 7, "normalize": True}},
        {"ood": "other"},
    ],
)
def test_nothing_else_does(known: Any, change: dict[str, Any]) -> None:
    ood = change.pop("ood", None)
    found = measured(**change)
    if ood:
        found = Entry({key: row for key, row in found.rows.items() if row["ood"] != "near"})
    assert published.beside(found) == []


def test_options_that_were_chosen_on_validation_data_are_those_of_the_published(known: Any) -> None:
    tuned = {"ood": ["v"], "fingerprint": "f" * 64, "auroc": 0.9, "tried": 4}
    assert published.beside(measured(detector_options={"k": 7, "normalize": True}, tuned=tuned))


def test_a_network_named_by_its_weights_is_not_trained(tmp_path: Path, monkeypatch: Any) -> None:
    figures = of(tmp_path, LINE.replace(",ce,", f",{ANY},"))
    monkeypatch.setattr(published, "figures", lambda: iter(figures))
    assert published.beside(measured(recipe=None, method="external"))
    assert not published.beside(measured())


def test_a_board_shows_them(known: Any) -> None:
    rows = [*measured(0.93).rows.values(), *entry(0.8, detector="other")]
    (part,) = content_of(PAGE, rows, [])["parts"]
    assert [len(one["published"]) for one in part["entries"]] == [1, 0]


def test_the_page_shows_them(known: Any) -> None:
    rows = [*measured(0.93).rows.values(), *entry(0.8, detector="other")]
    page = leaderboard.render(PAGE, rows)
    assert "### Published figures" in page
    (line,) = [line for line in page.splitlines() if "their table" in line]
    assert line == (
        "| 1 | knn | near AUROC | 93.00 [92.00, 94.00] | 90.64 ± 0.20 | +2.36 ✕ | "
        "unweighted mean; their table |"
    )
    assert "Published figures" not in leaderboard.render(PAGE, entry(0.8))
