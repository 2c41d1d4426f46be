"""Published figures: data that is whole, and no wrong pairing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodbench import create_detector
from oodbench.errors import OODBenchError
from oodbench.registry import BACKBONES, BENCHMARKS, DETECTORS, METHODS
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


def test_the_data_names_what_there_is() -> None:
    figures = list(published.figures())
    assert len(figures) == 1591
    for figure in (one for one in figures if one.is_comparable):
        assert figure.detector in DETECTORS, figure
        assert figure.benchmark in BENCHMARKS, figure
        assert figure.method == ANY or figure.method in METHODS, figure
        assert figure.source
        weights = figure.backbone or ""
        assert weights in BACKBONES or weights.startswith("torchvision/") or weights == "resnet18"
        assert figure.method == ANY or not weights.startswith("torchvision/")
    sets = {
        (one.benchmark, one.ood) for one in figures if one.is_comparable and one.ood is not None
    }
    from oodbench import get_benchmark

    for name, ood in sets:
        benchmark = get_benchmark(benchmark=name)
        assert ood in {*benchmark.group_names, *(c.spec.name for c in benchmark.ood)}, (name, ood)


def test_the_convention_of_an_fpr_is_the_column() -> None:
    """What is not known to be of one convention is beside no row."""
    for figure in published.figures():
        if figure.column == "fpr95_id":
            assert "ID positive" in figure.convention
        if figure.column == "fpr95_ood":
            assert "OOD positive" in figure.convention or "OpenOOD v1.5" in figure.convention
        if "not inspected" in figure.convention:
            assert figure.column is None


def test_known_figures() -> None:
    knn = {
        (one.ood, one.column): one.printed
        for one in published.chosen("cifar10", "knn", "cifar10/openood")
        if one.method == "ce"
    }
    assert knn == {
        ("near", "auroc"): "90.64",
        ("far", "auroc"): "92.96",
        (None, "id_accuracy"): "95.06",
    }
