"""Figures and intervals of a result, derived again from the scores of every sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oodbench import metrics
from oodbench.benchmark import SHIFTED, Benchmark
from oodbench.results import scores
from oodbench.results.rows import ENDS, METRICS, Row, cell, with_columns
from oodbench.results.scores import Scores


def derived(rows: Sequence[Row], kept: Scores, benchmark: Benchmark | None) -> list[Row]:
    """What follows from scores, for each of the rows; columns that cannot are not in it.

    Raises:
        KeyError: a set of which there are no scores.
        ValueError: scores of which there is no row.
    """
    singles = [row for row in rows if not row["is_mean"]]
    of_sets = {row["ood"]: kept[scores.of_ood(row["ood"])] for row in singles}
    known = {scores.ID, *map(scores.of_ood, of_sets)}
    if unknown := [key for key in kept if key.removeprefix("correct/") not in known]:
        raise ValueError(f"no row is of {', '.join(unknown)}")
    lengths = {key: len(values) for key, values in kept.items()}
    for key in lengths:
        if lengths[key] != lengths[key.removeprefix("correct/")]:
            raise ValueError(f"{key} is of another number of samples")
    as_id: list[str] = []  # shifted sets that the protocol counts as ID
    says_so = benchmark is not None and benchmark.protocol.full_spectrum
    if says_so or rows[0].get("spectrum_accuracy") is not None:
        as_id = [row["ood"] for row in singles if row["group"] == SHIFTED]
    test = kept[scores.ID]
    spectrum = np.concatenate([test, *(of_sets[name] for name in as_id)])
    id_scores = {name: test if name in as_id else spectrum for name in of_sets}
    made = {row["ood"]: _of_set(row, kept, id_scores[row["ood"]]) for row in singles}
    first, second = (benchmark and benchmark.protocol.contrast) or ("", "")
    of_first = [of_sets[row["ood"]] for row in singles if row["group"] == first]
    for row in rows:
        if not row["is_mean"]:
            continue
        mean = _of_mean([made[name] for name in row["ood_sets"]])
        members = [of_sets[name] for name in row["ood_sets"]]
        if len(members) > 1 and row.get("auroc_low") is not None:
            mean = with_columns(
                mean, metrics.mean_intervals(id_scores[row["ood_sets"][0]], members)
            )
        if row["group"] == second and of_first:
            gap, *ends = metrics.auroc_gap(spectrum, of_first, members)
            mean["gap"] = gap
            mean["gap_low"], mean["gap_high"] = (None if e != e else e for e in ends)
        made[row["ood"]] = mean
    shared = _accuracy(kept, as_id)
    return [with_columns(made[row["ood"]], shared) for row in rows]


def _of_set(row: Row, kept: Scores, id_scores: np.ndarray) -> Row:
    """The figures of an OOD set."""
    key = scores.of_ood(row["ood"])
    ood_scores = kept[key]
    figures: Row = {"n_id": len(id_scores), "n_ood": len(ood_scores)}
    figures = with_columns(figures, metrics.all_metrics(id_scores, ood_scores))
    if row.get("auroc_low") is not None:
        figures = with_columns(figures, metrics.all_intervals(id_scores, ood_scores))
    right = kept.get(scores.correct(key))
    if right is not None:
        figures["shifted_accuracy"] = float(np.mean(right))
    return figures


def _of_mean(members: Sequence[Row]) -> Row:
    """The means of figures, and the counts, of several OOD sets."""
    mean: Row = {
        "n_id": max(row["n_id"] for row in members),
        "n_ood": sum(row["n_ood"] for row in members),
    }
    averaged = [*METRICS, *(["shifted_accuracy"] if "shifted_accuracy" in members[0] else [])]
    columns = {name: float(np.mean([cell(row, name) for row in members])) for name in averaged}
    if len(members) == 1:
        columns |= {name: cell(members[0], name) for name in ENDS if name in members[0]}
    return with_columns(mean, columns)


def _accuracy(kept: Scores, as_id: Sequence[str]) -> Row:
    right = kept.get(scores.correct(scores.ID))
    if right is None:
        return {}
    low, high = metrics.proportion_ci(int(right.sum()), len(right))
    of_all = [right, *(kept[scores.correct(scores.of_ood(name))] for name in as_id)]
    whole: Row = {"spectrum_accuracy": float(np.mean(np.concatenate(of_all)))} if as_id else {}
    return {
        **whole,
        "id_accuracy": float(np.mean(right)),
        "id_accuracy_low": low,
        "id_accuracy_high": high,
    }
