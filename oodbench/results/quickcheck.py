"""What nearly all stored results are: sound, which one quick pass over each of them sees.

Thousands of results are read for a page. Each is checked all the same, by a pass that looks at what
rows have in common once and at columns of figures as a whole. It only ever says "sound"; whatever
is not plainly so is left to the careful checks of :mod:`oodbench.results.stored`, which say what is
wrong.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, cast

import orjson

from oodbench import files
from oodbench.registry import MEASURES
from oodbench.results import rowcheck
from oodbench.results.rowcheck import KINDS
from oodbench.results.rows import ALWAYS, METRICS, SCHEMA, Row, is_told, told

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


def sound_rows(shared: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> list[Row] | None:
    """The rows of a result that are what an evaluation wrote; None where that is not plain.

    Args:
        shared: the columns that all rows have in common.
        own: those that each has for itself.
    """
    names = tuple(own[0]) if own else ()
    if not names or any(tuple(row) != names for row in own):
        return None
    version = shared.get("schema")
    if not rowcheck.is_whole(version, 1) or version > SCHEMA:  # type: ignore[operator]
        return None
    measures = tuple(n for n in (*names, *shared) if n not in KINDS and n in MEASURES)
    plan = _plan_of(names, tuple(shared), measures)
    if plan is None or not plan.shared.fit([shared]) or rowcheck.fault_of_ends(shared):
        return None
    if not plan.are_sound(own) or not _are_means(own):
        return None
    rows = [cast(Row, {**shared, **row}) for row in own]
    return rows if ids_of(shared, own, plan.optional) == [row["row_id"] for row in own] else None


@dataclass(frozen=True)
class _Kinds:
    """What some columns must be, those of one kind together: types of values, and the least.

    Args:
        alike: gives the columns of a kind, with the types that they may have and a value that none
            may be, or may be below.
        others: columns of other kinds, with what each must be.
    """

    alike: tuple[tuple[_Getter, frozenset[type], str | int | None], ...]
    others: tuple[tuple[str, rowcheck.Kind], ...]

    @classmethod
    def of(cls, kinds: Mapping[str, rowcheck.Kind]) -> _Kinds:
        """Of the kinds of columns, by their names."""
        by_kind: dict[rowcheck.Kind, list[str]] = {}
        for name, kind in kinds.items():
            by_kind.setdefault(kind, []).append(name)
        alike = [(names, *_TYPES[kind]) for kind, names in by_kind.items() if kind in _TYPES]
        return cls(
            tuple((_getter(names), types, bound) for names, types, bound in alike),
            tuple((name, kind) for name, kind in kinds.items() if kind not in _TYPES),
        )

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether all columns of all rows are what they must be."""
        for getter, types, bound in self.alike:
            values = list(chain.from_iterable(map(getter, rows)))
            if not types.issuperset(map(type, values)):
                return False
            if bound == "" and "" in values:
                return False
            if isinstance(bound, int) and min(values) < bound:
                return False
        for name, (_, may_be_none, is_right) in self.others:
            for row in rows:
                value = row[name]
                if not (may_be_none if value is None else is_right(value)):
                    return False
        return True


_Getter = Callable[[Mapping[str, Any]], tuple[Any, ...]]
_TYPES: dict[rowcheck.Kind, tuple[frozenset[type], str | int | None]] = {
    rowcheck.NAME: (frozenset({str}), ""),
    rowcheck.TEXT: (frozenset({str}), None),
    rowcheck.MAYBE_TEXT: (frozenset({str, type(None)}), None),
    rowcheck.COUNT: (frozenset({int}), 1),
}


@dataclass(frozen=True)
class _Plan:
    """How rows with certain columns of their own are looked at.

    Args:
        figures: gives a row's metrics and their intervals' ends, all of which are from 0 to 1.
        shared: what the columns that all rows have in common must be.
        others: what further columns must be.
        ends: a metric's column and those of its interval's ends.
        differences: gives a row's ends of further intervals, which most rows have none of.
        optional: columns that an id tells where they are not empty.
    """

    figures: _Getter
    shared: _Kinds
    others: _Kinds
    ends: tuple[tuple[str, str, str], ...]
    differences: _Getter
    optional: tuple[str, ...]

    def are_sound(self, own: Sequence[Mapping[str, Any]]) -> bool:
        """Whether each row is, by itself, as far as its own columns go."""
        if not self.others.fit(own):
            return False
        if any(not row["is_mean"] and row["ood_sets"] != [row["ood"]] for row in own):
            return False
        if set(chain.from_iterable(map(self.differences, own))) - {None}:
            return self._are_sound_one_by_one(own)
        figures = list(chain.from_iterable(map(self.figures, own)))
        if set(map(type, figures)) == {float} and min(figures) >= 0.0 and max(figures) <= 1.0:
            ends = (
                (row[name], row[low], row[high]) for row in own for name, low, high in self.ends
            )
            if all(low <= value <= high for value, low, high in ends):
                return True
        return self._are_sound_one_by_one(own)

    @staticmethod
    def _are_sound_one_by_one(own: Sequence[Mapping[str, Any]]) -> bool:
        """The same where some are empty, as intervals of pixels are, rounded or whole numbers."""
        return not any(rowcheck.fault_of_kinds(row) or rowcheck.fault_of_ends(row) for row in own)


@functools.lru_cache(maxsize=512)
def _plan_of(
    names: tuple[str, ...], shared: tuple[str, ...], measures: tuple[str, ...]
) -> _Plan | None:
    """How rows of such columns are looked at; None where that takes care."""
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
    figures = [name for figure in ends for name in figure if figure[0] in METRICS]
    figures = list(dict.fromkeys([*METRICS, *figures]))
    known = {**KINDS, **dict.fromkeys(measures, rowcheck.MEASURE)}
    kinds = {name: known[name] for name in names if name in known and name not in figures}
    return _Plan(
        itemgetter(*figures),
        _Kinds.of({name: known[name] for name in shared if name in known}),
        _Kinds.of(kinds),
        tuple(figure for figure in ends if figure[0] in METRICS),
        _getter([end for figure, *both in ends if figure not in METRICS for end in both]),
        tuple(name for name in names if is_told(name, "") and not is_told(name, None)),
    )


def _getter(names: Sequence[str]) -> _Getter:
    """Gives those columns of a row."""
    return itemgetter(*names) if len(names) > 1 else lambda row: tuple(row[n] for n in names)


def _are_means(own: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each mean is that of its sets, all of which are there once, in its own group."""
    sets = {row["ood"]: row for row in own if not row["is_mean"]}
    if len(sets) + sum(row["is_mean"] for row in own) < len(own):
        return False  # a set is there twice
    for mean in own:
        if not mean["is_mean"]:
            continue
        members = [sets.get(name) for name in mean["ood_sets"]]
        for member in members:
            if member is None or member["group"] != mean["group"]:
                return False
        columns = zip(*map(_figures, members), strict=True)  # type: ignore[arg-type]
        for figure, values in zip(_figures(mean), columns, strict=True):
            if abs(math.fsum(values) / len(values) - figure) > rowcheck.TOLERANCE:
                return False
    return True


_figures = itemgetter(*METRICS)


def ids_of(
    shared: Mapping[str, Any], own: Sequence[Mapping[str, Any]], optional: Sequence[str]
) -> list[str]:
    """The ids of rows: those of :func:`oodbench.results.rows.row_id`, faster.

    Args:
        shared: columns of all rows, as JSON has them.
        own: further columns of each, of the same names.
        optional: columns among these that an id tells where they are not empty.
    """
    common = told(shared)
    ids = []
    for row in own:
        whole = {**common, **row}
        for name in optional:
            if row[name] is None:
                del whole[name]
        del whole["row_id"]
        ids.append(hashlib.sha256(_canonical(whole)).hexdigest()[:32])
    return ids


def _canonical(value: Any) -> bytes:
    """The text of what was parsed from JSON as :func:`oodbench.files.canonical` writes it."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    # searched for one by one: a loop over them takes longer than the search
    is_plain = text.isascii() and b"0.0000" not in text and b"e-" not in text
    is_plain = is_plain and b"e+" not in text and b"\x7f" not in text
    if is_plain or not _NUMBERS(text):
        return text
    if not text.isascii() or b"\\" in text or b"\x7f" in text:
        return files.canonical(value).encode()
    return _EXPONENTS.sub(_as_python_writes, text)


def _as_python_writes(number: re.Match[bytes]) -> bytes:
    """The number as Python has it; what looks like one within a text is left as it is."""
    is_text = number.string.count(b'"', 0, number.start()) % 2
    return number[0] if is_text else repr(float(number[0])).encode()


_EXPONENTS = re.compile(rb"(?<=[:,\[])-?(?:[0-9.]+e[+-]?[0-9]+|0\.0000[0-9]*)")
_NUMBERS = re.compile(rb"[:,\[]-?(?:0\.0000|[0-9.]+e)|\x7f|[\x80-\xff]").search
"""Numbers so small or large that Python writes another exponent, and characters that it escapes."""
