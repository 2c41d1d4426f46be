"""Results made again from their rows alone: the same detector on the same network and images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.detector import Detector, create_detector
from oodbench.errors import OODBenchError
from oodbench.evaluator import Evaluator
from oodbench.hardware import Hardware
from oodbench.registry import BENCHMARKS
from oodbench.reporting import Report, reason_of
from oodbench.results import networks, scores
from oodbench.results.networks import NotAgainError
from oodbench.results.rows import METRICS, Row, cell
from oodbench.results.scores import Scores
from oodbench.results.stored import StoredResult
from oodbench.results.verdict import SCORES, TOLERANCES, Level, Verdict

DATA = ("id_fingerprint", "ood_fingerprint", "id_train_fingerprint", "n_id", "n_ood")
"""Columns that tell which images a row is of."""

_OF_NETWORK = tuple(
    "benchmark benchmark_version method backbone recipe recipe_options seed precision weights "
    "preprocess selection id_fingerprint modality arguments".split()
)


@dataclass(frozen=True)
class Made:
    """A result that was made again.

    Args:
        rows: those of its result, in the same order.
        scores: those behind them; None where they were counted as they came.
    """

    rows: tuple[Row, ...]
    scores: Scores | None


@dataclass(frozen=True)
class Means:
    """With what results are made again.

    Args:
        hardware: where networks run and are trained.
        folders: where indices of the zoo are, besides the usual places.
        checkpoint: the file of a network's weights, where neither zoo nor cache has them.
        report: told what happens, line by line.
    """

    hardware: Hardware
    folders: Sequence[Path] = ()
    checkpoint: Path | None = None
    report: Report = lambda _: None


def again(
    results: Sequence[StoredResult], level: Level, means: Means
) -> Iterator[tuple[StoredResult, Made | str]]:
    """Each result with what it is when it is made again, or why it cannot be.

    Results on one network are made together: it sees each image once.

    Args:
        results: any.
        level: ``"outputs"`` for the network as it is; ``"network"`` to train it again.
        means: with what.
    """
    groups: dict[str, list[StoredResult]] = {}
    for result in results:
        row = result.rows[0]
        key = json.dumps([cell(row, name) for name in _OF_NETWORK], sort_keys=True)
        groups.setdefault(key, []).append(result)
    for group in groups.values():
        try:
            yield from _on_one_network(group, level, means)
        except OODBenchError as error:
            yield from ((result, str(error)) for result in group)


def _on_one_network(
    results: Sequence[StoredResult], level: Level, means: Means
) -> Iterator[tuple[StoredResult, Made | str]]:
    """The same of results on one network.

    Raises:
        OODBenchError: none of them can be made again.
    """
    row = results[0].rows[0]
    benchmark = _benchmark(row)
    hardware = means.hardware.computing(row["precision"])
    of_rows = {result.path: _detector(result.rows[0]) for result in results}
    contender = networks.contender(
        row,
        benchmark,
        level,
        hardware,
        folders=means.folders,
        checkpoint=means.checkpoint,
        report=means.report,
    )
    asked = row.get("arguments") or {}
    options = dict(asked.get("task_options") or {})
    if row.get("modality") is not None:
        options.setdefault("modality", row["modality"])
    evaluator = Evaluator(
        benchmark,
        ood=_sets(results[0].rows, benchmark, asked),
        hardware=hardware,
        report=means.report,
        command=row["command"],
        task_options=options,
        fit_on=_fit_on(row, asked),
    )
    if evaluator.missing:
        raise NotAgainError("; ".join(evaluator.missing.values()))
    made: dict[str, Made] = {}

    def keep(rows: list[Row], kept: Scores | None) -> None:
        which = _which(rows[0]["detector"], rows[0]["detector_options"])
        made[which] = Made(tuple(rows), kept)

    evaluator.keep = keep
    detectors = [one for one in of_rows.values() if isinstance(one, Detector)]
    failures = evaluator.run(contender, detectors).failures if detectors else {}
    for result in results:
        detector = of_rows[result.path]
        if not isinstance(detector, Detector):
            yield result, detector
            continue
        # with all options of today: some may have come after the row
        one = made.get(_which(result.rows[0]["detector"], detector.options()))
        if one is None:
            yield result, failures.get(detector.label, "it gave no rows")
        else:
            yield result, _in_order(one, result)


def _benchmark(row: Row) -> Benchmark:
    name = row["benchmark"]
    if name not in BENCHMARKS:
        raise NotAgainError(f"the benchmark {name!r} is not known here")
    benchmark = get_benchmark(benchmark=name)
    version = row.get("benchmark_version") or 1
    if version != benchmark.version:
        raise NotAgainError(
            f"it is of version {version} of the benchmark, this is version {benchmark.version}"
        )
    return benchmark


def _detector(row: Row) -> Detector | str:
    """The detector of a row, or why there is none."""
    try:
        detector = create_detector(row["detector"], **row["detector_options"])
    except OODBenchError as error:
        return reason_of(error)
    detector.tuned = row.get("tuned")
    return detector


def _which(detector: str, options: Mapping[str, Any]) -> str:
    return json.dumps([detector, options], sort_keys=True)


def _sets(rows: Sequence[Row], benchmark: Benchmark, asked: Any) -> list[str] | None:
    """The OOD sets of a result, as :meth:`Benchmark.choose` takes them."""
    if asked.get("ood") is not None:
        return [asked["ood"]] if isinstance(asked["ood"], str) else list(asked["ood"])
    groups = {row["ood"]: row["group"] for row in rows if not row["is_mean"]}
    own = {chosen.spec.name: chosen.group for chosen in benchmark.ood}
    if groups == own:
        return None
    return [
        name if own.get(name, benchmark.protocol.group_of_others) == group else f"{group}={name}"
        for name, group in groups.items()
        if not (benchmark.protocol.full_spectrum and own.get(name) == group == "shifted")
    ]


def _fit_on(row: Row, asked: Any) -> str | float | None:
    value: str | float | None = asked.get("fit_on")
    if value is None and row.get("fit_on") is not None:
        raise NotAgainError("its row does not tell on how much of the training set it was fitted")
    return value


def _in_order(made: Made, result: StoredResult) -> Made | str:
    by_set = {row["ood"]: row for row in made.rows}
    if {row["ood"] for row in result.rows} != set(by_set):
        return "its OOD sets and groups are others today"
    return Made(tuple(by_set[row["ood"]] for row in result.rows), made.scores)


def date_of_today() -> str:
    """The date in UTC, ``YYYY-MM-DD``."""
    return datetime.now(UTC).date().isoformat()


# --- compared with what is there --------------------------------------------------------------


def compare(result: StoredResult, made: Made | str, level: Level, verdict: Verdict) -> Verdict:
    """Compare a result with what it is when it is made again.

    Args:
        result: as it is stored.
        made: as it is today, or why it is not.
        level: what was made again.
        verdict: where it is noted what became of it.
    """
    verdict.level = level
    if isinstance(made, str):
        return verdict.leave(made.rstrip("."))
    if (column := other_data(result, made)) is not None:
        return verdict.leave(f"the images here are not those of its rows ({column})")
    if level == "outputs":
        before, now = result.rows[0], made.rows[0]
        for column in ("weights", "preprocess"):
            if json.dumps(cell(before, column)) != json.dumps(cell(now, column)):
                return verdict.refuse(f"its {column} are not those that its figures are made with")
    figures = {*METRICS, *_others(result.rows)}
    verdict.compare(result.rows, made.rows, figures)
    if level == "outputs" and made.scores is not None and result.scores_path is not None:
        _compare_scores(scores.read(result.scores_path), made.scores, verdict)
    if verdict.word == "within tolerance":
        verdict.remarks.append(f"tolerance {TOLERANCES[level]}")
    return verdict


def other_data(result: StoredResult, made: Made) -> str | None:
    """The first column that says that other images were used; None if they are the same."""
    row = result.rows[0]
    asked = row.get("arguments") or {}
    # a detector that learns nothing is beside others in a row: on what part these were fitted
    # is told of the evaluation, and changes none of its figures
    is_unfitted = "fit_on" in asked and row.get("fit_on") is None
    for column in DATA:
        if column == "id_train_fingerprint" and is_unfitted:
            continue
        for one, other in zip(result.rows, made.rows, strict=True):
            if cell(one, column) != cell(other, column):
                return column
    return None


def _others(rows: Sequence[Row]) -> set[str]:
    """Figures that are not of the scores, and intervals' ends, which follow the figures."""
    names = {name for row in rows for name, value in row.items() if isinstance(value, float)}
    ends = {name for name in names if name.endswith(("_low", "_high"))}
    return names - ends - {"seconds", "binning_error"}


def _compare_scores(kept: Scores, now: Scores, verdict: Verdict) -> None:
    """Scores of the same weights differ by rounding alone."""
    spread = float(np.std(kept[scores.ID])) or 1.0
    worst = 0.0
    for key, values in kept.items():
        if key not in now or len(now[key]) != len(values):
            verdict.refuse(f"the scores of {key} are of other samples")
            return
        if key.startswith("correct/"):
            continue
        apart = np.abs(np.asarray(now[key]).astype(values.dtype).astype(np.float64) - values)
        worst = max(worst, float(apart.max()) / spread)
    if worst > SCORES:
        verdict.refuse(
            f"scores differ by up to {worst:.2g} of their standard deviation, more than {SCORES:g}"
        )
    elif worst > 0:
        verdict.remarks.append(f"scores differ by at most {worst:.2g} of their standard deviation")
