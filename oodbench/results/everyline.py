"""All lines of a page as a csv: the figures of each entry on each set and group, with intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from oodbench.benchmark import Benchmark
from oodbench.registry import TASKS
from oodbench.results import seeds
from oodbench.results.arranged import Arranged
from oodbench.results.entries import Entry
from oodbench.results.plain import visible
from oodbench.results.ranking import Ranking
from oodbench.results.rows import FOREGROUND, METRICS, Row
from oodbench.results.wording import settings_text

_SETTINGS = (
    *("part", "number", "rank", "short_run", "detector", "settings", "method", "recipe"),
    *("backbone", "modality", "tuned", "seeds", "checked"),
)
_MEASURED = ("ood", "group", "is_mean", "n_id", "n_ood")
_MORE = ("shifted_accuracy", "spectrum_accuracy", *(f"{name}_foreground" for name in FOREGROUND))


def to_csv(
    benchmark: Benchmark,
    parts: Iterable[tuple[Arranged, Ranking]],
    checked: Mapping[str, str] | None = None,
) -> str:
    """A line for each entry and each OOD set or group's mean, figures in percent.

    Of each figure there are its mean over seeds, the ends of its 95 % interval and the sample
    standard deviation over seeds, empty where there is none. ``part`` counts the page's sections,
    whose lines were measured on different images.

    Args:
        benchmark: that the rows are of.
        parts: the page's sections, each with the ranks of its entries.
        checked: how far each row was checked, by its id; None to say nothing of it.
    """
    figures = [*METRICS, *benchmark.measures, *_MORE, TASKS.get(benchmark.task).quality[0], "gap"]
    ends = ("", "_low", "_high", "_std")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    lines: list[list[object]] = []
    measured: list[list[Row]] = []
    for part, (section, ranking) in enumerate(parts, start=1):
        names = [*section.means.values(), *section.sets]
        for number, entry in section.numbered:
            about = _about(entry, checked)
            place = [part, number, ranking.ranks[number - 1], _yes(number > section.full)]
            of_names = [rows for name in names if (rows := entry.of(name))]
            lines += [[*place, *about, *_measured(rows[0])] for rows in of_names]
            measured += of_names
    of_lines = seeds.Lines.of(measured)
    columns = [column for name in figures for column in _columns(of_lines, name)]
    heads = [f"{name}{end}" for name in figures for end in ends]
    # columns that no line has anything in are those of other tasks and protocols
    kept = [(head, cells) for head, cells in zip(heads, columns, strict=True) if any(cells)]
    writer.writerow([*_SETTINGS, *_MEASURED, *(head for head, _ in kept)])
    cells_of_lines = zip(*(cells for _, cells in kept), strict=True)
    writer.writerows([*line, *cells] for line, cells in zip(lines, cells_of_lines, strict=True))
    return out.getvalue()


def _about(entry: Entry, checked: Mapping[str, str] | None) -> list[str]:
    row = entry.first
    words = dict.fromkeys(checked[one["row_id"]] for one in entry.one_each()) if checked else {}
    return [
        *map(visible, (row["detector"], settings_text(row), row["method"], row["recipe"] or "")),
        *map(visible, (row["backbone"], row.get("modality") or "")),
        _yes(row.get("tuned")),
        " ".join(map(str, entry.seeds)),
        "; ".join(words),
    ]


def _measured(row: Row) -> list[object]:
    is_mean = _yes(row["is_mean"])
    return [visible(row["ood"]), visible(row["group"]), is_mean, row["n_id"], row["n_ood"]]


def _columns(lines: seeds.Lines, figure: str) -> Iterator[list[str]]:
    """A figure of all lines: its mean, the ends of its interval, its deviation over seeds."""
    found = lines.figures(figure)
    for values in (found.mean, found.low, found.high, found.deviation):
        if np.isnan(values).all():
            yield [""] * len(values)
            continue
        # formatted one by one: NumPy's own formatting of texts takes four times as long
        texts = map("%.2f".__mod__, (100.0 * values).tolist())
        yield ["" if text == "nan" else text for text in texts]


def _yes(value: object) -> str:
    return "yes" if value else ""
