"""Result rows with provenance: their columns, what tells them apart, and a table of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oodbench import files

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
"""Version of the row; a reader takes older ones and refuses newer ones."""

FOREGROUND = ("auroc", "fpr95_id", "fpr95_ood")
"""Figures that are also given against foreground pixels, as ``auroc_foreground`` and so on."""
METRICS = ("auroc", "fpr95_id", "fpr95_ood", "aupr_in", "aupr_out")
ENDS = tuple(f"{metric}_{end}" for metric in METRICS for end in ("low", "high"))
"""Columns of the intervals of ``METRICS``."""
COLUMNS = tuple(
    """
    detector detector_options method backbone id benchmark ood group seed
    auroc auroc_low auroc_high fpr95_id fpr95_ood aupr_in aupr_out id_accuracy n_id n_ood
    is_mean ood_sets recipe recipe_options preprocess precision weights
    id_train_fingerprint id_fingerprint ood_fingerprint selection
    fpr95_id_low fpr95_id_high fpr95_ood_low fpr95_ood_high
    aupr_in_low aupr_in_high aupr_out_low aupr_out_high id_accuracy_low id_accuracy_high
    seconds device oodbench torch python git_commit created command schema row_id tuned
    id_miou id_map binning_error modality gap gap_low gap_high
    accelerator processor threads notes shifted_accuracy
    auroc_foreground fpr95_id_foreground fpr95_ood_foreground n_id_foreground
    """.split()
)
"""Names of a row's fields, in the order of tables. Figures are fractions in [0, 1].

``<figure>_low`` and ``<figure>_high`` are the ends of its 95 % interval over images (over boxes, in
detection), which holds it. Both are None where there is none: in segmentation, and in rows of
groups' means from before these had intervals of FPR@95 and AUPR too.

``selection`` is a digest of all OOD sets of the evaluation, so that rows are together that were
measured together, although each is written on its own.

``tuned`` says what the detector's options were chosen on: the validation OOD sets' names (``ood``),
a ``fingerprint`` of all validation images, the mean ``auroc`` there, and how many candidates were
``tried``. It is None where nothing was chosen.

``id_miou`` (segmentation: mean intersection over union) and ``id_map`` (detection: mean average
precision at an IoU of 0.5) are of the ID test set. ``binning_error`` bounds what counting pixels'
scores in cells changed in any metric; see ``oodbench.metrics.streamed``. In segmentation ``n_id``
and ``n_ood`` are pixels, in detection predicted boxes.

``modality`` is the one whose predictions were scored, of a network of several; None for the joint
ones, and where there are no modalities.

``gap``, where a protocol compares two groups (``contrast``), is the AUROC of the first one's mean
minus that of the second one's, with its interval; it is in the row of the second one's mean.

A benchmark's ``measures`` are further columns, each under its name: figures that tell of the
network and not of the detector (``oodbench.measures``).

``weights`` is a digest of the network's; ``unknown:`` and a digest of its outputs where they cannot
be read. ``accelerator`` is the one that was used, where ``device`` is what was asked for;
``processor`` and ``threads`` are those of the machine. Figures of the same weights and data differ
between machines by rounding, those of networks that are trained on each by more.

``shifted_accuracy`` is the accuracy on a shifted set, whose classes are the ID set's; None for OOD.

``auroc_foreground`` and the like are, in segmentation, of OOD pixels against those ID pixels alone
that are not of a benchmark's ``background``, of which there are ``n_id_foreground``; None where a
benchmark has no background, or there is no such pixel.

``notes`` are the warnings that a reader of the row has to know, a list of sentences; None for none.
"""

_ALWAYS = COLUMNS[: COLUMNS.index("tuned")]
_MACHINE = ("device", "accelerator", "processor", "threads")

Row = dict[str, Any]


def row_id(row: Row) -> str:
    """What makes a row the same row: what was measured and what came out.

    Not when, how fast, or on which machine: the same figures are the same row wherever they come
    from, and where a machine's arithmetic differs, so do the figures.
    """
    volatile = {"created", "seconds", "command", "row_id", "git_commit", *_MACHINE}
    # rows from before there was such a column keep their id
    volatile |= {name for name, value in row.items() if value is None and name not in _ALWAYS}
    return files.digest({key: row[key] for key in sorted(row) if key not in volatile})[:32]


@dataclass
class Results:
    """Rows of an evaluation.

    Args:
        rows: one mapping a detector and OOD set (or group mean); see ``COLUMNS``.
        missing: OOD sets that were not found, with what was looked for, by name.
        warnings: what a reader of the rows has to know.
        failures: detectors that gave no rows, with the reason, by name.
    """

    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __add__(self, other: Results) -> Results:
        warnings = list(dict.fromkeys([*self.warnings, *other.warnings]))
        return Results(
            [*self.rows, *other.rows],
            {**self.missing, **other.missing},
            warnings,
            {**self.failures, **other.failures},
        )

    def to_pandas(self) -> pd.DataFrame:
        """A table with ``COLUMNS``, and those of the benchmarks' measures."""
        import pandas as pd

        columns = dict.fromkeys((*COLUMNS, *(name for row in self.rows for name in row)))
        return pd.DataFrame(self.rows, columns=list(columns))

    def to_json(self) -> str:
        """``{"rows": [...], "missing": {...}, "warnings": [...], "failures": {...}}``."""
        value = {
            "rows": self.rows,
            "missing": self.missing,
            "warnings": self.warnings,
            "failures": self.failures,
        }
        return json.dumps(value, indent=1, allow_nan=False)
