"""All lines of a page as a csv: the figures of each entry on each set and group, with intervals."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence

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
    lines: list[list[object]] = []
    measured: list[list[Row]] = []
    for part, (section, ranking) in enumerate(parts, start=1):
        names = [*section.means.values(), *section.sets]
        for number, entry in section.numbered:
            about = _about(entry, checked)
            place = [part, number, ranking.ranks[number - 1], _yes(number > section.full)]
            by_name = entry.by_name()
            of_names = [by_name[name] for name in names if name in by_name]
            lines += [[*place, *about, *_measured(rows[0])] for rows in of_names]
            measured += of_names
    of_lines = seeds.Lines.of(measured, figures)
    heads = [f"{name}{end}" for name in figures for end in ends]
    values = np.concatenate([_columns(of_lines, name) for name in figures], axis=1)
    # columns that no line has anything in are those of other tasks and protocols
    kept = np.flatnonzero(~np.isnan(values).all(axis=0))
    about_lines = _csv([[*_SETTINGS, *_MEASURED, *(heads[column] for column in kept)], *lines])
    texts = ["", *_texts(100.0 * values[:, kept])]
    return "".join(f"{about}{text}\n" for about, text in zip(about_lines, texts, strict=True))


def _csv(lines: Iterable[Sequence[object]]) -> list[str]:
    """Each line as csv has it, without its end."""
    out = _Texts()
    csv.writer(out, lineterminator="").writerows(lines)
    return out.texts


class _Texts:
    """A file that keeps what is written apart."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.write = self.texts.append


def _texts(numbers: np.ndarray) -> Iterator[str]:
    """The cells of each line of numbers, ``[L, C]``, a comma before each; NaN is empty."""
    form = ",%.2f" * numbers.shape[1]
    return ((form % tuple(line)).replace("nan", "") for line in numbers.tolist())


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


def _columns(lines: seeds.Lines, figure: str) -> np.ndarray:
    """A figure of all lines: mean, ends of the interval, deviation over seeds, ``[L, 4]``."""
    found = lines.figures(figure)
    return np.stack([found.mean, found.low, found.high, found.deviation], axis=1)


def _yes(value: object) -> str:
    return "yes" if value else ""
