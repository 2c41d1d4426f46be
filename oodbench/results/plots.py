"""Pictures of results: histograms of scores, ROC curves, near against far OOD.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart; lines also
differ by dashes and points by shape. A picture is written as its file's ending says.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oodbench import files
from oodbench.benchmark import Benchmark
from oodbench.errors import OODBenchError, OptionError
from oodbench.results import scores
from oodbench.results.entries import Entry, entries_of
from oodbench.results.rows import Row
from oodbench.results.scores import ID, of_ood
from oodbench.results.stored import StoredResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito, "Color universal design" (2008), but for the yellow that white paper swallows."""
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*<>"
SUFFIXES = (".png", ".svg", ".pdf")
BINS = 60
POINTS = 2_000
"""A curve is drawn through at most so many points."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches.

    Raises:
        OODBenchError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OODBenchError(
            "plots need matplotlib, which is not installed: pip install 'oodbench[plots]'."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def check_path(path: str | Path) -> Path:
    """Where a picture goes, if its ending names a format.

    Raises:
        OptionError: it ends in another way.
    """
    where = files.user_path(path)
    if where.suffix.lower() not in SUFFIXES:
        raise OptionError(f"a picture ends in {', '.join(SUFFIXES)}, not {where.name!r}.")
    return where


def save(figure: Figure, path: str | Path) -> Path:
    """Write a picture, whole or not at all.

    Raises:
        OptionError: its ending names no format.
        StorageError: it cannot be written.
    """
    where = check_path(path)
    buffer = io.BytesIO()
    kind = where.suffix.lower().removeprefix(".")
    # without a date the same figures give the same bytes
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    files.write_bytes(where, buffer.getvalue())
    return where


def histogram(result: StoredResult, tpr: float = 0.95) -> Figure:
    """Densities of a detector's scores on the ID test set and each OOD set, and the threshold.

    The threshold keeps the share ``tpr`` of the ID test set, the one of FPR@95 (ID positive).
    Scores beyond the outermost half per cent of all are drawn at the edges, so that a few do not
    squeeze the rest.

    Raises:
        OODBenchError: the result's scores were not kept, or matplotlib is not installed.
    """
    kept = _scores_of(result)
    first = result.rows[0]
    everything = np.concatenate(list(kept.values()))
    low, high = np.quantile(everything, [0.005, 0.995])
    high = high if high > low else low + 1
    edges = np.linspace(low, high, BINS + 1)
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    for (name, values), colour in zip(kept.items(), itertools.cycle(COLOURS)):
        density, _ = np.histogram(np.clip(values, low, high), edges, density=True)
        axes.stairs(density, edges, label=f"{name} ({len(values):,})", color=colour, linewidth=1.4)
        if name == first["id"]:
            axes.stairs(density, edges, fill=True, alpha=0.15, color=colour)
    threshold = np.quantile(kept[first["id"]], tpr)
    if low <= threshold <= high:
        axes.axvline(threshold, color="0.3", linewidth=1, linestyle="--")
        axes.annotate(
            f"keeps {100 * tpr:.0f} % of ID ", (threshold, 0.98), fontsize=8, va="top",
            ha="right",
            xycoords=("data", "axes fraction"),
        )  # fmt: skip
    axes.set_xlabel(f"score of {first['detector']} (higher: more OOD)")
    axes.set_ylabel("density")
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(_title(first), fontsize=10)
    return figure


def roc(results: Sequence[StoredResult], ood: str | None = None) -> Figure:
    """ROC curves: the share of OOD that is caught against the share of ID that is flagged.

    Args:
        results: with their scores; several on one OOD set, or one on all of its OOD sets.
        ood: the OOD set; needed for several results that have more than one.

    Raises:
        OptionError: several results without an OOD set, or one that lacks it.
        OODBenchError: a result's scores were not kept, or matplotlib is not installed.
    """
    curves: list[tuple[str, np.ndarray, np.ndarray]] = []
    for result in results:
        kept = _scores_of(result)
        own = result.rows[0]["id"]
        names = [name for name in kept if name != own]
        if ood is not None:
            if ood not in names:
                raise OptionError(
                    f"{result.path} has no scores of {ood!r}, but {', '.join(names)}."
                )
            names = [ood]
        elif len(results) > 1 and len(names) > 1:
            raise OptionError(
                f"name the OOD set of which curves are drawn with `ood`: {', '.join(names)}."
            )
        for name in names:
            label = name if len(results) == 1 else _label(result.rows[0])
            curves.append((label, kept[own], kept[name]))
    figure = new_figure(4.6, 4.6)
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="0.8", linewidth=0.8)
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(DASHES))
    for (label, ids, oods), (colour, dash) in zip(curves, looks, strict=False):
        flagged, caught = roc_points(ids, oods)
        area = 100 * float(np.trapezoid(caught, flagged))
        axes.plot(100 * flagged, 100 * caught, dash, color=colour, label=f"{label}  {area:.2f}")
    axes.set_xlabel("ID flagged, %")
    axes.set_ylabel("OOD caught, %")
    axes.set_aspect("equal")
    axes.legend(fontsize=8, frameon=False, title="AUROC", title_fontsize=8)
    first = results[0].rows[0]
    axes.set_title(first["benchmark"] if len(results) > 1 else _title(first), fontsize=10)
    return figure


def roc_points(ids: np.ndarray, oods: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of ID and of OOD at or above each threshold, from (0, 0) to (1, 1).

    Args:
        ids: scores of the ID set, ``[N]``; higher is more OOD.
        oods: of an OOD set, ``[M]``.

    Returns:
        Two arrays of the same length, at most ``POINTS``; ties are one point.
    """
    thresholds = np.unique(np.concatenate([ids, oods]))[::-1]
    if len(thresholds) > POINTS:
        thresholds = thresholds[np.linspace(0, len(thresholds) - 1, POINTS).astype(int)]

    def share(values: np.ndarray) -> np.ndarray:
        ordered = np.sort(values)
        above = len(ordered) - np.searchsorted(ordered, thresholds, side="left")
        return np.concatenate([[0.0], above / len(ordered)])

    return share(ids), share(oods)


def near_far(benchmark: Benchmark, rows: Iterable[Row]) -> Figure:
    """Each detector's AUROC on one group of OOD sets against that on another.

    Args:
        benchmark: that the rows are of; its first two groups with means are the axes.
        rows: measured together. Names that would cover each other are left to the page.

    Raises:
        OptionError: the rows have the means of fewer than two groups.
        OODBenchError: matplotlib is not installed.
    """
    measured = list(rows)
    means = {row["group"]: row["ood"] for row in measured if row["is_mean"]}
    groups = [group for group in benchmark.group_names if group in means][:2]
    if len(groups) < 2:
        raise OptionError(
            f"the rows of {benchmark.name} have the mean of {' and '.join(groups) or 'no group'}; "
            "a plot needs those of two."
        )
    figure = new_figure(6.4, 5.2)
    axes = figure.subplots()
    methods = sorted({row["method"] for row in measured})
    points = _points(entries_of(measured), [means[group] for group in groups])
    for entry, x, y in points:
        axes.plot(x, y, **_look(entry.first["method"], methods))
    for entry, x, y in _apart(points):
        axes.annotate(entry.name, (x, y), fontsize=7, xytext=(4, 2), textcoords="offset points")
    for side, group in (("x", groups[0]), ("y", groups[1])):
        getattr(axes, f"set_{side}label")(f"{means[group]} AUROC, %")
    from matplotlib.lines import Line2D

    axes.legend(
        handles=[
            Line2D([], [], label=method, linestyle="none", **_look(method, methods))
            for method in methods
        ],
        fontsize=8,
        frameon=False,
    )
    axes.set_title(benchmark.name, fontsize=10)
    return figure


Point = tuple[Entry, float, float]


def _points(entries: Sequence[Entry], means: Sequence[str]) -> list[Point]:
    """Entries with both figures, in percent, the best of the first axis first."""
    points = []
    for entry in entries:
        x, y = (entry.figure(mean, "auroc") for mean in means)
        if x is not None and y is not None:
            points.append((entry, 100 * x.mean, 100 * y.mean))
    return sorted(points, key=lambda point: -point[1])


def _apart(points: Sequence[Point]) -> list[Point]:
    """Those of the points whose names have room beside those of better ones."""
    width = max((p[1] for p in points), default=0) - min((p[1] for p in points), default=0) or 1
    height = max((p[2] for p in points), default=0) - min((p[2] for p in points), default=0) or 1
    named: list[Point] = []
    for point in points:
        if all(
            abs(point[1] - other[1]) > 0.13 * width or abs(point[2] - other[2]) > 0.03 * height
            for other in named
        ):
            named.append(point)
    return named


def _look(method: str, methods: Sequence[str]) -> dict[str, Any]:
    number = methods.index(method)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 5,
    }


def _scores_of(result: StoredResult) -> dict[str, np.ndarray]:
    """Scores by set, that of the ID test set first.

    Raises:
        OODBenchError: they were not kept.
    """
    if result.scores_path is None:
        raise OODBenchError(
            f"{result.path} has no scores of single images, only figures. Evaluate again to keep "
            "them."
        )
    kept = scores.read(result.scores_path)
    singles = dict.fromkeys(row["ood"] for row in result.rows if not row["is_mean"])
    there = {name: kept[of_ood(name)] for name in singles if of_ood(name) in kept}
    return {result.rows[0]["id"]: kept[ID], **there}


def _title(row: Row) -> str:
    return f"{_label(row)} on {row['backbone']}, {row['benchmark']}"


def _label(row: Row) -> str:
    modality = f" ({row['modality']})" if row.get("modality") else ""
    method = "" if row["method"] == row["detector"] else f", {row['method']}"
    return f"{row['detector']}{modality}{method}, seed {row['seed']}"
