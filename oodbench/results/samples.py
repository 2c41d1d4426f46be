"""Scores of every sample for people: tables, histograms and ROC curves, without another pass."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oodbench import files
from oodbench.data.samples import Samples
from oodbench.errors import OODBenchError, OptionError, did_you_mean
from oodbench.results import scores
from oodbench.results.rows import Row, cell
from oodbench.results.stored import StoredResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SampleSet:
    """The scores of one set.

    Args:
        name: of the set; ``"id"`` for the ID test set.
        group: ``"id"``, or the OOD set's.
        scores: ``[N]``, higher = more OOD.
        labels: ``[N]`` names of classes; None where they are not known.
        paths: ``[N]``, of each sample's file below the dataset's folder; None where there are none.
    """

    name: str
    group: str
    scores: np.ndarray
    labels: Sequence[str] | None = None
    paths: Sequence[str] | None = None


@dataclass(frozen=True)
class SampleScores:
    """The scores that a detector gave in one evaluation.

    Args:
        benchmark: what it was measured on.
        detector: its name.
        detector_options: its hyper-parameters.
        method: how the network was trained.
        backbone: the network.
        seed: of its training.
        sets: the ID test set, then the OOD sets.
        counts_as_id: shifted sets with which OOD sets are compared too, besides the ID test set.
    """

    benchmark: str
    detector: str
    detector_options: Mapping[str, Any]
    method: str
    backbone: str
    seed: int
    sets: tuple[SampleSet, ...]
    counts_as_id: tuple[str, ...] = field(default=())

    @classmethod
    def of_row(
        cls, row: Row, sets: Iterable[SampleSet], counts_as_id: Iterable[str]
    ) -> SampleScores:
        """The scores of the detector and network that a row names."""
        names = ("benchmark", "detector", "detector_options", "method", "backbone", "seed")
        about = {name: cell(row, name) for name in names}
        return cls(**about, sets=tuple(sets), counts_as_id=tuple(counts_as_id))

    @property
    def id(self) -> np.ndarray:
        """``[N]``, of all that counts as ID."""
        names = {scores.ID, *self.counts_as_id}
        return np.concatenate([one.scores for one in self.sets if one.name in names])

    def of(self, ood: str) -> np.ndarray:
        """The scores of an OOD set, or of all sets of a group, ``[N]``.

        Raises:
            OptionError: there is no such set or group; the nearest are named.
        """
        of_sets = [one.scores for one in self.sets[1:] if ood in (one.name, one.group)]
        if not of_sets:
            known = [name for one in self.sets[1:] for name in (one.name, one.group)]
            raise OptionError(f"there are no scores of {ood!r}.{did_you_mean(ood, known)}")
        return np.concatenate(of_sets)

    def to_pandas(self) -> pd.DataFrame:
        """A table: ``set``, ``group``, ``path``, ``label`` and ``score`` of each sample."""
        import pandas as pd

        return pd.DataFrame(self._lines(), columns=_COLUMNS)

    def histogram(self, ood: str, bins: int = 50) -> pd.DataFrame:
        """How many ID and OOD samples there are in each cell of scores, for a plot.

        The cells are of equal width from the least to the largest score of both.

        Args:
            ood: an OOD set or a group.
            bins: how many cells.

        Returns:
            ``low``, ``high``, ``id`` and ``ood``, a line for each cell.
        """
        import pandas as pd

        both = self.id, self.of(ood)
        edges = np.histogram_bin_edges(np.concatenate(both), bins)
        counts = [np.histogram(values, edges)[0] for values in both]
        return pd.DataFrame(dict(zip(_CELLS, (edges[:-1], edges[1:], *counts), strict=True)))

    def roc(self, ood: str) -> pd.DataFrame:
        """The ROC curve with OOD as the positive class, a line for each threshold that matters.

        Args:
            ood: an OOD set or a group.

        Returns:
            ``threshold``, ``tpr`` (share of OOD samples at or above it) and ``fpr`` (that of ID
            samples); the area below the line through them is the AUROC.
        """
        import pandas as pd
        from sklearn.metrics import roc_curve

        known, other = self.id, self.of(ood)
        truth = np.repeat([0, 1], [len(known), len(other)])
        fpr, tpr, threshold = roc_curve(truth, np.concatenate([known, other]))
        return pd.DataFrame({"threshold": threshold, "tpr": tpr, "fpr": fpr})

    def to_csv(self, folder: str | Path) -> Path:
        """Write the table as ``DETECTOR-METHOD-seedN-DIGEST.csv``; returns the file.

        Raises:
            StorageError: it cannot be written.
        """
        made_by = files.digest([self.benchmark, self.detector_options, self.method, self.backbone])
        name = f"{self.detector}-{self.method}-seed{self.seed}-{made_by[:8]}"
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(self._lines())
        path = files.user_path(folder) / f"{name.replace('/', '-')}.csv"
        files.write_text(path, text.getvalue())
        return path

    def _lines(self) -> list[tuple[Any, ...]]:
        return [
            line
            for one in self.sets
            for line in zip(
                [one.name] * len(one.scores),
                [one.group] * len(one.scores),
                one.paths or itertools.repeat(None, len(one.scores)),
                one.labels or itertools.repeat(None, len(one.scores)),
                one.scores.tolist(),
                strict=True,
            )
        ]


_COLUMNS = ["set", "group", "path", "label", "score"]
_CELLS = ("low", "high", "id", "ood")


def sample_set(name: str, group: str, values: np.ndarray, samples: Samples) -> SampleSet:
    """The scores of samples; where there is not one for each (boxes), no labels and paths."""
    if len(values) != len(samples):
        return SampleSet(name, group, values)
    labels = [samples.classes[label] for label in samples.labels] if samples.classes else None
    return SampleSet(name, group, values, labels, getattr(samples, "paths", None))


def of_result(result: StoredResult) -> SampleScores:
    """The scores behind a stored result, which has no paths and no labels.

    Raises:
        OODBenchError: they were not kept, or cannot be read.
    """
    if result.scores_path is None:
        raise OODBenchError(f"of {result.path.name} no scores were kept.")
    kept = scores.read(result.scores_path)
    row = result.rows[0]
    singles = [one for one in result.rows if not one["is_mean"]]
    as_id = row.get("spectrum_accuracy") is not None
    return SampleScores.of_row(
        row,
        [
            SampleSet(scores.ID, scores.ID, kept[scores.ID]),
            *(SampleSet(r["ood"], r["group"], kept[scores.of_ood(r["ood"])]) for r in singles),
        ],
        [r["ood"] for r in singles if as_id and r["group"] == "shifted"],
    )
