"""Figures that others published, and the rows beside which they may stand."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oodbench.errors import OODBenchError
from oodbench.registry import DETECTORS, PUBLISHED
from oodbench.results.entries import Entry
from oodbench.results.plain import markdown
from oodbench.results.rows import NAMES, Row
from oodbench.results.seeds import Figure

ANY = "*"
"""A method that stands for all, of figures whose network's name says its weights."""

PAIRED = ("benchmark", "backbone", "method", "detector", "column")
"""What a figure must have so that it may stand beside a row."""

ACCURACIES = ("id_accuracy", "spectrum_accuracy")
"""Columns that are of no OOD set."""

COLUMNS = (
    *("name", "network", "id", "set", "figure", "percent", "spread", "convention", "source"),
    *("detector", "method", "backbone", "benchmark", "ood", "column"),
)
"""Of the file, in this order."""


@dataclass(frozen=True)
class Published:
    """A figure that somebody published.

    Args:
        name: what its source calls the detector, or the method.
        network: what it calls the network.
        id: the ID set, by the name that it has here.
        set: what its source calls the OOD set, or the mean of several; ``-`` of an accuracy.
        figure: what it calls the figure.
        value: the figure, a fraction.
        printed: the same in percent, as printed.
        spread: the sample standard deviation over seeds, a fraction; None if it is not printed.
        convention: what it follows, in words: which class is positive, how it was averaged.
        source: where it was read.
        detector: the detector's name here; None if there is none.
        method: how the network was trained, by the name here; ``*`` for any.
        backbone: the network's name here; None if none agrees.
        benchmark: the benchmark whose protocol and images agree; None if none does.
        ood: the OOD set or group there; None of an accuracy.
        column: the row's column that it is a figure of.
    """

    name: str
    network: str
    id: str
    set: str
    figure: str
    value: float
    printed: str
    spread: float | None
    convention: str
    source: str
    detector: str | None
    method: str | None
    backbone: str | None
    benchmark: str | None
    ood: str | None
    column: str | None

    @property
    def is_comparable(self) -> bool:
        """Whether backbone, protocol and set agree with what can be measured here."""
        return all(getattr(self, name) is not None for name in PAIRED)

    @property
    def half_digit(self) -> float:
        """What rounding to the printed digits may have changed."""
        return 0.5 * 10.0 ** -(len(self.printed.partition(".")[2]) + 2)


def read(path: Path) -> tuple[Published, ...]:
    """The figures of a file of :data:`COLUMNS`, with commas between them.

    Raises:
        OODBenchError: names the line, and what is wrong with it.
    """
    lines = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    if tuple(lines.fieldnames or ()) != COLUMNS:
        raise OODBenchError(f"{path} must have the columns {', '.join(COLUMNS)}.")
    published = []
    for number, line in enumerate(lines, start=2):
        try:
            published.append(_published(line))
        except (TypeError, ValueError) as error:
            raise OODBenchError(f"{path}, line {number}: {error}.") from error
    return tuple(published)


def _published(line: Mapping[str, str]) -> Published:
    if None in line or None in line.values():
        raise ValueError(f"it must have {len(COLUMNS)} columns")
    value = float(line["percent"]) / 100.0
    spread = float(line["spread"]) / 100.0 if line["spread"] else None
    if not 0.0 <= value <= 1.0 or (spread is not None and not 0.0 <= spread < math.inf):
        raise ValueError(f"{line['percent']} (spread {line['spread']!r}) is no percentage")
    column, ood = line["column"] or None, line["ood"] or None
    if column is not None and (column in ACCURACIES) != (ood is None):
        raise ValueError(f"{column!r} of the set {ood!r}")
    if column is not None and column not in (*NAMES, *ACCURACIES):
        raise ValueError(f"there is no column {column!r}")
    missing = [name for name in ("name", "id", "figure", "convention", "source") if not line[name]]
    if missing:
        raise ValueError(f"{', '.join(missing)} is empty")
    return Published(
        name=line["name"],
        network=line["network"],
        id=line["id"],
        set=line["set"],
        figure=line["figure"],
        value=value,
        printed=line["percent"],
        spread=spread,
        convention=line["convention"],
        source=line["source"],
        detector=line["detector"] or None,
        method=line["method"] or None,
        backbone=line["backbone"] or None,
        benchmark=line["benchmark"] or None,
        ood=ood,
        column=column,
    )


def figures() -> Iterator[Published]:
    """All published figures that installed packages know of."""
    for name in PUBLISHED.names():
        yield from PUBLISHED.get(name)()


@dataclass(frozen=True)
class Beside:
    """A published figure beside what was measured here.

    Args:
        published: the figure.
        measured: an entry's, over its seeds.
    """

    published: Published
    measured: Figure

    @property
    def difference(self) -> float:
        """What was measured here minus what was published."""
        return self.measured.mean - self.published.value

    @property
    def is_beyond(self) -> bool:
        """Whether the published figure lies outside of the interval of what was measured."""
        if self.measured.ends is None:
            return False
        low, high = self.measured.ends
        half = self.published.half_digit
        return not low - half <= self.published.value <= high + half


Index = Mapping[tuple[str | None, ...], Sequence[Published]]
"""Comparable figures by benchmark, backbone and detector."""


def index() -> Index:
    """Figures that may stand beside rows, by what these must have."""
    by_key: dict[tuple[str | None, ...], list[Published]] = {}
    for figure in figures():
        if figure.is_comparable:
            key = figure.benchmark, figure.backbone, figure.detector
            by_key.setdefault(key, []).append(figure)
    return by_key


def beside(entry: Entry, known: Index | None = None) -> list[Beside]:
    """Published figures of an entry: those with its detector, training, backbone, images and set.

    A network that was trained here must have been by its paper's recipe as it is; options of the
    detector must be its defaults, or chosen on validation data, as the published ones were.

    Args:
        entry: of a page.
        known: the figures; None to look them up.
    """
    first = entry.first
    known = index() if known is None else known
    key = first["benchmark"], first["backbone"], first["detector"]
    own = [figure for figure in known.get(key, ()) if _is_trained_so(first, figure)]
    if not own or not _has_usual_options(first):
        return []
    measured_figures = []
    for figure in own:
        rows = entry.one_each() if figure.ood is None else entry.of(figure.ood)
        measured = Figure.of(rows, figure.column or "")
        if measured is not None:
            measured_figures.append(Beside(figure, measured))
    return measured_figures


def _is_trained_so(row: Row, figure: Published) -> bool:
    if figure.method == ANY:
        return row["recipe"] is None
    is_published = row["recipe"] == "published" and not row["recipe_options"]
    return figure.method == row["method"] and is_published


def _has_usual_options(row: Row) -> bool:
    if row.get("tuned"):
        return True
    if row["detector"] not in DETECTORS:
        return False
    usual = DETECTORS.get(row["detector"])().options()
    return dict(row["detector_options"]) == usual


def section(numbered: Sequence[tuple[int, Entry]]) -> list[str]:
    """The part of a page with published figures beside its own; none if there are none.

    Args:
        numbered: entries with their numbers on the page.
    """
    table = []
    known = index()
    for number, entry in numbered:
        for one in beside(entry, known):
            figure = one.published
            where = figure.ood or "ID"
            mark = " ✕" if one.is_beyond else ""
            table.append(
                [
                    str(number),
                    markdown(entry.name),
                    f"{markdown(where)} {_title(figure)}",
                    str(one.measured),
                    _printed(figure),
                    f"{100 * one.difference:+.2f}{mark}",
                    markdown(f"{figure.convention}; {figure.source}"),
                ]
            )
    if not table:
        return []
    header = [
        "#",
        "Detector",
        "Figure",
        "Here",
        "Published",
        "Here less published",
        "Convention, source",
    ]
    lines = ["### Published figures", ""]
    lines += [
        "Where backbone, training, protocol and images agree. ± is the deviation over seeds that "
        "the source prints. ✕: the published figure lies outside of the interval here.",
        "",
    ]
    widths = ["---"] * len(header)
    rows = [header, widths, *table]
    return [*lines, *("| " + " | ".join(c.replace("|", "\\|") for c in r) + " |" for r in rows), ""]


def _title(figure: Published) -> str:
    return NAMES.get(figure.column or "", "accuracy")


def _printed(figure: Published) -> str:
    spread = "" if figure.spread is None else f" ± {100 * figure.spread:.2f}"
    return f"{figure.printed}{spread}"


def chosen(
    id_name: str | None = None, detector: str | None = None, benchmark: str | None = None
) -> list[Published]:
    """Published figures of an ID set, a detector or a benchmark.

    Args:
        id_name: the ID set.
        detector: the detector's name here, or (in any case) what sources call it.
        benchmark: whose protocol and images agree.
    """
    wanted = detector and detector.casefold()
    return [
        figure
        for figure in figures()
        if id_name in (None, figure.id)
        and benchmark in (None, figure.benchmark)
        and (wanted is None or wanted in (figure.detector, figure.name.casefold()))
    ]
