"""Ranks of a page: entries that cannot be told apart share one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from oodbench.benchmark import Benchmark
from oodbench.metrics import paired
from oodbench.metrics.intervals import quantile_of_normal
from oodbench.metrics.paired import Measured
from oodbench.results.entries import Entry
from oodbench.results.plain import markdown
from oodbench.results.rows import NAMES, Row, cell
from oodbench.results.seeds import LEVEL as COVERAGE
from oodbench.results.significance import LEVEL, Sampled

SamplesOf = Callable[[Row], Sampled | None]
"""The scores behind a row; None where they were not kept."""

MOST = 300
"""Of more entries the pairs are not compared."""

DRAWS = 200
"""Of the bootstrap: standard errors within some 10 %, which do for the many pairs of a page."""


@dataclass(frozen=True)
class Ranking:
    """Ranks of entries, and how they came about.

    Args:
        ranks: of each entry, from 1 on; an entry's number in the order where none are shared.
        remark: sentences for the page; empty where there is nothing to compare.
    """

    ranks: list[int]
    remark: str


@dataclass(frozen=True)
class _Line:
    """What is known of an entry's ranking figure."""

    values: tuple[float, ...]
    networks: tuple[str, ...]
    variance: float
    """Of the images, from its intervals."""
    measured: Measured | None


def ranking_of(
    benchmark: Benchmark, entries: Sequence[Entry], ood: str, samples: SamplesOf
) -> Ranking:
    """Ranks of entries by the protocol's metric on a set or group.

    From the first entry on, one takes the rank of those above it as long as it is told apart from
    none of them; the first that is begins the next rank. So no two entries of one rank differ by
    more than noise.

    Args:
        benchmark: whose protocol says the metric.
        entries: the best first.
        ood: the set or group.
        samples: the scores behind rows.
    """
    metric = benchmark.protocol.rank_by
    figure = f"the {markdown(ood)} {NAMES[metric]}"
    plain = list(range(1, len(entries) + 1))
    if len(entries) > MOST:
        return Ranking(
            plain,
            f"Rank is the order by {figure} alone: so many entries are not compared in pairs.",
        )
    lines = [_line(entry, ood, metric, samples) for entry in entries]
    known = [line for line in lines if line is not None]
    if not known:
        return Ranking(
            plain,
            f"Rank is the order by {figure} alone: its figures have neither intervals nor stored "
            "scores, so that nothing says which differences are noise.",
        )
    ranks = _shared(lines, _apart(known))
    return Ranking(ranks, _remark(figure, metric, known))


def _line(entry: Entry, ood: str, metric: str, samples: SamplesOf) -> _Line | None:
    """What is known of an entry; None if that is too little for a comparison."""
    rows = entry.of(ood)
    if not rows or any(cell(row, metric) is None for row in rows):
        return None
    own = [found for row in rows if (found := samples(row)) is not None]
    measured = None
    if len(own) == len(rows):
        pairs = zip(own, rows, strict=True)
        measured = paired.mean_of([one.measured(row, metric, DRAWS) for one, row in pairs])
    ends = [(cell(row, f"{metric}_low"), cell(row, f"{metric}_high")) for row in rows]
    widths = [high - low for low, high in ends if low is not None and high is not None]
    if len(widths) < len(rows) and measured is None:
        return None
    variance = float(measured.error @ measured.error) if measured is not None else 0.0
    if len(widths) == len(rows):
        z = 2.0 * quantile_of_normal(COVERAGE)
        variance = math.fsum((width / z) ** 2 for width in widths) / len(widths)
    values = tuple(float(cell(row, metric)) for row in rows)
    return _Line(values, tuple(row["weights"] for row in rows), variance, measured)


def _apart(lines: Sequence[_Line]) -> np.ndarray:
    """Which of K entries differ by more than noise, ``[K, K]``."""
    pairs = list(itertools.combinations(range(len(lines)), 2))
    apart = np.zeros((len(lines), len(lines)), dtype=bool)
    if not pairs:
        return apart
    means = [math.fsum(line.values) / len(line.values) for line in lines]
    differences, variances, between, df = (np.empty(len(pairs)) for _ in range(4))
    for k, (i, j) in enumerate(pairs):
        one, other = lines[i], lines[j]
        differences[k] = means[i] - means[j]
        variances[k] = _variance(one, other)
        between[k], df[k] = paired.between_networks(
            one.values, other.values, same=one.networks == other.networks
        )
    corrected = paired.holm(paired.p_values(differences, variances, between, df))
    for (i, j), p in zip(pairs, corrected, strict=True):
        apart[i, j] = apart[j, i] = p < LEVEL
    return apart


def _variance(one: _Line, other: _Line) -> float:
    a, b = one.measured, other.measured
    # of a task whose options say what is scored, lines may be of other numbers of samples
    if a is not None and b is not None and a.error.shape == b.error.shape:
        return paired.variance_of_difference(a, b)
    return one.variance + other.variance


def _shared(lines: Sequence[_Line | None], apart: np.ndarray) -> list[int]:
    ranks: list[int] = []
    group: list[int] = []  # positions in ``apart`` of those that share the rank
    position, rank = 0, 1
    for number, line in enumerate(lines, start=1):
        if line is None:
            group, rank = [], number
        else:
            if not group or apart[position, group].any():
                group, rank = [], number
            group.append(position)
            position += 1
        ranks.append(rank)
    return ranks


def _remark(figure: str, metric: str, lines: Sequence[_Line]) -> str:
    test = "DeLong's test" if metric == "auroc" else "a paired bootstrap"
    by_scores = sum(line.measured is not None for line in lines)
    wide = (
        "from the intervals, as if images' errors were independent, which is on the wide side "
        "where all see the same images"
    )
    if by_scores == len(lines):
        how = f"{test} on the stored scores of the same images"
    elif by_scores < 2:
        how = f"{wide}; their scores were not kept"
    else:
        how = f"{test} on the stored scores of the same images; {wide}, for those without scores"
    seeds = (
        ", and the spread of several networks"
        if any(len(line.values) > 1 for line in lines)
        else ""
    )
    n = len(lines)
    if n < 2:
        return ""
    return (
        f"Entries of one rank cannot be told apart: no two of them differ in {figure} by more than "
        f"noise ({how}{seeds}; p below {LEVEL} after Holm's correction for {n * (n - 1) // 2:,} "
        "pairs is more than noise). Other trainings of a single network are not in it."
    )
