"""What became of a result or a page that was checked, and by how much figures may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from oodbench.results.rows import Row, cell

Level = Literal["scores", "outputs", "network"]
"""How much is made again: figures from the scores, scores from the network, the network itself."""

LEVELS: tuple[Level, ...] = ("scores", "outputs", "network")

Word = Literal["identical", "within tolerance", "different", "not checked"]
"""What became of a result or a page."""


@dataclass(frozen=True)
class Tolerance:
    """By how much a figure may differ that was made again.

    A figure of a threshold (FPR@95, an accuracy) is a share of samples: it moves in steps of one
    sample, so some steps are allowed besides the share.

    Args:
        share: of any figure, on the scale of 0 to 1.
        at_threshold: of FPR@95 and accuracies, which one threshold makes.
        steps: samples by which a figure of a threshold may differ besides.
        why: where these come from, for people.
    """

    share: float
    at_threshold: float
    steps: int
    why: str

    def of(self, column: str, row: Row) -> float:
        """What is allowed for a figure of a row."""
        if not column.startswith(("fpr", "id_accuracy", "shifted_accuracy", "spectrum_accuracy")):
            return self.share
        return self.at_threshold + self.steps / min(row["n_id"], row["n_ood"])

    def __str__(self) -> str:
        least = f"{self.share:g}"
        if self.steps:
            least += f" (at a threshold {self.at_threshold:g} and {self.steps} samples)"
        return f"{least}: {self.why}"


TOLERANCES: dict[Level, Tolerance] = {
    "scores": Tolerance(1e-9, 1e-9, 0, "the last digits of an interval's ends"),
    "outputs": Tolerance(
        5e-4, 2e-3, 2, "rounding of the network's outputs on another processor or library"
    ),
    "network": Tolerance(
        0.03, 0.08, 2, "a network that another processor trained, which rounding makes another one"
    ),
}
"""What is allowed at each level; docs/verify.md has the measurements."""

SCORES = 1e-2
"""By how much a score may differ that is made again from the same weights, in units of the ID
scores' standard deviation."""


@dataclass(frozen=True)
class Difference:
    """A figure that is not what follows.

    Args:
        row: the OOD set or group whose row it is in.
        column: the figure.
        stored: what the row has.
        derived: what follows.
    """

    row: str
    column: str
    stored: object
    derived: object

    def __str__(self) -> str:
        by = ""
        if isinstance(self.stored, float) and isinstance(self.derived, float):
            by = f", by {abs(self.stored - self.derived):.2g}"
        return f"{self.row}: {self.column} is {self.stored}, derived {self.derived}{by}"


@dataclass
class Verdict:
    """What became of a result or a page.

    Args:
        path: the file.
        word: the outcome in a word.
        reasons: what is wrong, or why nothing could be checked: sentences.
        differences: figures that are not what follows.
        remarks: what a reader should know although the figures hold.
        checked: how many figures were derived.
        level: how much was made again.
        largest: the figure that differs most of those within the tolerance; None for none.
    """

    path: Path
    word: Word = "identical"
    reasons: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    checked: int = 0
    level: Level = "scores"
    largest: Difference | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing was found wrong."""
        return self.word != "different"

    def to_json(self) -> dict[str, Any]:
        """What ``oodbench verify --json`` prints of it."""
        tolerance = TOLERANCES[self.level]
        return {
            "path": self.path.as_posix(),
            "level": self.level,
            "outcome": self.word,
            "tolerance": {
                "share": tolerance.share,
                "at_threshold": tolerance.at_threshold,
                "steps": tolerance.steps,
            },
            "checked": self.checked,
            "reasons": self.reasons,
            "differences": [vars(difference) for difference in self.differences],
            "largest": None if self.largest is None else vars(self.largest),
            "remarks": self.remarks,
        }

    def refuse(self, reason: str) -> Verdict:
        """Note that it does not hold, and why; returns itself."""
        self.word = "different"
        self.reasons.append(reason)
        return self

    def leave(self, reason: str) -> Verdict:
        """Note that it could not be checked, and why; returns itself."""
        self.word = "not checked"
        self.reasons.append(reason)
        return self

    def compare(self, rows: Sequence[Row], derived: Sequence[Row], columns: Any = None) -> None:
        """Compare the figures of rows with those that follow, and note what became of them.

        Args:
            rows: of the result.
            derived: what follows for each of them, as far as it does.
            columns: those that are compared; None for all that follow.
        """
        tolerance = TOLERANCES[self.level]
        for row, figures in zip(rows, derived, strict=True):
            for column, value in figures.items():
                if columns is not None and column not in columns:
                    continue
                has = cell(row, column)
                self.checked += 1
                if has == value:
                    continue
                difference = Difference(row["ood"], column, has, value)
                if _is_near(has, value, tolerance.of(column, row)):
                    self.word = "within tolerance" if self.holds else self.word
                    if self.largest is None or _by(difference) > _by(self.largest):
                        self.largest = difference
                else:
                    self.word = "different"
                    self.differences.append(difference)


def _is_near(one: object, other: object, allowed: float) -> bool:
    return isinstance(one, float) and isinstance(other, float) and abs(one - other) <= allowed


def _by(difference: Difference) -> float:
    return abs(float(str(difference.stored)) - float(str(difference.derived)))
