"""What a stored row must be: all of its columns, each figure in its range, means that are means."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from oodbench.registry import MEASURES

Parsed = Mapping[str, Any]
"""A row as JSON has it, of which nothing is known yet."""
TOLERANCE = 1e-6
"""What rounding may have done to a figure; those of pages have four digits."""


def _is_number(value: Any) -> bool:
    return is_whole(value, -(2**63)) or (isinstance(value, float) and math.isfinite(value))


def is_whole(value: Any, least: int = 0) -> bool:
    """Whether it is an integer (true and false are none) of at least so much."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_name, value))


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def _is_choice(value: Any) -> bool:
    """What was chosen on validation data; see ``tuned`` of ``oodbench.results.rows.Row``."""
    return (
        isinstance(value, dict)
        and _is_names(value.get("ood"))
        and _is_text(value.get("fingerprint"))
        and _is_share(value.get("auroc"))
        and is_whole(value.get("tried"), 1)
    )


def _is_auxiliary(value: Any) -> bool:
    """What training saw beside the ID set; see ``auxiliary`` of ``oodbench.results.rows.Row``."""
    return (
        isinstance(value, dict)
        and all(_is_text(value.get(name)) for name in ("as", "name", "fingerprint"))
        and is_whole(value.get("count"), 1)
    )


# kinds of columns: what they must be in words, whether None will do, and the test
Kind = tuple[str, bool, Callable[[Any], bool]]
SHARE: Kind = ("a number from 0 to 1", False, _is_share)
MAYBE_SHARE: Kind = ("a number from 0 to 1, or null", True, _is_share)
TEXT: Kind = ("text", False, _is_text)
NAME: Kind = ("text that is not empty", False, _is_name)
MAYBE_TEXT: Kind = ("text or null", True, _is_text)
OPTIONS: Kind = ("an object", False, lambda value: isinstance(value, dict))
COUNT: Kind = ("a whole number of 1 or more", False, lambda value: is_whole(value, 1))
DIFFERENCE: Kind = (
    "a number from -1 to 1, or null",
    True,
    lambda value: _is_number(value) and -1 <= value <= 1,
)
_AMOUNT: Kind = ("a number of 0 or more", False, lambda value: _is_number(value) and value >= 0)
KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        "detector method backbone id benchmark ood group oodbench torch python".split(), NAME
    ),
    **dict.fromkeys(
        "precision weights id_fingerprint ood_fingerprint selection device row_id".split(), TEXT
    ),
    **dict.fromkeys(
        "recipe id_train_fingerprint git_commit command modality accelerator processor "
        "preprocess_source detector_code fit_on".split(),
        MAYBE_TEXT,
    ),
    **dict.fromkeys("auroc fpr95_id fpr95_ood aupr_in aupr_out".split(), SHARE),
    **dict.fromkeys(
        "id_accuracy id_miou id_map binning_error shifted_accuracy spectrum_accuracy "
        "auroc_foreground fpr95_id_foreground fpr95_ood_foreground".split(),
        MAYBE_SHARE,
    ),
    **{
        f"{name}_{end}": MAYBE_SHARE
        for name in "auroc fpr95_id fpr95_ood aupr_in aupr_out id_accuracy".split()
        for end in ("low", "high")
    },
    **dict.fromkeys("gap gap_low gap_high".split(), DIFFERENCE),
    **dict.fromkeys("n_id n_ood".split(), COUNT),
    **dict.fromkeys("detector_options recipe_options".split(), OPTIONS),
    "seed": ("a whole number of 0 or more", False, is_whole),
    "seconds": _AMOUNT,
    "is_mean": ("true or false", False, lambda value: isinstance(value, bool)),
    "ood_sets": ("a list of names", False, _is_names),
    "created": ("a time in ISO 8601", False, _is_time),
    **dict.fromkeys(
        "threads n_id_foreground benchmark_version".split(),
        ("a whole number of 1 or more, or null", True, lambda value: is_whole(value, 1)),
    ),
    "notes": ("a list of sentences, or null", True, _is_names),
    "tuned": ("what was chosen on, or null", True, _is_choice),
    "auxiliary": ("what training saw beside the ID set, or null", True, _is_auxiliary),
    "arguments": ("an object, or null", True, lambda value: isinstance(value, dict)),
}


MEASURE = MAYBE_SHARE
"""What a benchmark's measure must be."""

_INTERVALS = [name.removesuffix("_low") for name in KINDS if name.endswith("_low")]
ENDS = [(name, f"{name}_low", f"{name}_high") for name in _INTERVALS]


def parse(line: bytes) -> Any:
    """A line's JSON; NaN and infinity, which Python would read, and a key twice are none.

    Raises:
        ValueError: what is wrong with it.
    """

    def refuse(word: str) -> float:
        raise ValueError(f"{word} is no figure")

    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{twice!r} is in it twice")
        return entries

    try:
        return json.loads(line, parse_constant=refuse, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def fault(row: Parsed, required: Iterable[str]) -> str | None:
    """What is wrong with a row by itself, in words; None if nothing is.

    Columns that are not known here are left alone.

    Args:
        row: as JSON has it.
        required: columns that every row has had from the beginning.
    """
    if missing := [name for name in required if name not in row]:
        return f"it has no {', '.join(missing[:3])}{' …' * (len(missing) > 3)}"
    return fault_of_kinds(row) or fault_of_whole(row)


def fault_of_kinds(columns: Parsed) -> str | None:
    """The first of some columns whose value is of another kind, in words."""
    known, others = _kinds_of(tuple(columns))
    if others:
        measures = set(MEASURES.names())
        known = [*known, *((name, MEASURE) for name in others if name in measures)]
    for name, (words, may_be_none, is_right) in known:
        value = columns[name]
        if not (is_right(value) if value is not None else may_be_none):
            return f"{name} must be {words}, not {json.dumps(value)[:60]}"
    return None


@functools.lru_cache(maxsize=512)
def _kinds_of(names: tuple[str, ...]) -> tuple[list[tuple[str, Kind]], list[str]]:
    """Columns that are known here, with what they must be; and those that are not."""
    known = [(name, KINDS[name]) for name in names if name in KINDS]
    return known, [name for name in names if name not in KINDS]


def fault_of_whole(row: Parsed) -> str | None:
    """What in a row does not fit together, in words: intervals, and what it is of."""
    if problem := fault_of_ends(row):
        return problem
    alone = row["is_mean"] or row["ood_sets"] == [row["ood"]]
    return None if alone else "ood_sets is not its own OOD set"


def fault_of_ends(columns: Parsed) -> str | None:
    """The first of the figures among some columns that is not in its interval, in words."""
    for name, low_name, high_name in ENDS:
        low = columns.get(low_name)
        if low is None and columns.get(high_name) is None:
            continue
        if problem := _fault_of_interval(name, low, columns.get(high_name), columns.get(name)):
            return problem
    return None


def _fault_of_interval(name: str, low: Any, high: Any, value: Any) -> str | None:
    if low is None or high is None or value is None:
        return f"{name} has half an interval"
    if not low - TOLERANCE <= value <= high + TOLERANCE:
        return f"{name} is {value}, outside of its interval from {low} to {high}"
    return None


def fault_of_means(
    rows: Sequence[Parsed], metrics: Sequence[str], keys: Sequence[str] | None = None
) -> tuple[int, str] | None:
    """The first row of a mean that is not the mean of its OOD sets' rows: position, and words.

    Only means are looked at whose sets are all there, once or with the same figures. A row of a set
    that is of another group than the mean is a fault as well.

    Args:
        rows: of one benchmark, each without a :func:`fault`.
        metrics: columns that are averaged.
        keys: the :func:`evaluation` of each row, or a text for it, where that is known.
    """
    figures: dict[str, dict[str, set[tuple[float, ...]]]] = {}
    keys = keys or [evaluation(row) for row in rows]
    if fault := _fault_of_groups(rows, keys):
        return fault
    for key, row in zip(keys, rows, strict=True):
        if not row["is_mean"]:
            of_sets = figures.setdefault(key, {})
            of_sets.setdefault(row["ood"], set()).add(tuple(row[m] for m in metrics))
    for i, (key, row) in enumerate(zip(keys, rows, strict=True)):
        if not row["is_mean"]:
            continue
        figures_by_set = [figures.get(key, {}).get(name, set()) for name in row["ood_sets"]]
        if any(len(one) != 1 for one in figures_by_set):
            continue
        members = [next(iter(one)) for one in figures_by_set]
        for j, metric in enumerate(metrics):
            mean = math.fsum(member[j] for member in members) / len(members)
            if abs(mean - row[metric]) > TOLERANCE:
                return i, (
                    f"{metric} is {row[metric]}, which is not the mean {mean} of "
                    f"{', '.join(row['ood_sets'])}"
                )
    return None


def _fault_of_groups(rows: Sequence[Parsed], keys: Sequence[str]) -> tuple[int, str] | None:
    groups: dict[tuple[str, str], set[str]] = {}
    for key, row in zip(keys, rows, strict=True):
        for name in row["ood_sets"] if row["is_mean"] else ():
            groups.setdefault((key, name), set()).add(row["group"])
    for i, (key, row) in enumerate(zip(keys, rows, strict=True)):
        known = groups.get((key, row["ood"]))
        if not row["is_mean"] and known and row["group"] not in known:
            return i, (
                f"group is {row['group']}, but {row['ood']} is in the mean of "
                f"{' and '.join(sorted(known))}"
            )
    return None


SAME = (
    "detector detector_options method backbone id benchmark seed recipe recipe_options preprocess "
    "precision weights id_train_fingerprint id_fingerprint selection oodbench torch python tuned "
    "modality id_accuracy"
).split()
"""Columns that the rows of one detector in one evaluation share."""


def evaluation(row: Parsed) -> str:
    """What the rows of one detector in one evaluation have in common."""
    return json.dumps([row.get(name) for name in SAME], sort_keys=True)
