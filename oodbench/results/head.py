"""What a page says of its intervals, before its tables."""

from __future__ import annotations

from collections.abc import Sequence

from oodbench import metrics
from oodbench.benchmark import Benchmark
from oodbench.registry import TASKS
from oodbench.results.rows import Row


def intervals_of(
    benchmark: Benchmark, sections: Sequence[Sequence[Row]], seeds: str = "under Seeds"
) -> str:
    """What the page says of its intervals: those that its rows have, over what is counted.

    Args:
        benchmark: that the rows are of.
        sections: the page's rows.
        seeds: where each seed's figures are.
    """
    rows = [row for part in sections for row in part]
    has_intervals = any(row.get("auroc_low") is not None for row in rows)
    task = TASKS.get(benchmark.task)
    if not has_intervals and (rows or task.no_intervals):
        because = f": {task.no_intervals}" if task.no_intervals else ""
        return (
            "AUROC, FPR@95 and AUPR have no confidence intervals"
            f"{because}; several seeds have mean ± sample standard deviation "
            "over seeds, which tells of other trainings and not of other images, and each seed's "
            f"figures are {seeds}. {_AVERAGE_PRECISION}"
        )
    counted = task.unit
    older = any(
        row["is_mean"] and row.get("auroc_low") is not None and row.get("fpr95_id_low") is None
        for row in rows
    )
    return (
        "AUROC, FPR@95 and AUPR are given with 95 % confidence intervals "
        f"over {task.intervals_over} in brackets ({metrics.INTERVALS})"
        + (
            "; older rows, which have none of a group's FPR@95 and AUPR, have others, those of "
            "AUPR near 100 too wide"
            if older
            else ""
        )
        + f". Several seeds have their mean, with an interval over seeds and {counted} together: "
        "√(t² s²/S + w²) to each side, on the scale of arcsin √p, with the deviation s of S seeds, "
        "Student's t, and the mean distance w of their intervals' ends, as all see the same "
        f"{counted} (after Obuchowski & Rockette 1995, Zou & Donner 2008); ± the deviation over "
        f"seeds where there is none over {counted}. Each seed's figures are {seeds}. "
        f"{_AVERAGE_PRECISION}"
    )


_AVERAGE_PRECISION = (
    "AUPR is average precision; the trapezoid that other suites take differs from it where scores "
    "tie."
)
