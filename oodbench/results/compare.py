"""Which pre-trained network, and which detector on it: their matrix, as one table and a plot."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.detector import Detector
from oodbench.errors import OptionError
from oodbench.evaluation import evaluate_each
from oodbench.registry import MEASURES, METHODS, STANDARD_DETECTOR, STANDARD_METHOD, TASKS
from oodbench.reporting import Report
from oodbench.results.outcome import Results
from oodbench.results.plots import new_figure
from oodbench.results.rows import Row, cell
from oodbench.results.seeds import Figure
from oodbench.selection import create_detectors
from oodbench.tasks.task import task_of


def standard_method(benchmark: Benchmark) -> str:
    """How networks are compared if nothing else is asked for: as they are, where that is possible.

    That is the benchmark's own method, or else the one that says that it ``compares`` networks of
    the benchmark's task.
    """
    if benchmark.standard_method != STANDARD_METHOD:
        return benchmark.standard_method
    able = task_of(benchmark).methods()
    return next((name for name in able if METHODS.get(name).compares), STANDARD_METHOD)


def compare(
    id: str | None = None,  # noqa: A002
    backbones: Sequence[str] = (),
    detectors: Sequence[str | Detector] | str | Detector = STANDARD_DETECTOR,
    *,
    benchmark: str | Benchmark | None = None,
    method: str | None = None,
    report: Report | None = None,
    **options: Any,
) -> Results:
    """Every detector on every network: :func:`oodbench.evaluate` for each of the latter.

    A network that cannot be had (its weights are out of reach) or that no detector can be put on is
    named in ``failures``, and the others are compared without it.

    Args:
        id: the ID set.
        backbones: names of the networks; ``NAME@FILE`` for one whose weights are in a checkpoint.
        detectors: names or objects, for all networks.
        benchmark: another protocol's name, or a :class:`Benchmark`.
        method: how the networks are had; None for a linear probe on each as it is.
        report: told what happens, line by line.
        options: of :func:`oodbench.evaluate`.

    Raises:
        OptionError: no network, or one twice.
        Exception: no network could be evaluated; what the first one raised.
    """
    if not backbones or len(set(backbones)) < len(backbones):
        raise OptionError("name the networks to compare, each once: `backbone=NAME,NAME`.")
    chosen = get_benchmark(id, benchmark, options.pop("task", None))
    method = method or standard_method(chosen)
    made = create_detectors(detectors, method, chosen, options.get("preset"))
    return evaluate_each(
        backbones, benchmark=chosen, detectors=made, method=method, report=report, **options
    )


@dataclass
class Line:
    """One detector on one network.

    Args:
        backbone: the network's name.
        detector: the detector's.
        means: the rows of its groups' means, by group, one per seed.
        singles: the rows of its OOD sets, all seeds.
    """

    backbone: str
    detector: str
    means: dict[str, list[Row]]
    singles: list[Row]

    def figure(self, group: str, column: str) -> Figure | None:
        """A figure of a group's mean over the seeds; None where there is none."""
        return Figure.of(self.means.get(group, []), column)


def lines(results: Results, benchmark: Benchmark) -> list[Line]:
    """All combinations, in the order in which the benchmark's protocol ranks them."""
    combinations: dict[tuple[str, str, str], Line] = {}
    for row in results.rows:
        key = (row["backbone"], row["detector"], str(row["detector_options"]))
        line = combinations.setdefault(key, Line(row["backbone"], row["detector"], {}, []))
        if row["is_mean"]:
            line.means.setdefault(row["group"], []).append(row)
        else:
            line.singles.append(row)
    protocol = benchmark.protocol
    sign = 1 if protocol.rank_by.startswith("fpr") else -1

    def rank(line: Line) -> float:
        figure = line.figure(protocol.rank_group, protocol.rank_by)
        return math.inf if figure is None else sign * figure.mean

    return sorted(combinations.values(), key=rank)


def table(results: Results, benchmark: Benchmark) -> tuple[list[str], list[list[str]]]:
    """Header and cells, percent with two decimals: each group's mean, the gap, the ID accuracy.

    AUROC and gap have their 95 % intervals beside them, over images, and over seeds if several.
    The benchmark's measures stand beside them, which are the network's and no detector's.
    """
    ranked = lines(results, benchmark)
    means = {group for line in ranked for group in line.means}
    groups = [group for group in benchmark.group_names if group in means]
    fpr = benchmark.protocol.fpr
    quality, quality_name = TASKS.get(benchmark.task).quality
    positive = {"fpr95_id": "ID+", "fpr95_ood": "OOD+"}[fpr]
    header = ["backbone", "detector"]
    columns: list[tuple[str, str]] = []
    for group in groups:
        for column, title in (
            ("auroc", "AUROC"),
            (fpr, f"FPR@95 {positive}"),
            *((measure, measure) for measure in benchmark.measures),
            ("shifted_accuracy", "accuracy"),
        ):
            if any(line.figure(group, column) is not None for line in ranked):
                columns.append((group, column))
                header.append(f"{group} {title}")
    if benchmark.protocol.contrast is not None:
        _, group = benchmark.protocol.contrast
        if any(line.figure(group, "gap") is not None for line in ranked):
            columns.append((group, "gap"))
            header.append("gap")
    header.append(quality_name)
    cells = []
    for line in ranked:
        last = (next(iter(line.means)), quality)
        shown = [_shown(line.figure(*column), column[1]) for column in (*columns, last)]
        cells.append([line.backbone, line.detector, *shown])
    return header, cells


def _shown(figure: Figure | None, column: str) -> str:
    if figure is None:
        return "–"
    has_interval = column in ("auroc", "gap") and figure.ends
    return str(figure) if has_interval else f"{100 * figure.mean:.2f}"


def scatter(results: Results, benchmark: Benchmark, path: str | Path) -> Path:
    """Draw AUROC against the benchmark's measure of the network's outputs.

    There is a point for each network and OOD set, coloured by the set's group, in a panel for each
    detector.

    Args:
        results: rows with the first of the benchmark's ``measures``.
        benchmark: that they are of.
        path: the PNG file.

    Raises:
        OODBenchError: matplotlib is not installed.
        OptionError: the benchmark has no measure, or no row has it.
    """
    ranked = lines(results, benchmark)
    if not benchmark.measures:
        raise OptionError(
            f"benchmark {benchmark.name} has no measure of a network's outputs to plot AUROC "
            "against. Plot a benchmark with `measures`."
        )
    name = benchmark.measures[0]
    measure = MEASURES.get(name)
    points = [(line, row) for line in ranked for row in line.singles if row.get(name) is not None]
    if not points:
        raise OptionError(
            f"no row of benchmark {benchmark.name} has its measure {name}, so there is nothing to "
            "plot. Compare networks that give what it reads: "
            f"{', '.join(sorted(measure.needs))}."
        )
    detectors = list(dict.fromkeys(line.detector for line, _ in points))
    networks = sorted({line.backbone for line, _ in points})
    drawn = {row["group"] for _, row in points}
    groups = [group for group in benchmark.group_names if group in drawn]
    colours = dict(zip(groups, itertools.cycle(_COLOURS), strict=False))
    across = min(4, len(detectors))
    down = -(-len(detectors) // across)
    figure = new_figure(3.2 * across + 2.6, 2.9 * down + 0.6)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for panel, detector in zip(panels.flat, detectors, strict=False):
        panel.set_title(detector, fontsize=10)
        panel.axhline(50, color="0.8", linewidth=0.8)
        for line, row in points:
            if line.detector == detector:
                panel.plot(
                    100 * cell(row, name),
                    100 * row["auroc"],
                    marker=_MARKERS[networks.index(line.backbone) % len(_MARKERS)],
                    color=colours[row["group"]],
                    linestyle="none",
                )
    for panel in list(panels.flat)[len(detectors) :]:
        panel.remove()
    figure.supxlabel(measure.axis or measure.title, fontsize=10)
    figure.supylabel("OOD detection, AUROC %", fontsize=10)
    figure.suptitle(benchmark.name, fontsize=11)
    from matplotlib.lines import Line2D

    legend = [
        Line2D([], [], color=colours[g], marker="s", linestyle="none", label=g) for g in groups
    ]
    legend += [
        Line2D(
            [], [], color="0.3", marker=_MARKERS[i % len(_MARKERS)], linestyle="none", label=network
        )
        for i, network in enumerate(networks)
    ]
    figure.legend(handles=legend, loc="outside right upper", fontsize=8, frameon=False)
    path = files.user_path(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    files.write_bytes(path, buffer.getvalue())
    return path


_MARKERS = "osD^vPX*<>"
_COLOURS = ("tab:orange", "tab:blue", "tab:green", "tab:purple", "tab:gray", "tab:red", "tab:cyan")
