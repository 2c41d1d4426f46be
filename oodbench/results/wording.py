"""What pages say of rows in words: images, settings, inputs, versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oodbench.benchmark import Benchmark
from oodbench.registry import TASKS
from oodbench.results.entries import Entry
from oodbench.results.rows import Row

SHIFTED_REMARK = (
    "Shifted: the ID classes under other conditions. They are not OOD, and nothing is ranked by "
    "them: AUROC tells how much a detector flags the shift, 50 % that it does not, beside the "
    "accuracy there."
)
FULL_SPECTRUM_REMARK = (
    "Shifted: the ID classes under other conditions. They count as ID: each OOD set is compared "
    "with the ID test set and all shifted sets together, and the full-spectrum accuracy is that "
    "over all of them. In the shifted sets' own columns they are compared with the ID test set "
    "alone: AUROC tells how much a detector flags the shift, 50 % that it does not, beside the "
    "accuracy there."
)


def seen_beside(row: Row) -> str | None:
    """What a row's network was trained with beside the ID set, a mark; None for nothing."""
    beside = row.get("auxiliary")
    if not beside:
        return None
    as_what = beside["as"].replace("_", " ")
    return f"trained with {as_what}: {beside['count']:,} images of {beside['name']}"


def id_text(benchmark: Benchmark, first: Row, singles: Sequence[Row]) -> str:
    """What OOD sets are compared with, and how much of it there is."""
    if not benchmark.protocol.full_spectrum:
        return f"ID test: {count_text(benchmark, first['n_id'])}"
    count = count_text(benchmark, max(row["n_id"] for row in singles))
    return f"ID: {count}, of the test set and of all shifted sets"


def gaps_text(entries: Sequence[Entry], mean: str) -> str:
    """In how many measurements the group of that mean is surely harder, and in how many easier."""
    rows = [row for entry in entries for row in entry.of(mean)]
    harder = sum(low > 0 for row in rows if (low := row.get("gap_low")) is not None)
    easier = sum(high < 0 for row in rows if (high := row.get("gap_high")) is not None)
    return (
        f"Its interval lies above zero in {harder} of {len(rows)} measurements here, below it in "
        f"{easier}."
    )


def count_text(benchmark: Benchmark, n: int) -> str:
    """So many of what is counted of the ID set."""
    return f"{n:,} {TASKS.get(benchmark.task).id_unit}"


def unit_text(benchmark: Benchmark) -> str:
    """What is counted in a row's ``n_id`` and ``n_ood``."""
    return str(TASKS.get(benchmark.task).unit)


def method_text(row: Row) -> str:
    """How a network was trained: the method, and its recipe."""
    return f"{row['method']} ({row['recipe']})" if row["recipe"] else row["method"]


def settings_text(row: Row) -> str:
    """The detector's options, as ``name=value`` in the order of names."""
    return ", ".join(f"{k}={v}" for k, v in sorted(row["detector_options"].items())) or "–"


def input_of_all(benchmark: Benchmark, row: Row) -> str:
    """How images were made for networks, where it was the same for all."""
    if benchmark.own_inputs:
        return "each network's own, told beside it"
    return input_to(benchmark, row["preprocess"])


def input_to(benchmark: Benchmark, value: Any) -> str:
    """A preprocessing in words, of which some tasks take colours and normalisation alone."""
    if TASKS.get(benchmark.task).keeps_size and isinstance(value, dict) and "mode" in value:
        return f"{value['mode']}, each image in its own size"
    return input_text(value)


def input_text(value: Any) -> str:
    """A preprocessing in words, from its content key."""
    if not isinstance(value, dict):
        return str(value)
    if "mode" not in value:
        return "; ".join(f"{name}: {input_text(part)}" for name, part in value.items())
    how = ", ".join(
        [value["resize"], *([value["interpolation"]] if "interpolation" in value else [])]
    )
    if "native" in value:
        how += f", from {value['native']} px"
    return f"{value['mode']}, {value['size']} px ({how})"


def made_with(row: Row) -> str:
    """Versions, and what it was computed on; not the latter for rows from before that was noted."""
    versions = (
        f"oodbench {row['oodbench']} ({(row['git_commit'] or 'no commit')[:12]}), "
        f"torch {row['torch']}, python {row['python']}, {row['precision']}"
    )
    if row.get("preprocess_source") is not None:
        versions += f", preprocessing: {row['preprocess_source']}"
    if row.get("fit_on") is not None:
        versions += f", fitted on {row['fit_on']}"
    if row.get("accelerator") is None:
        return versions
    return f"{versions}, {row['accelerator']}, {row['processor']}, {row['threads']} threads"
