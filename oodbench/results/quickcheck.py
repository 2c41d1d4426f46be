"""What nearly all stored results are: sound, which one quick pass over many of them sees.

Thousands of results are read for a page. Each is checked all the same, by a pass that takes results
with the same columns together, and each column of all their rows as a whole. It only ever says
"sound"; whatever is not plainly so is left to the careful checks of :mod:`oodbench.results.stored`,
which say what is wrong.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, TypeAlias, cast

import numpy as np
import orjson

from oodbench import files
from oodbench.registry import MEASURES
from oodbench.results import rowcheck
from oodbench.results.rowcheck import KINDS
from oodbench.results.rows import ALWAYS, METRICS, SCHEMA, Row, is_told, told

Columns: TypeAlias = Mapping[str, Any]
"""Columns of a row as JSON has them, of which nothing is known yet."""
Parts: TypeAlias = tuple[Columns, Sequence[Columns]]
"""A result: the columns that all of its rows have in common, and those that each has for itself."""

_REQUIRED = frozenset(ALWAYS)
_OF_MEANS = frozenset(("is_mean", "ood", "ood_sets", "group", "row_id", *METRICS))


def content_of(raw: bytes) -> Any:
    """The JSON of a sealed text; None where it is left to the careful parser.

    That is text that another parser may take in another way: NaN and infinity, halves of
    characters, a mark of the byte order, nesting without end.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def sound_rows(results: Sequence[Parts]) -> list[list[Row] | None]:
    """The rows of each result that are what an evaluation wrote; None where that is not plain."""
    found: list[list[Row] | None] = [None] * len(results)
    alike: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for number, (shared, own) in enumerate(results):
        names = set(map(tuple, own))
        if len(names) == 1:
            alike.setdefault((*names, tuple(shared)), []).append(number)
    for (names_of_own, names_of_shared), numbers in alike.items():
        plan = _plan(names_of_own, names_of_shared)
        if plan is None:
            continue
        if not plan.are_sound([results[number] for number in numbers]):
            # which of them is not: that is rare
            numbers = [number for number in numbers if plan.are_sound([results[number]])]
        if not numbers:
            continue
        plain = plan.are_plain([results[number] for number in numbers])
        for number, is_plain in zip(numbers, plain, strict=True):
            shared, own = results[number]
            ids = ids_of(shared, own, plan.optional, is_plain=is_plain)
            if ids == [row["row_id"] for row in own] and len(set(ids)) == len(ids):
                found[number] = [cast(Row, {**shared, **row}) for row in own]
    return found


@dataclass(frozen=True)
class _Same:
    """What some columns must be alike: types of their values, and bounds.

    Args:
        names: the columns.
        types: that values may have; None is left out of the bounds.
        least: no value may be below; None for numbers of any size, and for what is no number.
        most: no value may be above.
        filled: whether texts must not be empty.
    """

    names: tuple[str, ...]
    types: frozenset[type]
    least: float | None = None
    most: float | None = None
    filled: bool = False

    def fit(self, rows: Sequence[Columns]) -> bool:
        """Whether the columns of all rows are such."""
        values = _values(rows, self.names)
        kinds = set(map(type, values))
        if not kinds <= self.types or (self.filled and "" in values):
            return False
        if self.least is None:
            return True
        if type(None) in kinds:
            values = [value for value in values if value is not None]
        if not values:
            return True
        return min(values) >= self.least and (self.most is None or max(values) <= self.most)


_NOTHING = type(None)
_TYPES: dict[rowcheck.Kind, dict[str, Any]] = {
    rowcheck.NAME: {"types": frozenset({str}), "filled": True},
    rowcheck.TEXT: {"types": frozenset({str})},
    rowcheck.MAYBE_TEXT: {"types": frozenset({str, _NOTHING})},
    rowcheck.COUNT: {"types": frozenset({int}), "least": 1},
    rowcheck.OPTIONS: {"types": frozenset({dict})},
    rowcheck.MAYBE_SHARE: {"types": frozenset({int, float, _NOTHING}), "least": 0, "most": 1},
    rowcheck.DIFFERENCE: {"types": frozenset({int, float, _NOTHING}), "least": -1, "most": 1},
    rowcheck.SHARE: {"types": frozenset({int, float}), "least": 0, "most": 1},
}
"""Kinds of columns of which all rows' values are looked at together."""


def _values(rows: Sequence[Columns], names: Sequence[str]) -> list[Any]:
    """Those columns of all rows, in one list."""
    if not names:
        return []
    values = map(itemgetter(*names), rows)
    return list(values) if len(names) == 1 else list(chain.from_iterable(values))


@dataclass(frozen=True)
class _Kinds:
    """What some columns must be: those of one kind together, and others one by one."""

    alike: tuple[_Same, ...]
    others: tuple[tuple[str, rowcheck.Kind], ...]

    @classmethod
    def of(cls, names: Iterable[str], measures: Iterable[str]) -> _Kinds:
        """Of the columns that are known here."""
        known = {**KINDS, **dict.fromkeys(measures, rowcheck.MEASURE)}
        by_kind: dict[rowcheck.Kind, list[str]] = {}
        for name in names:
            if name in known:
                by_kind.setdefault(known[name], []).append(name)
        alike = [_Same(tuple(own), **_TYPES[k]) for k, own in by_kind.items() if k in _TYPES]
        others = [(name, k) for k, own in by_kind.items() if k not in _TYPES for name in own]
        return cls(tuple(alike), tuple(others))

    def fit(self, rows: Sequence[Columns]) -> bool:
        """Whether all columns of all rows are what they must be."""
        if not all(same.fit(rows) for same in self.alike):
            return False
        for name, (_, may_be_none, is_right) in self.others:
            for row in rows:
                value = row[name]
                if not (may_be_none if value is None else is_right(value)):
                    return False
        return True


@dataclass(frozen=True)
class _Plan:
    """How results with certain columns are looked at.

    Args:
        shared: what the columns that all rows of a result have in common must be.
        own: what those must be that each has for itself.
        ends: a figure's column and those of its interval's ends, among its own.
        has_shared_ends: whether there are such among what all have in common.
        optional: columns that an id tells where they are not empty.
        figures: its own columns of figures; None where others may hold numbers as well.
    """

    shared: _Kinds
    own: _Kinds
    ends: tuple[tuple[str, str, str], ...]
    has_shared_ends: bool
    optional: tuple[str, ...]
    figures: tuple[str, ...] | None

    def are_sound(self, results: Sequence[Parts]) -> bool:
        """Whether each row of all of them is what an evaluation wrote, but for its id."""
        shared = [one for one, _ in results]
        own = [row for _, rows in results for row in rows]
        versions = [columns.get("schema") for columns in shared]
        if not all(rowcheck.is_whole(one, 1) and cast(int, one) <= SCHEMA for one in versions):
            return False
        if not self.shared.fit(shared) or not self.own.fit(own):
            return False
        if self.has_shared_ends and any(map(rowcheck.fault_of_ends, shared)):
            return False
        if any(not row["is_mean"] and row["ood_sets"] != [row["ood"]] for row in own):
            return False
        return self._are_in_intervals(own) and _are_means([rows for _, rows in results], own)

    def are_plain(self, results: Sequence[Parts]) -> list[bool]:
        """Whether all numbers of each result's rows are those that everybody writes alike."""
        if self.figures is None:
            return [False] * len(results)
        own = [row for _, rows in results for row in rows]
        figures = np.array(_values(own, self.figures), dtype=np.float64)
        sizes = np.abs(figures).reshape(len(own), -1)
        is_small = ((sizes > 0.0) & (sizes < _SMALL)).any(axis=1)
        begins = np.cumsum([0, *(len(rows) for _, rows in results[:-1])])
        is_plain: list[bool] = (~np.logical_or.reduceat(is_small, begins)).tolist()
        return is_plain

    def _are_in_intervals(self, own: Sequence[Columns]) -> bool:
        """Whether each figure is in its interval, where it has one."""
        for names in self.ends:
            # [3, R], NaN for what is empty: intervals of pixels are, and most gaps
            value, low, high = np.array(_values(own, names), dtype=np.float64).reshape(-1, 3).T
            is_there = ~(np.isnan(low) & np.isnan(high))
            is_inside = (low - rowcheck.TOLERANCE <= value) & (value <= high + rowcheck.TOLERANCE)
            if not is_inside[is_there].all():
                return False
        return True


def _plan(names: tuple[str, ...], shared: tuple[str, ...]) -> _Plan | None:
    """How results are looked at whose rows have such columns; None where that takes care."""
    measures = tuple(n for n in (*names, *shared) if n not in KINDS and n in MEASURES)
    return _plan_of(names, shared, measures)


@functools.lru_cache(maxsize=512)
def _plan_of(
    names: tuple[str, ...], shared: tuple[str, ...], measures: tuple[str, ...]
) -> _Plan | None:
    own = set(names)
    if not own.isdisjoint(shared) or not own.isdisjoint(rowcheck.SAME):
        return None
    if not own.union(shared) >= _REQUIRED or not own >= _OF_MEANS:
        return None
    if any(not is_told(name, "") for name in own - {"row_id"}):
        return None
    ends = [figure for figure in rowcheck.ENDS if not own.isdisjoint(figure)]
    if any(not own.issuperset(figure) for figure in ends):
        return None
    return _Plan(
        _Kinds.of(shared, measures),
        _Kinds.of(names, measures),
        tuple(ends),
        not {end for figure in rowcheck.ENDS for end in figure[1:]}.isdisjoint(shared),
        tuple(name for name in names if is_told(name, "") and not is_told(name, None)),
        _figures_in(names, measures),
    )


def _figures_in(names: Sequence[str], measures: Iterable[str]) -> tuple[str, ...] | None:
    """The columns of figures; None where others may hold such numbers too."""
    known = {**KINDS, **dict.fromkeys(measures, rowcheck.MEASURE)}
    figures = (rowcheck.SHARE, rowcheck.MAYBE_SHARE, rowcheck.DIFFERENCE)
    texts = (rowcheck.NAME, rowcheck.TEXT, rowcheck.MAYBE_TEXT, rowcheck.COUNT)
    plain = {"is_mean", "ood_sets"}
    if any(name not in plain and known.get(name) not in (*figures, *texts) for name in names):
        return None
    return tuple(name for name in names if known[name] in figures)


def _are_means(results: Sequence[Sequence[Columns]], own: Sequence[Columns]) -> bool:
    """Whether each mean is that of its sets, all of which are there once, in its own group.

    Args:
        results: the rows of each result.
        own: all of them, one after the other.
    """
    places = list(map(_place, own))
    means: list[int] = []
    members: list[int] = []
    counts: list[int] = []
    start = 0
    for rows in results:
        end = start + len(rows)
        found = _members(tuple(places[start:end]))
        if found is None:
            return False
        for mean, of_mean in found:
            means.append(start + mean)
            members += [start + member for member in of_mean]
            counts.append(len(of_mean))
        start = end
    if not means:
        return True
    figures = np.array(list(map(_figures, own)), dtype=np.float64)  # [R, metrics]
    begins = np.cumsum([0, *counts[:-1]])
    expected = np.add.reduceat(figures[members], begins) / np.array(counts)[:, None]
    return bool((np.abs(expected - figures[means]) <= rowcheck.TOLERANCE).all())


def _place(row: Columns) -> tuple[Any, ...]:
    return row["is_mean"], row["ood"], row["group"], tuple(row["ood_sets"])


@functools.lru_cache(maxsize=512)
def _members(places: tuple[tuple[Any, ...], ...]) -> list[tuple[int, list[int]]] | None:
    """The rows of means, each with those of its sets; None where one is not there, or twice."""
    sets: dict[str, int] = {}
    for number, (is_mean, ood, _, _) in enumerate(places):
        if not is_mean and sets.setdefault(ood, number) != number:
            return None
    found = []
    for number, (is_mean, _, group, names) in enumerate(places):
        if is_mean:
            members = [sets.get(name) for name in names]
            own = [member for member in members if member is not None]
            if len(own) < len(names) or any(places[member][2] != group for member in own):
                return None
            found.append((number, own))
    return found


_figures = itemgetter(*METRICS)


def ids_of(
    shared: Columns, own: Sequence[Columns], optional: Sequence[str], *, is_plain: bool = False
) -> list[str]:
    """The ids of rows: those of :func:`oodbench.results.rows.row_id`, faster.

    Args:
        shared: columns of all rows, as JSON has them.
        own: further columns of each, of the same names.
        optional: columns among these that an id tells where they are not empty.
        is_plain: whether no number of their own is of those that Python writes in another way.
    """
    common = told(shared)
    if is_plain:
        text = orjson.dumps(common)
        is_plain = _is_plain(text) or not _NUMBERS(text)
    ids = []
    for row in own:
        whole = {**common, **row}
        for name in optional:
            if row[name] is None:
                del whole[name]
        del whole["row_id"]
        text = orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)
        if not (is_plain and text.isascii() and b"\x7f" not in text):
            text = _canonical(whole, text)
        ids.append(hashlib.sha256(text).hexdigest()[:32])
    return ids


def _is_plain(text: bytes) -> bool:
    # searched for one by one: a loop over them takes longer than the search
    is_plain = text.isascii() and b"0.0000" not in text and b"e-" not in text
    return is_plain and b"e+" not in text and b"\x7f" not in text


def _canonical(value: Any, text: bytes) -> bytes:
    """The text of what was parsed from JSON as :func:`oodbench.files.canonical` writes it.

    Args:
        value: of JSON.
        text: as orjson writes it, keys in order.
    """
    if _is_plain(text) or not _NUMBERS(text):
        return text
    if not text.isascii() or b"\\" in text or b"\x7f" in text:
        return files.canonical(value).encode()
    return _EXPONENTS.sub(_as_python_writes, text)


def _as_python_writes(number: re.Match[bytes]) -> bytes:
    """The number as Python has it; what looks like one within a text is left as it is."""
    is_text = number.string.count(b'"', 0, number.start()) % 2
    return number[0] if is_text else repr(float(number[0])).encode()


_SMALL = 1e-3
"""Smaller figures may be written with an exponent."""
_EXPONENTS = re.compile(rb"(?<=[:,\[])-?(?:[0-9.]+e[+-]?[0-9]+|0\.0000[0-9]*)")
_NUMBERS = re.compile(rb"[:,\[]-?(?:0\.0000|[0-9.]+e)|\x7f|[\x80-\xff]").search
"""Numbers so small or large that Python writes another exponent, and characters that it escapes."""
