"""Scores of pixels as they are counted, by each of several processes, and added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from oodbench.errors import DataError, OODBenchError
from oodbench.hardware import gathered, rank_and_world
from oodbench.metrics.streamed import StreamedScores
from oodbench.reporting import reason_of
from oodbench.results.rows import FOREGROUND, Row, with_columns
from oodbench.tasks.pixels import Quality


@dataclass
class Counted:
    """What one detector's scores of a set are counted in.

    Args:
        stream: OOD pixels against all others.
        objects: OOD pixels against those of ID objects, where these can be told.
        seconds: that scoring took.
        said: its warnings.
        failure: what it raised; the rest means nothing then.
    """

    stream: StreamedScores
    objects: StreamedScores | None
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)
    failure: Exception | None = None

    def for_others(self) -> Counted:
        """The same for other processes, which need not know the class of what was raised."""
        if self.failure is None:
            return self
        return replace(self, failure=OODBenchError(reason_of(self.failure)))

    def merge(self, other: Counted) -> None:
        """Add what another process has counted."""
        self.failure = self.failure or other.failure
        self.said += [text for text in other.said if text not in self.said]
        self.seconds = max(self.seconds, other.seconds)
        self.stream.merge(other.stream)
        if self.objects is not None and other.objects is not None:
            self.objects.merge(other.objects)


def added_up(counted: Sequence[Counted]) -> list[Counted]:
    """What all processes have counted, for each detector."""
    own, _ = rank_and_world()
    shares = gathered([one.for_others() for one in counted])
    for rank, share in enumerate(shares):
        if rank != own:
            for one, other in zip(counted, share, strict=True):
                one.merge(other)
    return list(counted)


def of_all(quality: Quality) -> Quality:
    """What all processes have counted of a network's predictions."""
    whole = Quality(len(quality.confusion))
    for one in gathered(quality):
        whole.merge(one)
    return whole


def figures_of(name: str, stream: StreamedScores, objects: StreamedScores | None) -> Row:
    """Columns of an OOD set's row; those against ID objects alone where they are counted."""
    try:
        figures, errors = stream.metrics()
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    row = with_columns({"n_id": stream.n_id, "n_ood": stream.n_ood}, figures)
    if objects is not None and objects.n_id:
        against_objects, more = objects.metrics()
        columns = {f"{metric}_foreground": against_objects[metric] for metric in FOREGROUND}
        row = with_columns(row, columns)
        row["n_id_foreground"] = objects.n_id
        errors = {metric: max(error, more[metric]) for metric, error in errors.items()}
    row["binning_error"] = max(errors.values())
    return row
