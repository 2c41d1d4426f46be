"""Result rows with known figures, for tests of what is made of rows."""

from __future__ import annotations

from typing import Any

from oodbench.results.rows import Row

_ROW: dict[str, Any] = {
    "detector": "msp",
    "detector_options": {},
    "method": "ce",
    "recipe": "quick",
    "recipe_options": {},
    "backbone": "resnet20",
    "precision": "32-true",
    "preprocess": {},
    "weights": "w",
    "seed": 0,
    "is_mean": False,
    "fpr95_id": 0.5,
    "fpr95_ood": 0.4,
    "aupr_in": 0.3,
    "aupr_out": 0.2,
    "id_accuracy": 0.9,
    "n_id": 10000,
    "n_ood": 1234,
    "gap": None,
}


def measured(ood: str, group: str, auroc: float, **more: Any) -> Row:
    """A row of an OOD set, or of a group's mean, with what differs from the usual."""
    return {**_ROW, "ood": ood, "group": group, "auroc": auroc, **more}  # type: ignore[return-value]
