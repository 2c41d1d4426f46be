"""The table of a paper: its figures are the rows', and the best of each column is marked."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

import oodbench
from oodbench import cli
from oodbench.errors import OptionError, UnknownNameError
from oodbench.results.outcome import Results
from oodbench.results.papertable import FORMATS, PaperTable, latex, paper_table
from oodbench.results.rows import Row
from tests.helpers.measured import measured

BENCHMARK = "cifar10"


def row(detector: str, ood: str, auroc: float, fpr: float, seed: int = 0, **more: Any) -> Row:
    group = "near" if ood in ("cifar100", "tin", "near") else "far"
    about = {"detector": detector, "seed": seed, "is_mean": ood == group, **more}
    return measured(ood, group, auroc, fpr95_id=fpr, fpr95_ood=fpr, **about)


def rows(detector: str, auroc: float, fpr: float, **more: Any) -> list[Row]:
    names = ("cifar100", "tin", "mnist", "near", "far")
    return [row(detector, ood, auroc, fpr, **more) for ood in names]


def table(*parts: list[Row], **how: Any) -> PaperTable:
    measured = [one for part in parts for one in part]
    return paper_table(oodbench.get_benchmark(BENCHMARK), measured, **how)


def test_sets_and_the_mean_of_a_group_of_several_are_columns() -> None:
    made = table(rows("msp", 0.7, 0.5))
    assert made.sets == ("cifar100", "tin", "near", "mnist"), "a group of one set is that set"
    fpr = oodbench.get_benchmark(BENCHMARK).protocol.fpr
    assert made.metrics == (fpr, "auroc")
    assert [str(cell) for cell in made.cells[0]] == ["50.00", "70.00"] * 4 + ["90.00"]
    assert "10,000 ID test images" in made.caption


def test_the_best_is_last_and_bold_and_the_second_underlined() -> None:
    made = table(rows("msp", 0.7, 0.5), rows("knn", 0.9, 0.2), rows("energy", 0.8, 0.3))
    assert made.names == ("msp", "energy", "knn")
    assert [cell.place for cell in made.cells[2]][:2] == [1, 1], "the least FPR, the most AUROC"
    assert [cell.place for cell in made.cells[1]][:2] == [2, 2]
    assert {cell.place for cell in made.cells[0]} == {0}
    assert {line[-1].place for line in made.cells} == {0}, "accuracy is no contest"
    assert "\\textbf{20.00} & \\textbf{90.00}" in made.to_latex()
    assert "\\underline{30.00} & \\underline{80.00}" in made.to_latex()
    assert "| **20.00** | **90.00** |" in made.to_markdown()


def test_what_prints_the_same_shares_a_place() -> None:
    made = table(rows("msp", 0.90001, 0.5), rows("knn", 0.90002, 0.5), rows("energy", 0.8, 0.5))
    places = {name: line[1].place for name, line in zip(made.names, made.cells, strict=True)}
    assert places == {"msp": 1, "knn": 1, "energy": 2}
    assert {line[0].place for line in made.cells} == {0}, "where all are equal none is best"


def test_seeds_are_one_line_of_mean_and_sample_deviation() -> None:
    made = table(rows("msp", 0.7, 0.5), rows("msp", 0.8, 0.5, seed=1, weights="v"))
    assert [str(cell) for cell in made.cells[0]][:2] == ["50.00 ± 0.00", "75.00 ± 7.07"]
    assert "75.00~$\\pm$~7.07" in made.to_latex()
    assert "over 2 seeds" in made.caption


def test_short_runs_are_left_out_and_the_caption_says_so() -> None:
    short = rows("knn", 0.9, 0.2, weights="v", id_accuracy=0.5, method="palm")
    made = table(rows("msp", 0.7, 0.5), short)
    assert made.names == ("msp",)
    assert "Left out: 1 line of networks below 90 % ID accuracy" in made.caption
    assert not any("Mixture of Prototypes" in one for one in made.bibtex)
    alone = table(short)
    assert alone.names == ("knn",)
    assert "All are of networks below 90 % ID accuracy" in alone.caption
    assert "short runs" not in table(rows("msp", 0.7, 0.5)).caption


def test_lines_of_one_detector_are_told_apart() -> None:
    other = rows("msp", 0.8, 0.4, method="logitnorm", weights="v")
    assert set(table(rows("msp", 0.7, 0.5), other).names) == {"msp, ce", "msp, logitnorm"}
    k = rows("msp", 0.8, 0.4, detector_options={"k": 5})
    assert set(table(rows("msp", 0.7, 0.5), k).names) == {"msp", "msp, k=5"}


def test_csv_has_figures_and_deviations() -> None:
    text = table(rows("msp", 0.7, 0.5)).to_csv()
    header, line = csv.reader(io.StringIO(text))
    got = dict(zip(header, line, strict=True))
    assert got["cifar100 AUROC"] == "70.0000"
    assert got["cifar100 AUROC std"] == ""
    assert len(set(header)) == len(header)


def test_a_set_without_a_row_is_a_dash() -> None:
    made = table(rows("msp", 0.7, 0.5), [row("knn", "near", 0.9, 0.1)])
    cells = dict(zip(made.names, made.cells, strict=True))["knn"]
    assert [str(cell) for cell in cells][:2] == ["–", "–"]
    assert "& -- &" in made.to_latex()


def test_latex_is_whole_and_text_is_text() -> None:
    text = table(rows("msp", 0.7, 0.5), rows("a_b%&#", 0.6, 0.4)).to_latex()
    assert "a\\_b\\%\\&\\# &" in text
    assert text.count("\\begin{") == text.count("\\end{") == 2
    lines = [line for line in text.splitlines() if line.endswith("\\\\")]
    columns = re.search(r"\{tabular\}\{(l?c*)\}", text)
    assert columns is not None
    assert {line.count("&") - line.count("\\&") + 1 for line in lines[1:]} == {len(columns[1])}
    assert latex(r"\~^{}$") == (r"\textbackslash{}\textasciitilde{}\textasciicircum{}\{\}\$")


def test_bibtex_is_that_of_detectors_and_methods() -> None:
    made = table(rows("knn", 0.7, 0.5), rows("palm", 0.7, 0.5, method="palm"))
    text = "\n".join(made.bibtex)
    assert text.count("@inproceedings") == len(made.bibtex) >= 2
    assert "{knn," in text
    assert text.count("Learning with Mixture of Prototypes") <= 1, "a paper once"


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(OptionError, match="no results"):
        table()
    with pytest.raises(OptionError, match="a metric is one of"):
        table(rows("msp", 0.7, 0.5), metrics=["accuracy"])
    with pytest.raises(UnknownNameError, match="Did you mean 'mnist'"):
        table(rows("msp", 0.7, 0.5), sets=["mnits"])
    with pytest.raises(OptionError, match="latex, csv, markdown"):
        table(rows("msp", 0.7, 0.5)).to("pdf")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMATS)
def test_on_the_command_line(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(oodbench.__file__).resolve().parents[1]
    out, papers = tmp_path / "table", tmp_path / "papers.bib"
    words = f"table --id digits --format {form} --leaderboards {root / 'leaderboards'}"
    monkeypatch.setattr("sys.argv", ["oodbench", *words.split(), "--out", str(out),
                                     "--bibtex", str(papers)])  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, capsys.readouterr().err
    text = out.read_text(encoding="utf-8")
    assert "palm" in text
    assert "98.29" in text, "the mean of the committed rows"
    assert "@inproceedings{palm," in papers.read_text(encoding="utf-8")


def test_results_write_the_same_table() -> None:
    named = {"benchmark": BENCHMARK}
    parts = [("msp", 0.7, 0), ("knn", 0.9, 0), ("knn", 0.8, 1)]
    measured = [r for name, auroc, n in parts for r in rows(name, auroc, 0.2, seed=n, **named)]
    results = Results(measured)
    assert results.to_latex() == table(measured).to_latex()
    chosen = {"sets": ["near"], "metrics": ["aupr_in"]}
    assert results.to_latex(**chosen) == table(measured, **chosen).to_latex()
    assert "\\textbf{85.00}~$\\pm$~7.07" in results.to_latex()
    other = oodbench.get_benchmark("cifar100")
    assert results.to_latex(other) == paper_table(other, measured).to_latex()


def test_a_table_is_of_one_benchmark() -> None:
    other = rows("msp", 0.7, 0.5, benchmark="cifar100")
    with pytest.raises(OptionError, match="cifar10, cifar100"):
        Results([*rows("msp", 0.7, 0.5, benchmark=BENCHMARK), *other]).to_latex()
    with pytest.raises(OptionError, match="no rows"):
        Results().to_latex()
