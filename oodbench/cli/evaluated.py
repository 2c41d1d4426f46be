"""What an evaluation found, as a table on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from oodbench.cli import terminal
from oodbench.cli.tables import Column, print_columns, terminal_width
from oodbench.registry import MEASURES, TASKS
from oodbench.results.entries import Entry, entries_of
from oodbench.results.rows import Row
from oodbench.results.seeds import Figure

if TYPE_CHECKING:
    from oodbench.benchmark import Benchmark
    from oodbench.results.outcome import Results

FPR = {"fpr95_id": "FPR@95 ID+", "fpr95_ood": "FPR@95 OOD+"}
FIGURES = {"auroc": "AUROC %", **FPR, "aupr_out": "AUPR out", "aupr_in": "AUPR in"}
ABSENT = "–"
RANKS = "*"
"""Stands at the OOD sets by whose figure the leaderboard ranks."""


@dataclass(frozen=True)
class Line:
    """A line of the table: one detector's figures on an OOD set, or on the mean of a group.

    Args:
        entry: the detector on a kind of network, of one seed or several.
        ood: the name that its rows have.
        label: what is printed for it.
        is_mean: whether it is that of a group.
    """

    entry: Entry
    ood: str
    label: str
    is_mean: bool

    def figure(self, column: str) -> Figure | None:
        """The figure over the entry's seeds."""
        return self.entry.figure(self.ood, column)

    @property
    def row(self) -> Row:
        """The row of any of its seeds."""
        return self.entry.of(self.ood)[0]


def show_rows(
    results: Results, benchmark: Benchmark, *, wide: bool = False, each_seed: bool = False
) -> None:
    """Print the figures of an evaluation.

    Detectors come in the order of the figure that ranks. Several seeds are one line: the mean ±
    the sample standard deviation over seeds, and the interval over seeds and images. What all
    lines share stands above the table. A group of one set is one line. Of several detectors only
    the groups are printed, each set's figures with ``wide``.

    Args:
        results: rows of one benchmark.
        benchmark: that they are of.
        wide: whether all columns and all sets are printed.
        each_seed: whether each seed has lines of its own.
    """
    if not results.rows:
        return
    ranking = _ranking(results.rows, benchmark)
    entries = _entries(results.rows, each_seed=each_seed)
    entries.sort(key=lambda entry: entry.place(ranking, benchmark.protocol.rank_by))
    every_line = [line for entry in entries for line in _lines(entry, benchmark, ranking)]
    is_short = len(entries) > 1 and not wide and any(line.is_mean for line in every_line)
    lines = [line for line in every_line if line.is_mean] if is_short else every_line
    starts = [n for n, line in enumerate(lines) if n == 0 or line.entry is not lines[n - 1].entry]
    names, shared = _names(lines, starts, benchmark)
    _say(shared)
    left_out = print_columns(
        [*names, *_figures(lines, benchmark)],
        wide=wide,
        bold=[number for number, line in enumerate(lines) if line.is_mean and not is_short],
        sections=[number - 1 for number in starts[1:]] if len(lines) > len(entries) else (),
    )
    hidden = [title.removesuffix(" %") for title in left_out]
    hidden += ["each set of a group"] * (len(lines) < len(every_line))
    ranks = f"{RANKS} ranks, by {FIGURES[benchmark.protocol.rank_by].removesuffix(' %')}"
    _say(ranks + (f"; --wide shows also: {', '.join(hidden)}" if hidden else ""))


def _say(sentence: str) -> None:
    """A sentence in lines that fit, broken between words."""
    text = terminal.printable(sentence)
    for line in textwrap.wrap(text, terminal_width(), break_long_words=False):
        typer.echo(line)


def _entries(rows: Sequence[Row], *, each_seed: bool) -> list[Entry]:
    """Detectors on kinds of networks; with ``each_seed`` one for each seed."""
    if not each_seed:
        return entries_of(rows)
    seeds = dict.fromkeys(row["seed"] for row in rows)
    return [e for seed in seeds for e in entries_of([r for r in rows if r["seed"] == seed])]


def _ranking(rows: Sequence[Row], benchmark: Benchmark) -> str:
    """The name of the set or mean that is ranked."""
    means = {row["group"]: row["ood"] for row in rows if row["is_mean"]}
    return means.get(benchmark.protocol.rank_group) or [*means.values(), rows[0]["ood"]][0]


def _lines(entry: Entry, benchmark: Benchmark, ranking: str) -> list[Line]:
    """An entry's lines: each group's mean and below it its sets; of a single set both in one."""
    first = {row["ood"]: row for (_, _), row in entry.rows.items()}
    names = dict.fromkeys((*benchmark.group_names, *(row["group"] for row in first.values())))
    lines = []
    for group in names:
        sets = [ood for ood, row in first.items() if row["group"] == group and not row["is_mean"]]
        means = [ood for ood, row in first.items() if row["group"] == group and row["is_mean"]]
        if means and len(sets) == 1:
            label = means[0] if sets[0] in means[0] else f"{means[0]}: {sets[0]}"
            lines.append(Line(entry, means[0], label, True))
        else:
            lines += [Line(entry, ood, ood, True) for ood in means]
            lines += [Line(entry, ood, f"  {ood}" if means else ood, False) for ood in sets]
    return [
        replace(line, label=f"{line.label} {RANKS}") if line.ood == ranking else line
        for line in lines
    ]


def _names(
    lines: Sequence[Line], starts: Sequence[int], benchmark: Benchmark
) -> tuple[list[Column], str]:
    """The columns that tell lines apart, and a sentence of what all have in common."""
    about: dict[str, Callable[[Line], str]] = {
        "detector": lambda line: line.entry.name,
        "method": lambda line: _method(line.row),
        "backbone": lambda line: line.row["backbone"],
        "seed": lambda line: ", ".join(map(str, line.entry.seeds)),
        "OOD": lambda line: line.label,
    }
    quality, title = TASKS.get(benchmark.task).quality
    columns, shared = [], []
    for name, of in about.items():
        cells = [of(line) for line in lines]
        if name == "OOD":
            columns.append(Column(name, cells, is_name=True))
        elif len(set(cells)) > 1:  # said once, where an entry begins
            first = [cell if n in starts else "" for n, cell in enumerate(cells)]
            columns.append(Column(name, first, is_name=True))
        else:
            plural = "s" if "," in cells[0] and name == "seed" else ""
            shared.append(f"{name}{plural} {cells[0]}")
    accuracies = [_spread(Figure.of(line.entry.one_each(), quality)) for line in lines]
    if len(set(accuracies)) > 1:
        columns.append(Column(title, accuracies, rank=6))
    elif accuracies[0] != ABSENT:
        shared.append(f"{title} {accuracies[0]} %")
    return columns, "; ".join(shared)


def _method(row: Row) -> str:
    return f"{row['method']} ({row['recipe']})" if row["recipe"] else row["method"]


def _figures(lines: Sequence[Line], benchmark: Benchmark) -> list[Column]:
    """The columns of figures, as the widest terminal has them; their ranks say which go first."""
    # benchmarks with measures, two groups to compare, or shifted sets have further columns
    extras = [
        column
        for column in (*MEASURES.names(), "gap", "shifted_accuracy")
        if any(line.figure(column) is not None for line in lines)
    ]
    protocol = benchmark.protocol
    ranks = {"auroc": 0, protocol.fpr: 1, protocol.rank_by: 0, "aupr_out": 5, "aupr_in": 5}
    columns = []
    for column, title in FIGURES.items():
        cells = [_spread(line.figure(column)) for line in lines]
        columns.append(Column(title, cells, ranks.get(column, 4)))
        if column == "auroc":
            ends = [_ends(line.figure(column)) for line in lines]
            columns.append(Column("95 % interval", ends, rank=2))
    for column in extras:
        cells = [ABSENT if (f := line.figure(column)) is None else str(f) for line in lines]
        columns.append(Column(column.replace("_", " "), cells, rank=3))
    counts = [f"{line.row['n_ood']:,}" for line in lines]
    return [*columns, Column(TASKS.get(benchmark.task).unit, counts, rank=7)]


def _spread(figure: Figure | None) -> str:
    """Percent; of several seeds the mean ± the standard deviation."""
    return ABSENT if figure is None else figure.spread


def _ends(figure: Figure | None) -> str:
    if figure is None or figure.ends is None:
        return ABSENT
    return f"{100 * figure.ends[0]:.2f}–{100 * figure.ends[1]:.2f}"
