r"""Rows as the table of a paper: detectors by OOD sets, the best bold, the second underlined.

LaTeX needs the package ``booktabs``; ``\cite`` is left to the writer, whose keys are in the BibTeX
that comes with it.
"""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from oodbench.benchmark import Benchmark
from oodbench.errors import OptionError, UnknownNameError, did_you_mean
from oodbench.registry import DETECTORS, METHODS, TASKS
from oodbench.results.arranged import is_short_run
from oodbench.results.entries import Entry, entries_of
from oodbench.results.plain import markdown
from oodbench.results.rows import METRICS, Row

Format = Literal["latex", "csv", "markdown"]
FORMATS: tuple[Format, ...] = ("latex", "csv", "markdown")

TITLES = {
    "auroc": "AUROC",
    "fpr95_id": "FPR@95",
    "fpr95_ood": "FPR@95",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
}
_RATES = {
    "fpr95_id": "the share of OOD accepted where 95 % of ID is kept (ID positive)",
    "fpr95_ood": "the share of ID rejected where 95 % of OOD is caught (OOD positive)",
}
_BEST, _SECOND = 1, 2


@dataclass(frozen=True)
class Cell:
    """A figure in percent.

    Args:
        mean: over seeds; None where there is no row.
        spread: the sample standard deviation over seeds; None of one seed.
        place: 1 for the best of its column, 2 for the second, 0 for others; equal ones share it.
    """

    mean: float | None
    spread: float | None = None
    place: int = 0

    def __str__(self) -> str:
        if self.mean is None:
            return "–"
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return f"{self.mean:.2f}{spread}"


@dataclass(frozen=True)
class PaperTable:
    """A table to be written in a format.

    Args:
        sets: the OOD sets and means that it has columns of.
        metrics: the figures of each of them.
        names: of its lines.
        cells: a line each, sets by metrics, and the quality of the network last.
        quality: what that is called.
        caption: what was compared on which images, and what the figures mean.
        bibtex: of what its lines are, one entry each.
    """

    sets: tuple[str, ...]
    metrics: tuple[str, ...]
    names: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    quality: str
    caption: str
    bibtex: tuple[str, ...]

    def to(self, form: Format) -> str:
        """The table in a format.

        Raises:
            OptionError: there is no such format.
        """
        writers: dict[str, Callable[[], str]] = {
            "latex": self.to_latex,
            "csv": self.to_csv,
            "markdown": self.to_markdown,
        }
        if form not in writers:
            raise OptionError(f"`format` is one of {', '.join(FORMATS)}, not {form!r}.")
        return writers[form]()

    def to_latex(self) -> str:
        """A ``table*`` of ``booktabs``, with a column of figures for each set and metric."""
        span = len(self.metrics)
        spans = [
            f"\\multicolumn{{{span}}}{{c}}{{{latex(name)}}}" if span > 1 else latex(name)
            for name in self.sets
        ]
        rules = [
            f"\\cmidrule(lr){{{2 + n * span}-{1 + (n + 1) * span}}}" for n in range(len(self.sets))
        ]
        arrows = [f"{latex(TITLES[m])}~${_arrow(m)}$" for m in self.metrics]
        lines = [
            "% needs \\usepackage{booktabs}",
            "\\begin{table*}",
            "  \\centering",
            f"  \\caption{{{latex(self.caption)}}}",
            f"  \\begin{{tabular}}{{l{'c' * (span * len(self.sets) + 1)}}}",
            "    \\toprule",
            f"    & {' & '.join(spans)} & \\\\",
            *([f"    {' '.join(rules)}"] if span > 1 else []),
            f"    Detector & {' & '.join(arrows * len(self.sets))} & {latex(self.quality)} \\\\",
            "    \\midrule",
            *(
                f"    {latex(name)} & {' & '.join(map(_latex_cell, cells))} \\\\"
                for name, cells in zip(self.names, self.cells, strict=True)
            ),
            "    \\bottomrule",
            "  \\end{tabular}",
            "\\end{table*}",
        ]
        return "\n".join(lines) + "\n"

    def to_markdown(self) -> str:
        """A table of GitHub's Markdown, and its caption."""
        head = ["Detector", *self._heads(), self.quality]
        lines = [
            _bars(map(markdown, head)),
            _bars(["---", *["---:"] * (len(head) - 1)]),
            *(
                _bars([markdown(name), *map(_markdown_cell, cells)])
                for name, cells in zip(self.names, self.cells, strict=True)
            ),
            "",
            markdown(self.caption),
        ]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """Figures in percent and their deviations over seeds, empty where there is none."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        heads = [*self._heads(full=True), self.quality]
        writer.writerow(["detector", *(part for head in heads for part in (head, f"{head} std"))])
        for name, cells in zip(self.names, self.cells, strict=True):
            figures = (value for cell in cells for value in (cell.mean, cell.spread))
            writer.writerow([name, *("" if v is None else f"{v:.4f}" for v in figures)])
        return out.getvalue()

    def _heads(self, *, full: bool = False) -> list[str]:
        titles = {**TITLES, "fpr95_id": "FPR@95 (ID)", "fpr95_ood": "FPR@95 (OOD)"}
        return [
            f"{name} {titles[m] if full else f'{TITLES[m]} {_sign(m)}'}"
            for name in self.sets
            for m in self.metrics
        ]


def paper_table(
    benchmark: Benchmark,
    rows: Iterable[Row],
    *,
    sets: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> PaperTable:
    """The table of rows that were measured on the same images.

    Lines are in the order of the benchmark's ranking, the best last, as papers have it. Networks
    below the protocol's ``least_accuracy`` are left out, as they have no place on pages, unless
    there are no others; the caption says either.

    Args:
        benchmark: that the rows are of.
        rows: measured together; several seeds of a detector are one line.
        sets: OOD sets and groups to show; by default all sets and the means of groups with several.
        metrics: by default the FPR@95 that the benchmark's papers print, and AUROC.

    Raises:
        OptionError: there are no rows, or no such metric.
        UnknownNameError: no row is of such a set.
    """
    measured = list(rows)
    if not measured:
        raise OptionError(
            f"there are no results of {benchmark.name} to make a table of. Run `oodbench eval` "
            "first, or name the folder with `leaderboards`."
        )
    chosen = tuple(metrics or (benchmark.protocol.fpr, "auroc"))
    for metric in chosen:
        if metric not in METRICS:
            raise OptionError(f"a metric is one of {', '.join(METRICS)}, not {metric!r}.")
    every = entries_of(measured)
    full = [one for one in every if not is_short_run(benchmark, one.one_each())]
    kept = full or every
    names = _sets(benchmark, [row for one in kept for row in one.rows.values()], sets)
    entries = _ordered(benchmark, kept, names[-1])
    quality, quality_name = TASKS.get(benchmark.task).quality
    columns = [(name, metric) for name in names for metric in chosen]
    table = [
        [
            *(_cell(entry.of(name), metric) for name, metric in columns),
            _cell(entry.one_each(), quality),
        ]
        for entry in entries
    ]
    for number, (_, metric) in enumerate(columns):
        _place(table, number, is_rate=metric.startswith("fpr"))
    return PaperTable(
        sets=tuple(names),
        metrics=chosen,
        names=tuple(_names(entries)),
        cells=tuple(map(tuple, table)),
        quality=quality_name,
        caption=_caption(
            benchmark, entries, chosen, short=len(every) - len(full), are_all=not full
        ),
        bibtex=tuple(bibtex_of(entries)),
    )


def _sets(benchmark: Benchmark, rows: Sequence[Row], asked: Sequence[str] | None) -> list[str]:
    """The sets of each group in their order, and behind them the mean of a group of several."""
    if asked is not None:
        known = {row["ood"] for row in rows}
        for name in asked:
            if name not in known:
                raise UnknownNameError(
                    f"no row is of {name!r}.{did_you_mean(name, sorted(known))} There are "
                    f"{', '.join(sorted(known))}."
                )
        return list(asked)
    names = []
    groups = dict.fromkeys((*benchmark.group_names, *(row["group"] for row in rows)))
    for group in groups:
        own = [row for row in rows if row["group"] == group]
        singles = dict.fromkeys(row["ood"] for row in own if not row["is_mean"])
        means = dict.fromkeys(row["ood"] for row in own if row["is_mean"])
        names += [*singles, *(means if len(singles) != 1 else ())]
    return names


def _ordered(benchmark: Benchmark, entries: Sequence[Entry], last: str) -> list[Entry]:
    """The best last, by the figure that the benchmark ranks by."""
    protocol = benchmark.protocol
    means = {row["group"]: row["ood"] for e in entries for row in e.rows.values() if row["is_mean"]}
    ranking = means.get(protocol.rank_group, last)
    return sorted(entries, key=lambda e: (-e.place(ranking, protocol.rank_by), e.name))


def _cell(rows: Sequence[Row], column: str) -> Cell:
    values = [100 * float(v) for row in rows if (v := row.get(column)) is not None]  # type: ignore[arg-type]
    if not values:
        return Cell(None)
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _place(table: list[list[Cell]], column: int, *, is_rate: bool) -> None:
    """Note the best and the second of a column, of figures as they are printed."""
    means = {round(c.mean, 2) for line in table if (c := line[column]).mean is not None}
    ranked = sorted(means, reverse=not is_rate)[:2]
    for line in table:
        cell = line[column]
        if cell.mean is not None and round(cell.mean, 2) in ranked and len(means) > 1:
            place = _BEST if round(cell.mean, 2) == ranked[0] else _SECOND
            line[column] = Cell(cell.mean, cell.spread, place)


def _names(entries: Sequence[Entry]) -> list[str]:
    """A name for each line: the detector's, and what tells it from another line of that name."""
    short = [entry.name for entry in entries]
    parts: list[Callable[[Row], str]] = [
        lambda row: row["method"],
        lambda row: row["backbone"],
        lambda row: ", ".join(f"{k}={v}" for k, v in sorted(row["detector_options"].items())),
        lambda row: row.get("recipe") or "",
        lambda row: row["weights"][:8],
    ]
    names = list(short)
    for part in parts:
        added = [part(entry.first) for entry in entries]
        if len(set(names)) == len(names):
            break
        if len(set(added)) > 1:
            names = [
                f"{name}, {more}" if more else name for name, more in zip(names, added, strict=True)
            ]
    return names


def _caption(
    benchmark: Benchmark,
    entries: Sequence[Entry],
    metrics: Sequence[str],
    short: int,
    *,
    are_all: bool,
) -> str:
    """The caption of some entries, of all of which or besides which some are short runs."""
    first = entries[0].first
    seeds = {len(entry.seeds) for entry in entries}
    task = TASKS.get(benchmark.task)
    sentences = [
        f"OOD detection on {benchmark.name} ({first['n_id']:,} ID test {task.id_unit}), percent",
        *(f"FPR@95: {_RATES[m]}" for m in metrics if m in _RATES),
    ]
    if max(seeds) > 1:
        counts = f"{max(seeds)}" if len(seeds) == 1 else f"up to {max(seeds)}"
        sentences.append(f"Mean ± standard deviation over {counts} seeds")
    sentences.append("Best bold, second underlined")
    if short:
        sentences.append(_of_short_runs(benchmark, short, are_all=are_all))
    return ". ".join(sentences) + "."


def _of_short_runs(benchmark: Benchmark, count: int, *, are_all: bool) -> str:
    below = f"networks below {100 * (benchmark.protocol.least_accuracy or 0.0):g} % ID accuracy"
    if are_all:
        return f"All are of {below} (short runs)"
    return f"Left out: {count} line{'s' * (count > 1)} of {below} (short runs)"


def bibtex_of(entries: Sequence[Entry]) -> list[str]:
    """One entry for each paper of the table's detectors and training methods."""
    by_title: dict[str, str] = {}
    for entry in entries:
        for registry, name in (
            (DETECTORS, entry.first["detector"]),
            (METHODS, entry.first["method"]),
        ):
            if name not in registry:
                continue
            paper = getattr(registry.get(name), "paper", None)
            if paper is not None:
                by_title.setdefault(paper.title, paper.bibtex(name))
    return list(by_title.values())


def _arrow(metric: str) -> str:
    return "\\downarrow" if metric.startswith("fpr") else "\\uparrow"


def _sign(metric: str) -> str:
    return "↓" if metric.startswith("fpr") else "↑"


def _latex_cell(cell: Cell) -> str:
    if cell.mean is None:
        return "--"
    figure = f"{cell.mean:.2f}"
    if cell.place == _BEST:
        figure = f"\\textbf{{{figure}}}"
    elif cell.place == _SECOND:
        figure = f"\\underline{{{figure}}}"
    return figure if cell.spread is None else f"{figure}~$\\pm$~{cell.spread:.2f}"


def _markdown_cell(cell: Cell) -> str:
    shown = str(cell)
    if cell.place == _BEST:
        return f"**{shown}**"
    return f"<ins>{shown}</ins>" if cell.place == _SECOND else shown


def _bars(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "…": r"\dots{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def latex(text: str) -> str:
    """A text that LaTeX prints as it is."""
    return re.sub(r"[\\~^±–…&%$#_{}]", lambda m: _LATEX[m[0]], text)
