"""What hyper-parameters are chosen on, and what comes of a search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from oodbench import files
from oodbench.benchmark import Benchmark
from oodbench.checks.classes import check_classes, id_samples
from oodbench.data.balanced import balanced
from oodbench.data.samples import Samples, Subset, positions
from oodbench.detector import Detector
from oodbench.errors import DataError, MissingDataError, OptionError
from oodbench.reporting import Report


class Validation:
    """The data that choices are made on.

    Args:
        benchmark: whose ``train`` and ``val`` splits and validation OOD sets.
        report: told of sets that are missing.
        fit_on: how many ID training images are fitted on, or the share of them; None for all.

    Attributes:
        val: the ID validation split.
        ood: the validation OOD sets that are there, by name.

    Raises:
        OptionError: the benchmark names no validation data.
        MissingDataError: the ID validation split, or all validation OOD sets, are missing.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        report: Report = lambda _: None,
        fit_on: str | float | None = None,
    ) -> None:
        self._fit_on = fit_on
        self._benchmark = benchmark = benchmark.without_test()
        if "val" not in benchmark.id.splits or not benchmark.validation:
            lacks = "validation OOD sets" if "val" in benchmark.id.splits else "val split"
            raise OptionError(
                f"benchmark {benchmark.name} has no {lacks} to choose hyper-parameters on. Give it "
                "an ID set with a val split and Benchmark(validation=(...,)), or set them by hand."
            )
        self.val = id_samples(benchmark, "val")
        self.ood: dict[str, Samples] = {}
        missing = []
        for spec in benchmark.validation:
            try:
                self.ood[spec.name] = spec.load("val" if "val" in spec.splits else spec.splits[-1])
            except MissingDataError as error:
                missing.append(str(error))
                report(f"missing: {error}")
        if not self.ood:
            raise MissingDataError("none of the validation OOD sets is there. " + " ".join(missing))

    @cached_property
    def train(self) -> Samples:
        """The ID training split, or the balanced part of it that is fitted on."""
        samples = balanced(id_samples(self._benchmark, "train"), self._fit_on)
        check_classes(samples, self.val)
        return samples

    @cached_property
    def fitted_on(self) -> Samples:
        """The training split without the images of ``val``; the split itself if it has none."""
        kept = np.flatnonzero(~np.isin(self.train.digests, self.val.digests))
        if len(kept) == len(self.train):
            return self.train
        if len(kept) == 0:
            raise DataError(
                f"every image of {self.train.name} is also in {self.val.name}: nothing is left to "
                "fit on. Make the two of different images."
            )
        return Subset(self.train, kept, f"{self.train.name} without {self.val.name}")

    @cached_property
    def rows_in_train(self) -> np.ndarray | None:
        """Where the images of ``val`` are in ``train``; None unless all of them are."""
        places = positions(self.val, self.train)
        return places if (places >= 0).all() else None

    @cached_property
    def halves(self) -> tuple[Subset, Subset]:
        """``val`` in two: a detector that is fitted on ``val`` must not be scored on the same."""
        order = np.lexsort((self.val.digests, self.val.labels))
        first, second = (np.sort(order[start::2]) for start in (0, 1))
        return (
            Subset(self.val, first, f"a half of {self.val.name}"),
            Subset(self.val, second, f"the other half of {self.val.name}"),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of all images that are scored."""
        ood = {name: samples.fingerprint for name, samples in self.ood.items()}
        return files.digest([self.val.fingerprint, ood])


@dataclass
class Trial:
    """One combination of values.

    Args:
        values: of the options that are searched.
        aurocs: mean AUROC over the validation OOD sets, one per network.
        refused: why it cannot be used, or None.
        warnings: what the detector says of these values.
    """

    values: dict[str, Any]
    aurocs: list[float] = field(default_factory=list)
    refused: str | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def auroc(self) -> float | None:
        """Mean over the networks; None if it cannot be used."""
        return None if self.refused or not self.aurocs else float(np.mean(self.aurocs))


@dataclass
class Choice:
    """The values that were chosen for one detector.

    Args:
        original: the detector before tuning.
        chosen: one of the same class with the chosen values, not fitted.
        trials: all that was tried, in the order of the grid.
        best: the trial that was chosen.
    """

    original: Detector
    chosen: Detector
    trials: list[Trial]
    best: Trial

    def to_dict(self) -> dict[str, Any]:
        """The choice in types that JSON has."""
        return {
            "detector": self.original.label,
            "detector_options": self.chosen.options(),
            "auroc": self.best.auroc,
            "trials": [
                {
                    "values": trial.values,
                    "auroc": trial.auroc,
                    "refused": trial.refused,
                    "chosen": trial is self.best,
                }
                for trial in self.trials
            ],
        }


@dataclass
class Tuning:
    """The result of a search over detectors' options.

    Args:
        benchmark: its name.
        validation: what was chosen on; None if there was nothing to choose.
        choices: one for each detector that was searched.
        untuned: why a detector was not, by name.
        failures: detectors that could not be used, with the reason, by name.
        warnings: what a reader has to know of the values that were chosen.
    """

    benchmark: str
    validation: Validation | None = None
    choices: list[Choice] = field(default_factory=list)
    untuned: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _failed: list[Detector] = field(default_factory=list)

    def apply(self, detectors: Sequence[Detector]) -> list[Detector]:
        """The detectors with the chosen values; those that failed are left out."""
        chosen = {id(choice.original): choice.chosen for choice in self.choices}
        failed = set(map(id, self._failed))
        return [chosen.get(id(d), d) for d in detectors if id(d) not in failed]

    def to_dict(self) -> dict[str, Any]:
        """The search in types that JSON has."""
        validation = self.validation and {
            "id": self.validation.val.name,
            "n_id": len(self.validation.val),
            "ood": {name: len(samples) for name, samples in self.validation.ood.items()},
            "fingerprint": self.validation.fingerprint,
        }
        return {
            "benchmark": self.benchmark,
            "validation": validation,
            "choices": [choice.to_dict() for choice in self.choices],
            "untuned": self.untuned,
            "failures": self.failures,
            "warnings": self.warnings,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)
