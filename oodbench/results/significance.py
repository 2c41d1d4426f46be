"""Whether the difference of two results is more than noise, from the scores behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oodbench import files
from oodbench.benchmark import SHIFTED, Benchmark
from oodbench.errors import OODBenchError, OptionError
from oodbench.metrics import paired
from oodbench.metrics.paired import Measured
from oodbench.results import scores
from oodbench.results.entries import Entry, entries_of
from oodbench.results.rows import METRICS, NAMES, Row, cell
from oodbench.results.scores import Scores
from oodbench.results.stored import StoredResult

LEVEL = 0.05
"""A difference is more than noise if its p-value, corrected for many comparisons, is below this."""


@dataclass
class Sampled:
    """The scores behind the rows of one result.

    Args:
        kept: as the file has them.
        as_id: OOD sets (shifted ones) that count as ID.
    """

    kept: Scores
    as_id: tuple[str, ...] = ()
    _figures: dict[tuple[Any, ...], Measured] = field(default_factory=dict, repr=False)

    def of(self, row: Row) -> tuple[np.ndarray, list[np.ndarray]]:
        """ID scores, and those of each OOD set, that a row's figures are made of."""
        names = row["ood_sets"] if row["is_mean"] else [row["ood"]]
        test = self.kept[scores.ID]
        counted = [] if any(name in self.as_id for name in names) else list(self.as_id)
        ids = np.concatenate([test, *(self.kept[scores.of_ood(name)] for name in counted)])
        return ids, [self.kept[scores.of_ood(name)] for name in names]

    def measured(self, row: Row, metric: str, draws: int = paired.DRAWS) -> Measured:
        """A row's figure with its error vector: made once, however many it is compared with."""
        names = tuple(row["ood_sets"]) if row["is_mean"] else (row["ood"],)
        key = names, metric, draws
        if key not in self._figures:
            self._figures[key] = paired.measured(*self.of(row), metric, draws=draws)
        return self._figures[key]


def sampled(result: StoredResult) -> Sampled | None:
    """The scores of a result; None if they were not kept.

    Raises:
        OODBenchError: they are missing, or are not those that the result was written with.
    """
    path = result.scores_path
    if path is None or result.scores is None:
        return None
    if not path.is_file():
        raise OODBenchError(
            f"the scores behind {result.path} are missing ({path.name}). Restore the file."
        )
    if files.sha256(path) != result.scores.sha256:
        raise OODBenchError(
            f"the scores behind {result.path} were changed ({path.name}). Restore the file."
        )
    singles = [row for row in result.rows if not row["is_mean"]]
    is_spectrum = any(row.get("spectrum_accuracy") is not None for row in singles)
    by_set = {row["ood"]: row["n_id"] for row in singles}
    kept = scores.read(path)
    named = dict.fromkeys(name for row in result.rows for name in row["ood_sets"])
    missing = [name for name in named if scores.of_ood(name) not in kept]
    if scores.ID not in kept or missing:
        raise OODBenchError(
            f"{path} lacks scores of {', '.join(missing) or 'the ID set'}, of which the result has "
            "rows. Restore the file, or evaluate again."
        )
    other = [n for n in singles if len(kept[scores.of_ood(n["ood"])]) != n["n_ood"]]
    if other:
        raise OODBenchError(
            f"{path} holds other numbers of scores than {result.path} has rows of "
            f"({', '.join(row['ood'] for row in other)}). Restore the file, or evaluate again."
        )
    own = len(kept[scores.ID])
    is_spectrum = is_spectrum or any(n > own for n in by_set.values())
    shifted = tuple(row["ood"] for row in singles if row["group"] == SHIFTED)
    samples = Sampled(kept, shifted if is_spectrum else ())
    if any(len(samples.of(row)[0]) != row["n_id"] for row in singles):
        raise OODBenchError(
            f"{path} holds another number of ID scores than {result.path} has rows of. Restore the "
            "file, or evaluate again."
        )
    return samples


def samples_of(results: Sequence[StoredResult]) -> Callable[[Row], Sampled | None]:
    """The scores behind each row of results, read when they are asked for.

    A result whose scores are not on this machine, as of benchmarks that are too large for them to
    travel, is one without.
    """
    by_row = {row["row_id"]: result for result in results for row in result.rows}
    by_path: dict[Path, Sampled | None] = {}

    def of(row: Row) -> Sampled | None:
        result = by_row.get(row["row_id"])
        if result is None or result.scores_path is None or not result.scores_path.is_file():
            return None
        if result.path not in by_path:
            by_path[result.path] = sampled(result)
        return by_path[result.path]

    return of


@dataclass
class Side:
    """One of the things that are compared: a detector on one or several networks.

    Args:
        name: what it is called in sentences.
        entry: its rows.
        samples: the scores behind them, by row id.
    """

    name: str
    entry: Entry
    samples: dict[str, Sampled] = field(default_factory=dict)

    @property
    def networks(self) -> list[str]:
        """Digests of the weights, one for each seed."""
        return [row["weights"] for row in self.entry.one_each()]

    def rows_of(self, ood: str) -> list[Row]:
        """The rows of an OOD set or group, one per seed."""
        return self.entry.of(ood)


def sides_of(results: Sequence[StoredResult]) -> list[Side]:
    """Results as sides: those that differ by their seed alone are one.

    Raises:
        OODBenchError: scores that are missing or changed.
    """
    by_row = {row["row_id"]: result for result in results for row in result.rows}
    by_path: dict[Path, Sampled | None] = {}
    sides = []
    for entry in entries_of([row for result in results for row in result.rows]):
        side = Side(entry.name, entry)
        for row in entry.rows.values():
            result = by_row[row["row_id"]]
            if result.path not in by_path:
                by_path[result.path] = sampled(result)
            own = by_path[result.path]
            if own is not None:
                side.samples[row["row_id"]] = own
        sides.append(side)
    tell_apart(sides)
    return sides


def tell_apart(sides: Sequence[Side]) -> None:
    """Name sides by their detectors, and those of the same name by what they differ by."""
    for side in sides:
        side.name = side.entry.name
    columns = ("detector_options", "backbone", "method", "recipe", "benchmark", "seed", "weights")
    for column in columns:
        names = [side.name for side in sides]
        values = [_text(cell(side.entry.first, column)) for side in sides]
        if column == "seed":
            values = [f"seed {_seeds(side)}" for side in sides]
        for side, value in zip(sides, values, strict=True):
            alike = [v for v, name in zip(values, names, strict=True) if name == side.name]
            if len(alike) > 1 and len(set(alike)) > 1:
                side.name += f" ({value})"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={value[name]}" for name in sorted(value)) or "no options"
    return str(value)[:12] if isinstance(value, str) and len(value) == 64 else str(value)


@dataclass(frozen=True)
class Compared:
    """A figure of two sides on one OOD set or group.

    Args:
        ood: the set's or the group's name.
        is_mean: whether it is a group's.
        metric: of ``METRICS``.
        one: the first side's figure, its mean over seeds.
        other: the second side's.
        difference: the first one's minus the second one's.
        low: end of its 95 % interval.
        high: the other end.
        p: of the hypothesis that there is no difference.
        p_holm: the same, corrected for the number of figures that were compared.
        n_id: how many ID samples there are.
        n_ood: how many OOD samples.
        seeds: how many networks each side has.
        same_networks: whether both are on the same networks.
        seed_alone: whether they are one detector on networks that differ by their seed alone.
    """

    ood: str
    is_mean: bool
    metric: str
    one: float
    other: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    n_id: int
    n_ood: int
    seeds: tuple[int, int]
    same_networks: bool
    seed_alone: bool = False

    @property
    def is_told_apart(self) -> bool:
        """Whether the difference is more than noise."""
        return self.p_holm < LEVEL and not self.seed_alone

    def corrected(self, p: float) -> Compared:
        """The same with another correction of its p-value."""
        return dataclasses.replace(self, p_holm=p)


def compare_sides(
    one: Side, other: Side, metrics: Sequence[str] = METRICS, draws: int = paired.DRAWS
) -> list[Compared]:
    """Each figure that both sides have on the same images, and whether it differs.

    Raises:
        OptionError: they have no set in common, or no scores.
    """
    for side in (one, other):
        if not side.samples:
            raise OptionError(
                f"the scores of {side.name} were not kept, so that its figures cannot be compared "
                "sample by sample. Evaluate it again: `oodbench eval` keeps them."
            )
    pairs = _on_same_images(one, other)
    if not pairs:
        first, second = one.entry.first, other.entry.first
        raise OptionError(
            f"{one.name} ({first['benchmark']}) and {other.name} ({second['benchmark']}) were not "
            "measured on the same images: the ID test set and at least one OOD set must have the "
            "same fingerprints. Evaluate both on one benchmark."
        )
    same, alone = one.networks == other.networks, differ_by_seed_alone(one, other)
    compared: list[Compared] = []
    for rows, other_rows in pairs:
        for metric in metrics:
            a = paired.mean_of([one.samples[r["row_id"]].measured(r, metric, draws) for r in rows])
            b = paired.mean_of(
                [other.samples[r["row_id"]].measured(r, metric, draws) for r in other_rows]
            )
            between, df = paired.between_networks(
                [cell(r, metric) for r in rows], [cell(r, metric) for r in other_rows], same=same
            )
            d = paired.difference_of(a, b, between=between, df=df)
            row = rows[0]
            counts = row["n_id"], row["n_ood"]
            seeds = len(rows), len(other_rows)
            values = a.value, b.value, d.value, d.low, d.high, d.p, d.p
            compared.append(
                Compared(row["ood"], row["is_mean"], metric, *values, *counts, seeds, same, alone)
            )
    return _corrected(compared)


def _corrected(compared: Sequence[Compared]) -> list[Compared]:
    """The p-values of each metric corrected for the number of its sets and groups."""
    adjusted = {}
    for metric in {one.metric for one in compared}:
        own = [one for one in compared if one.metric == metric]
        for one, p in zip(own, paired.holm([one.p for one in own]), strict=True):
            adjusted[one.ood, metric] = float(p)
    return [one.corrected(adjusted[one.ood, one.metric]) for one in compared]


def _on_same_images(one: Side, other: Side) -> list[tuple[list[Row], list[Row]]]:
    """Rows of both sides by set or group, where all seeds saw the same images."""
    names = dict.fromkeys(row["ood"] for row in one.entry.rows.values())
    pairs = []
    for name in names:
        rows, other_rows = one.rows_of(name), other.rows_of(name)
        all_rows = [*rows, *other_rows]
        if not other_rows or len({_images(row) for row in all_rows}) > 1:
            continue
        known = [row["row_id"] in one.samples for row in rows]
        known += [row["row_id"] in other.samples for row in other_rows]
        if all(known):
            pairs.append((rows, other_rows))
    return pairs


def _images(row: Row) -> tuple[Any, ...]:
    return (row["id_fingerprint"], row["ood_fingerprint"], row["n_id"], row["n_ood"])


def ranking_of(compared: Sequence[Compared], benchmark: Benchmark | None) -> Compared:
    """The figure by which the benchmark ranks; the first group's, or set's, AUROC elsewhere."""
    metric = benchmark.protocol.rank_by if benchmark else "auroc"
    group = benchmark.protocol.rank_group if benchmark else ""
    own = [one for one in compared if one.metric == metric] or list(compared)
    whole = [one for one in own if one.ood == group or one.ood.startswith(f"{group}(")]
    return (whole or [one for one in own if one.is_mean] or own)[0]


def differ_by_seed_alone(one: Side, other: Side) -> bool:
    """Whether two sides are the same detector, with its options, on networks of one recipe."""
    return len(entries_of([*one.entry.rows.values(), *other.entry.rows.values()])) == 1


def sentence(one: Side, other: Side, chief: Compared) -> str:
    """Whether the difference of two sides in a figure is more than noise."""
    figure = f"{chief.ood} {NAMES[chief.metric]}"
    points = f"{abs(100 * chief.difference):.2f} points"
    ends = sorted((100 * chief.low, 100 * chief.high))
    if chief.difference < 0:
        ends = [-ends[1], -ends[0]]
    interval = f"95 % interval {ends[0]:.2f} to {ends[1]:.2f}"
    over = f"{chief.n_id:,} ID and {chief.n_ood:,} OOD samples"
    test = "DeLong" if chief.metric == "auroc" else "paired bootstrap"
    p = p_text(chief.p_holm)
    if chief.seed_alone:
        return (
            f"Not told apart: {one.entry.name} (seed {_seeds(one)}) and {other.entry.name} (seed "
            f"{_seeds(other)}) differ by the seed alone. What they differ by, {points} of "
            f"{figure}, is what another training of the same network gives."
        )
    low_is_good = chief.metric.startswith("fpr")
    is_better = (chief.difference < 0) == low_is_good
    best, worst = (one, other) if is_better else (other, one)
    if chief.difference == 0:
        text = f"Not told apart: {one.name} and {other.name} have the same {figure} over {over}."
    elif chief.is_told_apart:
        text = (
            f"Told apart: {best.name} is better than {worst.name} by {points} of {figure} "
            f"({interval}; {test}, {p}), which is more than noise over {over}."
        )
    else:
        text = (
            f"Not told apart: {best.name} is ahead of {worst.name} by {points} of {figure} "
            f"({interval}; {test}, {p}), which is no more than noise over {over}."
        )
    return text + _about_networks(chief)


def _about_networks(chief: Compared) -> str:
    if chief.seeds == (1, 1):
        if chief.same_networks:
            return " It is of one network; others may differ."
        return (
            " They are on two networks, one each: how much other seeds would differ is not in "
            "this, and takes several."
        )
    first, second = chief.seeds
    if chief.same_networks:
        return f" Both are means over the same {first} networks, whose spread is in this."
    return f" They are means over {first} and {second} networks, whose spread is in this."


def _seeds(side: Side) -> str:
    return ", ".join(map(str, side.entry.seeds))


def p_text(p: float) -> str:
    """A p-value for people."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}" if p < 0.1 else f"p = {p:.2f}"


def as_json(one: Side, other: Side, compared: Sequence[Compared]) -> list[Mapping[str, Any]]:
    """Figures that were compared, as ``--json`` prints them."""
    about = {"one": one.name, "other": other.name}
    return [{**about, **vars(c), "told_apart": c.is_told_apart} for c in compared]
