"""Stored results of given scores, as an evaluation would have written them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from oodbench import ResultStore, metrics
from oodbench.results import scores
from oodbench.results.rows import row_id
from oodbench.results.stored import StoredResult
from tests.helpers.pages import entry


def rows_of(
    id_scores: np.ndarray, sets: dict[str, np.ndarray], seed: int = 0, **fields: Any
) -> list[dict[str, Any]]:
    """The rows of an evaluation on ``near-a`` and ``far-a`` that gave these scores."""
    rows = []
    for row in entry(0.5, seed, **fields):
        name = f"{row['group']}-a"
        own = sets[name]
        row["ood_sets"] = [name]
        row.update(metrics.all_metrics(id_scores, own))
        row.update(metrics.all_intervals(id_scores, own))
        row.update(n_id=len(id_scores), n_ood=len(own))
        low, high = metrics.proportion_ci(round(0.9 * len(id_scores)), len(id_scores))
        row.update(id_accuracy=0.9, id_accuracy_low=low, id_accuracy_high=high)
        rows.append({**row, "row_id": row_id(row)})  # type: ignore[typeddict-item]
    return rows


def stored_result(
    folder: Path,
    detector: str,
    id_scores: np.ndarray,
    sets: dict[str, np.ndarray],
    seed: int = 0,
    keep: bool = True,
    **fields: Any,
) -> StoredResult:
    """A result in a folder of leaderboards, with its scores unless they are not kept."""
    rows = rows_of(id_scores, sets, seed, detector=detector, **fields)
    kept = {scores.ID: id_scores, **{scores.of_ood(name): own for name, own in sets.items()}}
    store = ResultStore(folder)
    store.append(rows, kept if keep else None)  # type: ignore[arg-type]
    ids = {row["row_id"] for row in rows}
    (found,) = (r for r in store.results("toy") if {row["row_id"] for row in r.rows} == ids)
    return found


def drawn(seed: int, quality: float, n: int = 400, noise: float = 0.3) -> tuple[Any, Any]:
    """Scores of the same images by a detector of some quality: of ID, and of both OOD sets."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed + 1)
    sets = {name: shared.normal(quality * far, 1, n) for name, far in (("near-a", 1), ("far-a", 2))}
    ids = shared.normal(0, 1, n) + noise * own.normal(size=n)
    return ids, {name: s + noise * own.normal(size=n) for name, s in sets.items()}
