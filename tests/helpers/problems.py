"""Small problems for detectors' tests: drawn outputs, and the arrays that references read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import oodbench
from oodbench import Outputs
from oodbench.outputs import Head
from oodbench.results.rows import COLUMNS, METRICS, SCHEMA, row_id

OF_OUTPUTS = tuple(
    name
    for name in oodbench.list_detectors()
    if oodbench.create_detector(name).needs <= {"features", "logits", "labels", "head"}
)
"""The detectors that read what every network gives, not the network, nor what some heads add."""


@dataclass
class Problem:
    """Outputs of an imaginary classifier, right about most of its training data but not all."""

    train: Outputs
    test: Outputs
    ood: Outputs

    @property
    def head(self) -> Head:
        assert self.train.head is not None
        return self.train.head


def problem(
    n: int = 300,
    classes: int = 5,
    dim: int = 24,
    test: int = 40,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    rectified: bool = True,
) -> Problem:
    """Features that lean towards their class's weights; OOD ones that lean to nowhere.

    In float64, so that a reference and a detector that works in what it is given differ by
    rounding alone.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    weight, bias = draw(classes, dim) / dim**0.5, 0.3 * draw(classes)
    spread = 0.5 + torch.rand(dim, generator=generator, dtype=torch.float64)
    head = Head(weight.to(dtype), bias.to(dtype))

    def outputs(count: int, pull: float) -> Outputs:
        labels = torch.arange(count) % classes
        features = spread * (0.5 + pull * dim**0.5 * weight[labels] + draw(count, dim))
        features = (features.relu() if rectified else features).to(dtype)
        return Outputs(features, head(features), labels, head)

    return Problem(outputs(n, 1.0), outputs(test, 1.0), outputs(test, 0.0))


def arrays(outputs: Outputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, logits and labels as NumPy has them, the first two in float64."""
    features, logits = outputs.features.double().numpy(), outputs.logits.double().numpy()
    return features, logits, outputs.labels.numpy()


def stored_row(**fields: Any) -> dict[str, Any]:
    """A row as an evaluation writes it, with other fields; its id is right."""
    made: dict[str, Any] = {
        **dict.fromkeys(COLUMNS),
        **dict.fromkeys(METRICS, 0.75),
        **{f"{name}_{end}": v for name in METRICS for end, v in (("low", 0.5), ("high", 0.875))},
        **dict.fromkeys("detector method backbone id benchmark ood device".split(), "toy"),
        **dict.fromkeys("oodbench torch python precision weights selection".split(), "1"),
        **dict.fromkeys("id_fingerprint ood_fingerprint preprocess".split(), "f" * 64),
        "detector_options": {},
        "recipe_options": {},
        "group": "near",
        "seed": 0,
        "n_id": 60,
        "n_ood": 20,
        "is_mean": False,
        "ood_sets": [fields.get("ood", "toy")],
        "seconds": 0.1,
        "created": "2026-01-01T00:00:00+00:00",
        "schema": SCHEMA,
        **fields,
    }
    return {**made, "row_id": row_id(made)}
