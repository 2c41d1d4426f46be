"""The tables of a leaderboard page, and entries to put on it."""

from __future__ import annotations

import dataclasses
from typing import Any

from oodbench.results.rows import SCHEMA, row_id
from tests.helpers.rows import FAR_A, NEAR_A, TOY


def tables(page: str) -> list[list[dict[str, str]]]:
    """The tables of a page, as rows by column."""
    found: list[list[dict[str, str]]] = []
    header: list[str] = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
            found.append([])
        elif set(cells) != {"---"}:
            found[-1].append(dict(zip(header, cells, strict=True)))
    return found


def entry(auroc: float, seed: int = 0, **fields: Any) -> list[dict[str, Any]]:
    """The rows of an evaluation with given figures: two sets and the groups' means."""
    rows = []
    for ood, group, delta, is_mean in (
        ("near-a", "near", 0.0, False),
        ("far-a", "far", 0.1, False),
        ("near", "near", 0.0, True),
        ("far", "far", 0.1, True),
    ):
        value = auroc + delta
        made: dict[str, Any] = {
            "detector": "msp", "detector_options": {}, "method": "ce", "backbone": "net",
            "id": "toy", "benchmark": "toy", "ood": ood, "group": group, "seed": seed,
            "auroc": value, "auroc_low": value - 0.01, "auroc_high": value + 0.01,
            "fpr95_id": 1 - value, "fpr95_ood": (1 - value) / 2, "aupr_in": value / 2,
            "aupr_out": value / 3, "id_accuracy": 0.9, "n_id": 60, "n_ood": 20,
            "is_mean": is_mean, "ood_sets": [ood], "recipe": "quick", "recipe_options": {},
            "preprocess": {"size": 4, "mode": "L", "resize": "stretch", "mean": [0], "std": [1]},
            "precision": "32-true", "weights": f"{seed:064d}", "id_train_fingerprint": None,
            "id_fingerprint": "1" * 64, "ood_fingerprint": f"{ood:f<64}", "selection": "s",
            "seconds": 0.5, "device": "cpu", "oodbench": "0.1", "torch": "2", "python": "3",
            "git_commit": None, "created": "2026-01-01T00:00:00+00:00", "command": None,
            "schema": SCHEMA, **fields,
        }  # fmt: skip
        rows.append({**made, "row_id": row_id(made)})
    return rows


PAGE = dataclasses.replace(TOY, near=(NEAR_A,), far=(FAR_A,))
