"""Rows in the order of a page: what was measured together, and its lines, the best first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from oodbench.benchmark import Benchmark
from oodbench.registry import TASKS
from oodbench.results.disputes import Submitted
from oodbench.results.entries import Entry, entries_of, note_twins, text_of
from oodbench.results.ranking import Ranking, SamplesOf, ranking_of
from oodbench.results.rows import Row, cell
from oodbench.results.standing import Standing
from oodbench.results.wording import seen_beside


def sections(benchmark: Benchmark, rows: Iterable[Row]) -> list[list[Row]]:
    """Rows by what they were measured on: the benchmark's own version and the most complete first.

    Rows of different sections are of different images, and share no table.
    """
    parts: dict[str, list[Row]] = {}
    known: dict[tuple[Any, ...], str] = {}
    before: object = None  # rows of one result share their objects
    shape = b""
    for row in rows:
        if row["preprocess"] is not before:
            before, shape = row["preprocess"], text_of(row["preprocess"])
        data = (row["id_fingerprint"], row["selection"], shape, version_of(row))
        if data not in known:
            known[data] = selection_of(row, benchmark)
        parts.setdefault(known[data], []).append(row)
    return sorted(
        parts.values(),
        key=lambda part: (
            version_of(part[0]) != benchmark.version,
            -len({row["ood"] for row in part}),
            -part[0]["n_id"],
            selection_of(part[0], benchmark),
        ),
    )


def selection_of(row: Row, benchmark: Benchmark) -> str:
    """What the row was measured on; the normalisation belongs to the network, not to the data."""
    shape = row["preprocess"]
    if isinstance(shape, dict):
        shape = {key: value for key, value in shape.items() if key not in ("mean", "std")}
    if benchmark.own_inputs:  # but the size that all images were brought to belongs to the data
        native = shape.get("native") if isinstance(shape, dict) else None
        shape = native and {"native": native}
    version = [version_of(row)] if version_of(row) > 1 else []
    return json.dumps([row["id_fingerprint"], shape, row["selection"], *version], sort_keys=True)


def version_of(row: Row) -> int:
    """The version of the benchmark that a row is of."""
    return row.get("benchmark_version") or 1


@dataclass(frozen=True)
class Arranged:
    """Rows that were measured on the same images, in the order of a page.

    Args:
        entries: the best first; short runs after all others.
        full: how many of them are no short runs.
        rows: one of each OOD set and group mean, for what is said of these.
        ranking: the set or group that is ranked by.
    """

    entries: list[Entry]
    full: int
    rows: list[Row]
    ranking: str

    @property
    def means(self) -> dict[str, str]:
        """What rows call the mean of each group that has one, by group."""
        return {row["group"]: row["ood"] for row in self.rows if row["is_mean"]}

    @property
    def sets(self) -> list[str]:
        """The OOD sets."""
        return [row["ood"] for row in self.rows if not row["is_mean"]]

    @property
    def numbered(self) -> list[tuple[int, Entry]]:
        """The entries with their numbers, from 1 on."""
        return list(enumerate(self.entries, start=1))


def arranged(
    benchmark: Benchmark, part: Sequence[Row], about: Submitted, standing: Standing | None = None
) -> Arranged:
    """The entries of a section, with what is known of each noted, and its sets.

    Args:
        benchmark: that the rows are of.
        part: one of :func:`sections`.
        about: what the cards of submissions say of the rows.
        standing: what is known of the results' checks and code.
    """
    entries = entries_of(part)
    # by name, from all entries: one whose writing was interrupted does not have every row
    rows = {name: row for entry in entries for (_, name), row in entry.rows.items()}
    own = [choice.spec.name for choice in benchmark.ood]
    groups = benchmark.group_names
    ordered = sorted(
        rows.values(),
        key=lambda r: (
            (*groups, r["group"]).index(r["group"]),
            (*own, r["ood"]).index(r["ood"]),
            r["ood"],
        ),
    )
    means = {row["group"]: row["ood"] for row in ordered if row["is_mean"]}
    ranking = means.get(benchmark.protocol.rank_group)
    ranking = ranking or [*means.values(), *(row["ood"] for row in ordered)][0]
    entries, full = _ranked(benchmark, entries, ranking)
    note_twins(entries)
    for entry in entries:
        beside = (seen_beside(row) for row in entry.rows.values())
        of_training = dict.fromkeys(mark for mark in beside if mark is not None)
        entry.marks = (*of_training, *about.marks(entry.rows.values()))
    if standing is not None:
        for entry in entries:
            entry.is_older = any(r["row_id"] in standing.older for r in entry.rows.values())
    return Arranged(entries, full, ordered, ranking)


def _ranked(
    benchmark: Benchmark, entries: Sequence[Entry], ranking: str
) -> tuple[list[Entry], int]:
    """The best first, by the mean over seeds of the protocol's metric, and how many are full runs.

    Short runs are last.
    """
    metric = benchmark.protocol.rank_by

    def rank(entry: Entry) -> tuple[float, str, bytes]:
        return entry.place(ranking, metric), entry.first["detector"], text_of(entry.first)

    kinds: tuple[list[Entry], list[Entry]] = ([], [])
    for entry in sorted(entries, key=rank):
        kinds[is_short_run(benchmark, entry.one_each())].append(entry)
    full, short = kinds
    return [*full, *short], len(full)


def is_short_run(benchmark: Benchmark, rows: Sequence[Row]) -> bool:
    """Whether networks classify worse than those of the literature do, on average over seeds.

    Such are networks of a few epochs: their figures tell of the training, not of detectors.

    Args:
        benchmark: whose protocol has the bound, if there is one.
        rows: one of each network.
    """
    least = benchmark.protocol.least_accuracy
    if least is None:
        return False
    quality = TASKS.get(benchmark.task).quality[0]
    values = [float(value) for row in rows if (value := cell(row, quality)) is not None]
    return bool(values) and math.fsum(values) / len(values) < least


def without_short_runs(benchmark: Benchmark, rows: Sequence[Row]) -> list[Row]:
    """The rows of lines that are no short runs, in the order of lines.

    Args:
        benchmark: that the rows are of.
        rows: of one section.
    """
    entries = entries_of(rows)
    full = [entry for entry in entries if not is_short_run(benchmark, entry.one_each())]
    return [row for entry in full for row in entry.rows.values()]


def ranks_of(benchmark: Benchmark, section: Arranged, samples: SamplesOf) -> Ranking:
    """Ranks of a section's entries; those of short runs begin after all others.

    Args:
        benchmark: that the rows are of.
        section: its entries.
        samples: the scores behind rows.
    """
    kinds = [section.entries[: section.full], section.entries[section.full :]]
    found = [
        ranking_of(benchmark, entries, section.ranking, samples) for entries in kinds if entries
    ]
    if len(found) < 2:
        return found[0]
    whole, short = found
    ranks = [*whole.ranks, *(section.full + rank for rank in short.ranks)]
    return Ranking(ranks, whole.remark or short.remark)
