"""Tables on the terminal: columns go where it is narrow, digits never."""

from __future__ import annotations

import pytest

from oodbench.cli import tables
from oodbench.cli.tables import Column, fitting, print_columns, print_table

FIGURE = "12.34 [11.11, 13.33]"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "terminal_width", lambda: 40)


def columns() -> list[Column]:
    return [
        Column("detector", ["msp", "energy"], is_name=True),
        Column("AUROC", [FIGURE, FIGURE]),
        Column("FPR", ["1.00", "2.00"], rank=1),
        Column("AUPR", ["3.00", "4.00"], rank=2),
        Column("accuracy", ["5.00", "6.00"], rank=2),
    ]


def test_columns_of_the_highest_rank_go_first() -> None:
    assert [c.title for c in fitting(columns(), 200)] == [c.title for c in columns()]
    # 8 + 20 + 4 places, two times 3 between them, and the edges: 40
    assert [c.title for c in fitting(columns(), 40)] == ["detector", "AUROC", "FPR"]
    assert [c.title for c in fitting(columns(), 39)] == ["detector", "AUROC"]
    assert [c.title for c in fitting(columns(), 5)] == ["detector", "AUROC"], "these always stay"


def test_what_was_left_out_is_returned_and_no_figure_is_cut(
    narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_columns(columns()) == ["AUPR", "accuracy"]
    lines = capsys.readouterr().out.splitlines()
    assert sum(FIGURE in line for line in lines) == 2
    assert max(map(len, lines)) <= 40
    assert print_columns(columns(), wide=True) == []
    assert "accuracy" in capsys.readouterr().out


def test_names_are_folded_and_figures_stay_whole_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "terminal_width", lambda: 20)
    name = "folder:/a/very/long/path/of/somebody/else"
    print_columns([Column("OOD", [name], is_name=True), Column("AUROC", [FIGURE])])
    out = capsys.readouterr().out
    assert FIGURE in out
    assert "…" not in out
    folded = (line[: tables.NAME_WIDTH + 1].strip() for line in out.splitlines()[3:])
    assert "".join(folded) == name


def test_a_name_is_text_and_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns([Column("OOD", ["[red]x[/red]"], is_name=True), Column("n", ["1"])])
    assert "[red]x[/red]" in capsys.readouterr().out


def test_a_table_of_text_loses_its_last_columns(
    narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    header = ["backbone", "detector", "near AUROC", "near FPR", "accuracy"]
    left_out = print_table(header, [["net", "msp", FIGURE, "50.00", "90.00"]])
    assert left_out == header[len(header) - len(left_out) :]
    assert FIGURE in capsys.readouterr().out
    assert print_table(header, [["net", "msp", FIGURE, "50.00", "90.00"]], wide=True) == []
