"""Rows of groups' means: of figures and their intervals, and the difference of two groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from oodbench.benchmark import Benchmark
from oodbench.results.rows import ENDS, FOREGROUND, METRICS, Row, cell, with_columns

Intervals = Callable[[list[int]], Mapping[str, float]]
"""``<metric>_low`` and ``<metric>_high`` of the mean over the sets at those positions."""

Difference = Callable[[list[int], list[int]], tuple[float, float, float]]
"""The mean AUROC over the sets at the first positions minus that at the second, and the ends of its
interval, which are NaN where there is none."""


def rows_of_means(
    benchmark: Benchmark,
    about: Row,
    singles: Sequence[Row],
    incomplete: Collection[str] = (),
    intervals: Intervals | None = None,
    difference: Difference | None = None,
) -> list[Row]:
    """A row for the unweighted mean of each group of OOD sets, in the benchmark's order.

    Args:
        benchmark: whose groups they are.
        about: what all rows have in common.
        singles: the rows of one detector's OOD sets, one for each set.
        incomplete: groups of which a set is not on this machine. The name of their mean lists the
            sets, and so does that of any mean which is not over the whole group.
        intervals: of a mean's figures; None where figures have none.
        difference: of two groups' mean AUROCs, for the protocol's ``contrast``; None for none.
    """
    positions: dict[str, list[int]] = {group: [] for group in benchmark.group_names}
    for i, row in enumerate(singles):
        positions[row["group"]].append(i)
    contrast = benchmark.protocol.contrast or ("", "")
    rows: list[Row] = []
    for group, members in positions.items():
        if not members:
            continue
        of_group = [singles[i] for i in members]
        mean: Row = {**about, **_mean(benchmark, group, of_group, group in incomplete)}
        if len(members) > 1 and intervals is not None:
            mean = with_columns(mean, intervals(members))
        others = positions.get(contrast[0])
        if difference is not None and group == contrast[1] and others:
            mean["gap"], *ends = difference(others, members)
            mean["gap_low"], mean["gap_high"] = (None if math.isnan(e) else e for e in ends)
        rows.append(mean)
    return rows


def _mean(benchmark: Benchmark, group: str, members: Sequence[Row], is_incomplete: bool) -> Row:
    names = [row["ood"] for row in members]
    is_whole = benchmark.is_complete(group, names) and not is_incomplete
    mean: Row = {
        "ood": group if is_whole else f"{group}({', '.join(names)})",
        "group": group,
        "is_mean": True,
        "ood_sets": names,
        "n_id": max(row["n_id"] for row in members),
        "n_ood": sum(row["n_ood"] for row in members),
        "ood_fingerprint": "+".join(row["ood_fingerprint"][:16] for row in members),
    }
    figures: dict[str, float] = {}
    if len(members) == 1:  # the mean of one set is that set, intervals and all
        figures |= {name: cell(members[0], name) for name in ENDS}
    for metric in METRICS:
        figures[metric] = float(np.mean([cell(row, metric) for row in members]))
    errors = [e for row in members if (e := row.get("binning_error")) is not None]
    mean["binning_error"] = max(errors, default=None)
    for name in (*benchmark.measures, "shifted_accuracy"):
        values = [value for row in members if (value := cell(row, name)) is not None]
        if values:
            figures[name] = float(np.mean(values))
    objects = [n for row in members if (n := row.get("n_id_foreground"))]
    if len(objects) == len(members):
        mean["n_id_foreground"] = max(objects)
        for name in (f"{metric}_foreground" for metric in FOREGROUND):
            figures[name] = float(np.mean([cell(row, name) for row in members]))
    return with_columns(mean, figures)
