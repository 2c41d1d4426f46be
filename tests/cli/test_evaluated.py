"""The table of an evaluation: what is printed of rows with known figures."""

from __future__ import annotations

from typing import Any

import pytest

import oodbench
from oodbench.cli import evaluated, tables
from oodbench.cli.evaluated import show_rows
from oodbench.results.outcome import Results
from oodbench.results.rows import Row
from tests.helpers.measured import measured

SETS = {"near": ("cifar100", "tin"), "far": ("mnist",)}


def row(ood: str, group: str, auroc: float, **more: Any) -> Row:
    return measured(
        ood, group, auroc, **{"auroc_low": auroc - 0.01, "auroc_high": auroc + 0.01, **more}
    )


def rows(auroc: float = 0.7, **more: Any) -> list[Row]:
    """A detector's rows on two near sets and a far one."""
    singles = [
        row(ood, group, auroc + 0.1 * number, **more)
        for group, names in SETS.items()
        for number, ood in enumerate(names)
    ]
    means = [
        row("near", "near", auroc + 0.05, is_mean=True, **more),
        row("far", "far", auroc, is_mean=True, **more),
    ]
    return [*singles, *means]


@pytest.fixture
def benchmark() -> oodbench.Benchmark:
    return oodbench.get_benchmark("cifar10")


@pytest.fixture
def shown(
    benchmark: oodbench.Benchmark,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    def show(made: list[Row], width: int = 80, **how: bool) -> list[str]:
        monkeypatch.setattr(tables, "terminal_width", lambda: width)
        monkeypatch.setattr(evaluated, "terminal_width", lambda: width)
        show_rows(Results(made), benchmark, **how)
        lines = capsys.readouterr().out.splitlines()
        assert how.get("wide") or max(map(len, lines)) <= width
        return lines

    return show


def line_of(lines: list[str], start: str) -> str:
    (found,) = [line for line in lines if line.strip().startswith(start)]
    return found


def test_one_detector_has_a_line_for_each_set_and_mean(shown: Any) -> None:
    lines = shown(rows())
    assert lines[0] == (
        "detector msp; method ce (quick); backbone resnet20; seed 0; ID accuracy 90.00 %"
    )
    assert line_of(lines, "near *").split()[2:] == [
        *("75.00", "74.00–76.00", "50.00", "40.00"),
        *("20.00", "30.00", "1,234"),
    ]
    assert "80.00" in line_of(lines, "tin")
    # the mean over one set is that set
    assert "70.00" in line_of(lines, "far: mnist")
    assert sum("mnist" in line for line in lines) == 1
    assert lines[-1] == "* ranks, by AUROC"
    said = " ".join(shown(rows(), 60)[-2:])
    assert said == "* ranks, by AUROC; --wide shows also: AUPR out, AUPR in, images"


def test_wide_shows_every_column_and_set(shown: Any) -> None:
    lines = shown([*rows(), *rows(0.6, detector="energy")], wide=True)
    text = "\n".join(lines)
    for title in ("FPR@95 ID+", "FPR@95 OOD+", "AUPR in", "AUPR out", "images"):
        assert title in text
    assert sum("tin" in line for line in lines) == 2
    assert "1,234" in text
    assert lines[-1] == "* ranks, by AUROC"


def test_several_detectors_come_in_the_order_that_ranks_with_their_groups(shown: Any) -> None:
    lines = shown([*rows(0.6, detector="energy"), *rows(0.7), *rows(0.65, detector="knn")])
    order = [line.split()[0] for line in lines if "near *" in line]
    assert order == ["msp", "knn", "energy"]
    assert not any("tin" in line for line in lines)
    assert "each set of a group" in lines[-1]


def test_several_seeds_are_one_line_of_mean_and_deviation(shown: Any) -> None:
    made = [*rows(0.7), *rows(0.8, seed=1, weights="v", id_accuracy=0.8)]
    lines = shown(made)
    assert "seeds 0, 1" in lines[0]
    assert "ID accuracy 85.00 ± 7.07 %" in " ".join(lines[:2])  # 10 / sqrt(2)
    assert "80.00 ± 7.07" in line_of(lines, "near *")
    apart = shown(made, each_seed=True)
    assert [line.split()[0] for line in apart if "near *" in line] == ["1", "0"]
    assert "±" not in "\n".join(apart)


def test_a_reversed_ranking_metric_puts_the_least_first(
    benchmark: oodbench.Benchmark, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    protocol = replace(benchmark.protocol, rank_by="fpr95_ood")
    made = [*rows(0.9), *rows(0.6, detector="energy", fpr95_ood=0.1)]
    object.__setattr__(benchmark, "protocol", protocol)
    show_rows(Results(made), benchmark)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "near *" in line] == ["energy", "msp"]
    assert "* ranks, by FPR@95 OOD+" in lines[-1]


def test_intervals_of_a_gap_and_what_is_absent(shown: Any) -> None:
    made = rows(auroc_low=None, auroc_high=None)
    made[-1].update(gap=0.2, gap_low=0.1, gap_high=0.3)
    lines = shown(made, 120)
    assert "20.00 [10.00, 30.00]" in line_of(lines, "far: mnist")
    assert line_of(lines, "tin").split()[2] == "–"


def test_names_are_text(shown: Any) -> None:
    made = [row("[red]a\x1b[0m", "near", 0.7), row("near", "near", 0.7, is_mean=True)]
    text = "\n".join(shown(made))
    assert "[red]a" in text
    assert "\x1b" not in text


def test_no_rows_print_nothing(shown: Any, benchmark: oodbench.Benchmark) -> None:
    show_rows(Results([]), benchmark)
