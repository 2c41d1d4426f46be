"""Result rows with provenance: their columns, and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from oodbench import files

SCHEMA = 1
"""Version of the row; a reader takes older ones and refuses newer ones."""

FOREGROUND = ("auroc", "fpr95_id", "fpr95_ood")
"""Figures that are also given against foreground pixels, as ``auroc_foreground`` and so on."""
NAMES = {
    "auroc": "AUROC",
    "fpr95_id": "FPR@95 (ID positive)",
    "fpr95_ood": "FPR@95 (OOD positive)",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
}
"""The figures of every row, and what they are called."""
METRICS = tuple(NAMES)
ENDS = tuple(f"{metric}_{end}" for metric in METRICS for end in ("low", "high"))
"""Columns of the intervals of ``METRICS``."""


class Row(TypedDict, total=False):
    """A detector's figures on an OOD set or on a group's mean, and what they were made with.

    Its fields are the columns, in the order of tables; rows from before a column was there lack it.
    Figures are fractions in [0, 1]. ``<figure>_low`` and ``<figure>_high`` are the ends of its 95 %
    interval over images (over boxes, in detection), which holds it. Both are None where there is
    none: in segmentation, and in rows of groups' means from before these had intervals of FPR@95
    and AUPR too.

    A task's ``columns`` and a benchmark's ``measures`` are further columns, each under its name,
    that are read and written by :func:`cell` and :func:`with_columns`.
    """

    detector: str
    detector_options: dict[str, Any]
    method: str
    backbone: str
    id: str
    benchmark: str
    ood: str
    """The OOD set; in the row of a mean its group, with the sets in brackets if some are absent."""
    group: str
    seed: int
    auroc: float
    auroc_low: float | None
    auroc_high: float | None
    fpr95_id: float
    fpr95_ood: float
    aupr_in: float
    aupr_out: float
    id_accuracy: float | None
    n_id: int
    """How many were scored of the ID set: images; pixels in segmentation, predicted boxes in
    detection."""
    n_ood: int
    """The same of the OOD sets."""
    is_mean: bool
    """Whether the figures are the mean over ``ood_sets``."""
    ood_sets: list[str]
    recipe: str | None
    recipe_options: dict[str, Any]
    preprocess: Any
    """The content key of the preprocessing, as JSON has it."""
    precision: str
    weights: str
    """A digest of the network's weights; ``unknown:`` and a digest of its outputs where they cannot
    be read."""
    id_train_fingerprint: str | None
    id_fingerprint: str
    ood_fingerprint: str
    selection: str
    """A digest of all OOD sets of the evaluation, so that rows are together that were measured
    together, although each is written on its own."""
    fpr95_id_low: float | None
    fpr95_id_high: float | None
    fpr95_ood_low: float | None
    fpr95_ood_high: float | None
    aupr_in_low: float | None
    aupr_in_high: float | None
    aupr_out_low: float | None
    aupr_out_high: float | None
    id_accuracy_low: float | None
    id_accuracy_high: float | None
    seconds: float
    """What it took to fit and score the detector."""
    device: str
    """The accelerator that was asked for."""
    oodbench: str
    torch: str
    python: str
    git_commit: str | None
    created: str
    command: str | None
    """What repeats the evaluation."""
    schema: int
    row_id: str
    tuned: Mapping[str, Any] | None
    """What the detector's options were chosen on: the validation OOD sets' names (``ood``), a
    ``fingerprint`` of all validation images, the mean ``auroc`` there, and how many candidates were
    ``tried``. None where nothing was chosen."""
    id_miou: float | None
    """Segmentation: mean intersection over union on the ID test set."""
    id_map: float | None
    """Detection: mean average precision at an IoU of 0.5 on the ID test set."""
    binning_error: float | None
    """What bounds how counting pixels' scores in cells changed any metric; see
    ``oodbench.metrics.streamed``."""
    modality: str | None
    """The one whose predictions were scored, of a network of several; None for the joint ones, and
    where there are no modalities."""
    gap: float | None
    """Where a protocol compares two groups (``contrast``), the AUROC of the first one's mean minus
    that of the second one's; it is in the row of the second one's mean."""
    gap_low: float | None
    gap_high: float | None
    accelerator: str | None
    """The one that was used, where ``device`` is what was asked for. Figures of the same weights
    and data differ between machines by rounding, those of networks that are trained on each by
    more."""
    processor: str | None
    threads: int | None
    notes: list[str] | None
    """The warnings that a reader of the row has to know, sentences; None for none."""
    shifted_accuracy: float | None
    """The accuracy on a shifted set, whose classes are the ID set's; None for OOD."""
    auroc_foreground: float | None
    """Segmentation, with the two below: of OOD pixels against those ID pixels alone that are not of
    a benchmark's ``background``; None where it has none, or there is no such pixel."""
    fpr95_id_foreground: float | None
    fpr95_ood_foreground: float | None
    n_id_foreground: int | None
    """How many such ID pixels there are."""
    benchmark_version: int | None
    """``Benchmark.version``; None for the first."""
    spectrum_accuracy: float | None
    """Where shifted sets count as ID, the accuracy over all that counts as ID."""
    fit_on: str | None
    """The part of the ID training set that the detector was fitted on; None for all of it, or
    where nothing is fitted on it."""
    preprocess_source: str | None
    """Who said how images are made for the network: the caller, the network, its checkpoint, the
    benchmark; None in rows from before that was noted."""
    detector_code: str | None
    """A digest of how the detector's code is written; that of another version of it differs."""
    auxiliary: Mapping[str, Any] | None
    """What training saw beside the ID set: ``as`` what (the recipe's field, such as ``outliers``),
    the set's ``name``, how many images (``count``), and their ``fingerprint``. None for nothing."""
    scored_on: str | None
    """The device at which the detector was fitted and scored outputs, where that was not the
    CPU."""
    arguments: Mapping[str, Any] | None
    """What was asked for that no other column tells, by the names of ``oodbench.evaluate``'s
    arguments: with the other columns it repeats the evaluation. A file is its name and sha256."""


COLUMNS = tuple(Row.__annotations__)
"""Names of a row's fields, in the order of tables."""

ALWAYS = COLUMNS[: COLUMNS.index("tuned")]
"""Columns that every row has had from the beginning."""
_MACHINE = ("device", "accelerator", "processor", "threads")


def cell(row: Row, column: str) -> Any:
    """What a row has in a column that is only known by its name; None where it has nothing."""
    return row.get(column)


def with_columns(row: Row, columns: Mapping[str, object]) -> Row:
    """A row with columns that are only known by their names, such as a task's own.

    Args:
        row: stays as it is.
        columns: what they hold; they replace those of the same name.
    """
    return cast(Row, {**row, **columns})


def row_id(row: Row) -> str:
    """What makes a row the same row: what was measured and what came out.

    Not when, how fast, on which machine, by which version of the detector's code, in which words it
    was asked for, or who said how images are made: the same figures are the same row wherever they
    come from, and where arithmetic differs, so do they.
    """
    return files.digest(told(row))[:32]


_VOLATILE = frozenset({"created", "seconds", "command", "row_id", "git_commit", *_MACHINE})
_VOLATILE |= {"scored_on", "preprocess_source", "detector_code", "arguments"}
_KEPT = frozenset(ALWAYS)


def is_told(name: str, value: object) -> bool:
    """Whether a row's id tells a column; rows from before there was one keep their id."""
    return name not in _VOLATILE and (value is not None or name in _KEPT)


def told(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a row's id tells."""
    # is_told, written out: it is asked of each column of thousands of results
    return {
        name: value
        for name, value in columns.items()
        if name not in _VOLATILE and (value is not None or name in _KEPT)
    }
