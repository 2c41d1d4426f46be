"""A figure of several seeds: its mean, and an interval over seeds and images together.

Seeds are to a figure what readers are to a study of radiologists: all of them see the same cases.
So the variance of their mean has two parts, that between seeds, which more seeds lessen, and that
of the images, which seeds share and which no number of them lessens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import TypeAlias

import numpy as np
from scipy.special import stdtrit

from oodbench.results.rows import Row, cell

LEVEL = 0.95
"""Coverage of the rows' intervals, and of those that are made of them."""

Interval: TypeAlias = tuple[float, float]


def interval(
    values: Sequence[float], intervals: Sequence[Interval], *, share: bool = True
) -> Interval:
    """Interval of the mean of S seeds' figures, over seeds and images.

    On each side, ``g(mean) ± sqrt(t² s² / S + w²)``: s² is the sample variance of the seeds'
    ``g(value)``, t the two-sided quantile of Student's distribution with S - 1 degrees of freedom,
    and w² the mean over seeds of ``(g(end) - g(value))²``, the distances to that end of the seeds'
    own intervals over images. The scale is ``g(p) = arcsin(sqrt(p))``, which is finite at 0 and 1
    and keeps the ends between them; for differences the identity, cut at -1 and 1.

    Sources: the two parts of the variance, with seeds for readers and one method, are those of
    Obuchowski & Rockette, Communications in Statistics - Simulation and Computation 24 (1995);
    intervals of the parts are put together as in Zou & Donner, Statistics in Medicine 27 (2008).
    Two choices are on the wide side. For the second part the former have the covariance of two
    readers' errors on the same cases; rows have no scores to take it from, and the mean variance in
    its place is never smaller. And each part keeps its own quantile, where Hillis, Statistics in
    Medicine 26 (2007), has one of pooled degrees of freedom: of two to five seeds that covers 83 to
    99 %, this 93 to 100 % (docs/coverage.md).

    Args:
        values: a figure of each of S seeds.
        intervals: those over images, which hold the values.
        share: whether figures lie in [0, 1]; else in [-1, 1].

    Returns:
        The ends, which hold the mean; the seed's own of one seed.

    Raises:
        ValueError: no seeds, or not an interval each.
    """
    if not values or len(values) != len(intervals):
        raise ValueError(f"{len(values)} values need as many intervals, got {len(intervals)}")
    if len(values) == 1:
        return intervals[0]
    n = len(values)
    mean = math.fsum(values) / n
    scaled = [_scale(value, share) for value in values]
    centre = math.fsum(scaled) / n
    variance = math.fsum([(value - centre) ** 2 for value in scaled]) / (n - 1)
    between = _quantile(n) ** 2 * variance / n
    middle = _scale(mean, share)
    ends = []
    for side, sign in ((0, -1), (1, 1)):
        distances = [
            (_scale(own[side], share) - value) ** 2
            for value, own in zip(scaled, intervals, strict=True)
        ]
        half = math.sqrt(between + math.fsum(distances) / n)
        ends.append(_back(middle + sign * half, share))
    return min(ends[0], mean), max(ends[1], mean)  # rounding must not put the mean outside


@functools.lru_cache(maxsize=128)
def _quantile(seeds: int) -> float:
    return float(stdtrit(seeds - 1, 0.5 + LEVEL / 2))


def _scale(value: float, share: bool) -> float:
    return math.asin(math.sqrt(min(max(value, 0.0), 1.0))) if share else value


def _back(value: float, share: bool) -> float:
    if not share:
        return min(max(value, -1.0), 1.0)
    return math.sin(min(max(value, 0.0), math.pi / 2)) ** 2


@dataclass(frozen=True)
class Figure:
    """A figure of one seed or of several, and what is known of how sure it is.

    Args:
        values: in [0, 1] (in [-1, 1], a difference), one per seed.
        ends: the interval over images, or over seeds and images; None where a seed has none over
            images.
        of_images: how wide the intervals over images alone are, on average.
    """

    values: tuple[float, ...]
    ends: Interval | None
    of_images: float = 0.0

    @classmethod
    def of(cls, rows: Sequence[Row], column: str) -> Figure | None:
        """A column of rows that differ by their seed; None where it is empty in all of them."""
        there = [row for row in rows if row.get(column) is not None]
        if not there:
            return None
        values = tuple([float(cell(row, column)) for row in there])
        lower, upper = f"{column}_low", f"{column}_high"
        intervals = [(cell(row, lower), cell(row, upper)) for row in there]
        own = [(low, high) for low, high in intervals if low is not None and high is not None]
        if len(own) < len(there):
            return cls(values, None)
        width = math.fsum([high - low for low, high in own]) / len(own)
        return cls(values, interval(values, own, share=column != "gap"), width)

    @property
    def mean(self) -> float:
        """The mean of the values over seeds."""
        return math.fsum(self.values) / len(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over seeds; None of one seed."""
        n, mean = len(self.values), self.mean
        if n == 1:
            return None
        return math.sqrt(math.fsum([(value - mean) ** 2 for value in self.values]) / (n - 1))

    @property
    def width(self) -> float:
        """From end to end of the interval; 0 if there is none."""
        return self.ends[1] - self.ends[0] if self.ends else 0.0

    def __str__(self) -> str:
        """Percent: ``90.12 [88.00, 92.20]``; without intervals ``90.12 ± 1.30``, over seeds."""
        if self.ends:
            return f"{100 * self.mean:.2f} [{100 * self.ends[0]:.2f}, {100 * self.ends[1]:.2f}]"
        return self.spread

    @property
    def spread(self) -> str:
        """Percent; of several seeds with the sample standard deviation: ``90.12 ± 1.30``."""
        mean = f"{100 * self.mean:.2f}"
        if len(self.values) == 1:
            return mean
        return f"{mean} ± {100 * (self.deviation or 0.0):.2f}"


@dataclass(frozen=True)
class Figures:
    """A figure of N lines, each over its seeds; NaN where there is none.

    Args:
        mean: over seeds, ``[N]``.
        low: the lower ends of the intervals over seeds and images, ``[N]``.
        high: the upper ends.
        deviation: the sample standard deviation over seeds, ``[N]``.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class Lines:
    """N lines, each with its rows of one OOD set or group, which differ by their seed.

    Args:
        line: the number of each row's line, ``[R]``.
        n: how many lines there are.
        columns: places of what is in the numbers, by their names.
        numbers: figures and their intervals' ends, ``[R, C]``; NaN where a row has none.
    """

    line: np.ndarray
    n: int
    columns: Mapping[str, int]
    numbers: np.ndarray

    @classmethod
    def of(cls, lines: Sequence[Sequence[Row]], figures: Iterable[str]) -> Lines:
        """Of the rows of each line.

        Args:
            lines: rows that differ by their seed.
            figures: the columns that are asked for.
        """
        line = np.repeat(np.arange(len(lines)), [len(own) for own in lines])
        rows = [row for own in lines for row in own]
        names = [f"{figure}{end}" for figure in figures for end in ("", "_low", "_high")]
        columns = {name: place for place, name in enumerate(names)}
        return cls(line, len(lines), columns, _numbers(rows, names))

    def figures(self, column: str) -> Figures:
        """What :meth:`Figure.of` gives of each line, for all of them at once."""
        found = Figures(*(np.full(self.n, np.nan) for _ in range(4)))
        first = self.columns[column]
        numbers = self.numbers[:, first : first + 3]
        there = ~np.isnan(numbers[:, 0])
        counts = np.bincount(self.line[there], minlength=self.n)
        for n in np.unique(counts[counts > 0]).tolist():
            own_numbers = numbers[there & (counts[self.line] == n)].reshape(-1, n, 3)
            _fill(found, np.flatnonzero(counts == n), own_numbers, n, share=column != "gap")
        return found


def _numbers(rows: Sequence[Row], names: Sequence[str]) -> np.ndarray:
    """Columns of all rows, ``[R, C]``, NaN where a row has none."""
    numbers = np.full((len(rows), len(names)), np.nan)
    layouts: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(rows):
        layouts.setdefault(tuple(row), []).append(place)
    for layout, places in layouts.items():
        there = [column for column, name in enumerate(names) if name in layout]
        if not there:
            continue
        # a row at a time, with all of its columns: columns of many rows are far apart in memory
        values = map(itemgetter(*(names[column] for column in there)), (rows[i] for i in places))
        flat = chain.from_iterable(values) if len(there) > 1 else values
        numbers[np.ix_(places, there)] = np.array(list(flat), dtype=np.float64).reshape(
            -1, len(there)
        )
    return numbers


def _fill(found: Figures, places: np.ndarray, numbers: np.ndarray, n: int, *, share: bool) -> None:
    """Write the figures of K lines of ``n`` seeds each, ``[K, n, 3]``: value, low, high."""
    # an end that a seed lacks is an interval that the line lacks
    numbers[np.isnan(numbers).any(axis=(1, 2)), :, 1:] = np.nan
    values = numbers[:, :, 0]
    # rates of so many images lie halfway between two digits now and then: as Figure.mean rounds
    mean = np.array([math.fsum(own) / n for own in values.tolist()])
    found.mean[places] = mean
    if n == 1:
        found.low[places], found.high[places] = numbers[:, 0, 1], numbers[:, 0, 2]
        return
    found.deviation[places] = values.std(axis=1, ddof=1)
    scaled = np.arcsin(np.sqrt(np.clip(numbers, 0.0, 1.0))) if share else numbers
    middle = np.arcsin(np.sqrt(np.clip(mean, 0.0, 1.0))) if share else mean
    between = _quantile(n) ** 2 * scaled[:, :, 0].var(axis=1, ddof=1) / n
    distances = np.square(scaled[:, :, 1:] - scaled[:, :, :1]).mean(axis=1)  # [K, 2]
    half = np.sqrt(between[:, None] + distances)
    low, high = middle - half[:, 0], middle + half[:, 1]
    if share:
        low, high = (np.square(np.sin(np.clip(end, 0.0, np.pi / 2))) for end in (low, high))
    else:
        low, high = np.clip(low, -1.0, 1.0), np.clip(high, -1.0, 1.0)
    # rounding must not put the mean outside
    found.low[places], found.high[places] = np.minimum(low, mean), np.maximum(high, mean)
