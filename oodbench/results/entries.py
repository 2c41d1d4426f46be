"""Lines of a leaderboard: the rows of one detector, with its settings, on one kind of network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import is_, itemgetter
from typing import Any

import orjson

from oodbench.results.rows import METRICS, Row, cell
from oodbench.results.seeds import Figure

_ENTRY = tuple(
    "detector detector_options method recipe recipe_options backbone id_train_fingerprint "
    "preprocess precision modality".split()
)

_OF_WEIGHTS = (*_ENTRY, "weights")

SAME = 5e-5
"""By how much figures may differ that a page prints as the same."""
PAIRS = 25
"""ID and OOD images in the wrong order (or few in the right one) that make sameness no chance."""


@dataclass
class Entry:
    """One line of a leaderboard: a detector with its settings on one kind of network.

    Args:
        rows: by seed and OOD set (or group mean), the newest measurement of each.
        twins: numbers and names of other lines that have the same figures; see :func:`note_twins`.
        marks: what sets it apart from others, such as outlier data: sentences.
        is_older: whether another version of the detector than today's made any of its rows.
    """

    rows: dict[tuple[int, str], Row]
    twins: list[str] = field(default_factory=list)
    marks: tuple[str, ...] = ()
    is_older: bool = False

    @property
    def first(self) -> Row:
        """Any of its rows, for what all have in common."""
        return next(iter(self.rows.values()))

    @property
    def seeds(self) -> list[int]:
        """The seeds that have rows, in order."""
        return sorted({seed for seed, _ in self.rows})

    @property
    def name(self) -> str:
        """The detector's name, and the modality's whose predictions it scored."""
        modality = self.first.get("modality")
        return self.first["detector"] + (f" ({modality})" if modality else "")

    def has(self, column: str) -> bool:
        """Whether any row has a value in that column."""
        return any(row.get(column) for row in self.rows.values())

    def of(self, ood: str) -> list[Row]:
        """The rows of an OOD set (or group mean), one per seed."""
        return [self.rows[seed, ood] for seed in self.seeds if (seed, ood) in self.rows]

    def by_name(self) -> dict[str, list[Row]]:
        """What :meth:`of` gives of each OOD set and group mean."""
        found: dict[str, list[Row]] = {}
        for (_, name), row in sorted(self.rows.items(), key=itemgetter(0)):
            found.setdefault(name, []).append(row)
        return found

    def one_each(self) -> list[Row]:
        """Any row of each seed, for what a seed's rows have in common."""
        by_seed = {seed: row for (seed, _), row in reversed(self.rows.items())}
        return [by_seed[seed] for seed in self.seeds]

    def figure(self, ood: str, column: str) -> Figure | None:
        """A figure on an OOD set (or group mean) over the seeds."""
        return Figure.of(self.of(ood), column)

    def place(self, ood: str, metric: str) -> float:
        """What lines are sorted by on a metric, the best first; infinite where it has no row."""
        found = (cell(row, metric) for row in self.of(ood))
        values = [float(value) for value in found if value is not None]
        if not values:
            return math.inf
        mean = math.fsum(values) / len(values)
        return mean if metric.startswith("fpr") else -mean


def entries_of(rows: Sequence[Row]) -> list[Entry]:
    """Entries of rows that were measured on the same images; of the same measurement the newest."""
    entries: dict[tuple[Any, ...], Entry] = {}
    texts: dict[int, bytes] = {}  # rows of one result share their objects
    before: tuple[Any, ...] = ()
    entry = Entry({})
    for row in rows:
        names = _ENTRY if row["recipe"] else _OF_WEIGHTS
        values = (*map(row.get, names), row.get("auxiliary"), row.get("tuned"))
        if len(values) != len(before) or not all(map(is_, values, before)):
            key = (*(_hashable(value, texts) for value in values[:-1]), _of_choice(row))
            entry = entries.setdefault(key, Entry({}))
            before = values
        entry.rows[row["seed"], row["ood"]] = row
    return list(entries.values())


def _of_choice(row: Row) -> bytes | None:
    chosen = _chosen_on(row)
    return None if chosen is None else text_of(chosen)


def _hashable(value: Any, texts: dict[int, bytes]) -> Any:
    if not isinstance(value, dict):
        return value if value is None or isinstance(value, str) else text_of(value)
    text = texts.get(id(value))
    if text is None:
        text = texts[id(value)] = text_of(value)
    return text


def text_of(value: Any) -> bytes:
    """A value as JSON, its keys sorted: equal for equal values, whatever read or made them."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # a number of NumPy's, a key that is no text, half a character
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=lambda x: x.item())
        return text.encode()


def key_of(row: Row) -> str:
    """What rows of one entry have in common and no other entry has, as JSON.

    Rows on the same images are of one entry if detector, network and training are the same but
    for the seed; of a network that was not trained here, if its weights are.
    """
    names = _ENTRY if row["recipe"] else _OF_WEIGHTS
    told = [*(row.get(name) for name in names), _chosen_on(row)]
    beside = row.get("auxiliary")  # added where there is some, so that other keys stay as they were
    return json.dumps([*told, beside] if beside else told, sort_keys=True)


def _chosen_on(row: Row) -> list[Any] | None:
    """The validation data that a row's options were chosen on; None if nothing was chosen.

    Not what the AUROC there was: seeds that were tuned one by one may have the same values.
    """
    tuned = row.get("tuned")
    return [tuned["ood"], tuned["fingerprint"]] if tuned else None


def note_twins(entries: Sequence[Entry]) -> None:
    """Note in each entry which others are the same detector under another name.

    They are those on the same networks whose every figure on every OOD set is the same: not only to
    the digits of the page, but to a hundredth of what is missing to a perfect AUROC, which all of
    the best share. Where that is next to nothing on all sets (perfect separation, constant scores,
    a few images) sameness is a coincidence. One detector with the same options, once chosen and
    once given, is no other name.

    Args:
        entries: in the order of the page, from 1 on.
    """
    by_network: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        for weights in {row["weights"] for row in entry.rows.values()}:
            by_network.setdefault(weights, []).append(i)
    pairs = {
        (i, j)
        for on_network in by_network.values()
        for i in on_network
        for j in on_network
        if i != j
    }
    single = [_single_rows(entry) for entry in entries]
    for i, j in sorted(pairs):
        if _are_twins(entries[i], entries[j], single[i], single[j]):
            entries[i].twins.append(f"{j + 1} {entries[j].name}")


def _single_rows(entry: Entry) -> dict[tuple[int, str], Row]:
    return {key: row for key, row in entry.rows.items() if not row["is_mean"]}


def _are_twins(
    one: Entry,
    other: Entry,
    rows: dict[tuple[int, str], Row],
    other_rows: dict[tuple[int, str], Row],
) -> bool:
    same = ("detector", "detector_options", "modality")
    if all(one.first.get(name) == other.first.get(name) for name in same):
        return False
    shared = rows.keys() & other_rows.keys()
    if len(shared) < min(len(rows), len(other_rows)) or not shared:
        return False
    wrong = 0.0
    for a, b in _pairs(rows, other_rows):
        if a["weights"] != b["weights"] or a["ood_fingerprint"] != b["ood_fingerprint"]:
            return False
        missing = min(a["auroc"], 1 - a["auroc"])
        alike = max(1e-9, min(SAME, missing / 100))
        if any(abs(cell(a, metric) - cell(b, metric)) > alike for metric in METRICS):
            return False
        if a["auroc"] != 0.5:
            wrong += missing * a["n_id"] * a["n_ood"]
    return wrong >= PAIRS


def _pairs(
    one: dict[tuple[int, str], Row], other: dict[tuple[int, str], Row]
) -> Iterator[tuple[Row, Row]]:
    return ((row, other[key]) for key, row in one.items() if key in other)
