"""Rows of scores that somebody else's code gave: figures, intervals, a result and a page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from oodbench import files, metrics
from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.samples import Samples
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import MissingDataError, OptionError
from oodbench.registry import BENCHMARKS, DETECTORS
from oodbench.results import leaderboard, scores, stored
from oodbench.results.entries import entries_of
from oodbench.results.foreign import Foreign, ForeignSets
from oodbench.results.means import rows_of_means
from oodbench.results.outcome import Results
from oodbench.results.rows import COLUMNS, SCHEMA, Row, cell, row_id, with_columns
from oodbench.results.significance import Sampled, Side
from oodbench.results.store import ResultStore, page_name
from oodbench.results.stored import StoredResult
from oodbench.results.versions import versions

BENCHMARK = "own-scores"
"""The name under which scores are kept that no other is given for."""

GROUP = "far"
"""The group of OOD sets of which none is said."""

BY_POSITION = (
    "The images are not known: scores of other detectors are compared with these in the order in "
    "which they were given."
)
UPSIDE_DOWN = 0.5
"""With every AUROC below this the scores are most likely high for ID."""


def benchmark_of(name: str, id_name: str, sets: ForeignSets | Mapping[str, list[str]]) -> Benchmark:
    """What scores are of, as a benchmark whose images are elsewhere.

    Args:
        name: of it, which no registered benchmark has.
        id_name: the ID set's name.
        sets: the OOD sets.

    Raises:
        OptionError: a benchmark of that name is registered.
    """
    if name in BENCHMARKS or ":" in name:
        raise OptionError(
            f"{name!r} is a benchmark, whose rows are of images that oodbench has read itself. "
            "Give your scores another name."
        )
    groups: dict[str, list[str]] = {}
    if isinstance(sets, ForeignSets):
        for group, ood in sets.ood:
            groups.setdefault(group or GROUP, []).append(ood)
    else:
        groups = dict(sets)
    order = [g for g in ("near", "far") if g in groups]
    return Benchmark(
        name,
        _elsewhere(id_name),
        groups={group: tuple(map(_elsewhere, own)) for group, own in groups.items()},
        preprocess=Preprocess(1, (0.0,), (1.0,), mode="L"),
        protocol=Protocol(rank_group=order[0] if order else next(iter(groups))),
        remarks=("Scores that other code gave; oodbench saw no image and ran no network.",),
    )


def _elsewhere(name: str) -> DatasetSpec:
    def load(split: str) -> Samples:
        raise MissingDataError(f"{name}/{split}: only scores of it are here, no images.")

    return DatasetSpec(name, load, ("train", "test"), "images are elsewhere")


def rows_of(
    sets: ForeignSets,
    detector: str,
    *,
    name: str = BENCHMARK,
    id_name: str = "id",
    backbone: str = "unknown",
    seed: int = 0,
    command: str | None = None,
) -> Results:
    """Figures and intervals of scores, as rows.

    Args:
        sets: the scores.
        detector: what gave them; no detector that is registered, whose code oodbench knows.
        name: of what they are scores on.
        id_name: the ID set's name.
        backbone: the network's name.
        seed: of its training.
        command: what repeats it.

    Raises:
        OptionError: a name that is taken, or an OOD set twice.
    """
    if detector in DETECTORS:
        raise OptionError(
            f"{detector!r} is a detector of oodbench, whose code did not give these scores. Give "
            "yours another name."
        )
    names = [ood for _, ood in sets.ood]
    if len(set(names)) < len(names) or id_name in names:
        raise OptionError(f"each set needs a name of its own: {', '.join([id_name, *names])}.")
    benchmark = benchmark_of(name, id_name, sets)
    about = _about(sets, detector, benchmark, backbone, seed, command)
    singles: list[Row] = []
    for (group, ood), foreign in sets.ood.items():
        figures = metrics.all_metrics(sets.id.scores, foreign.scores)
        figures |= metrics.all_intervals(sets.id.scores, foreign.scores)
        row: Row = {
            **about,
            "ood": ood,
            "group": group or GROUP,
            "is_mean": False,
            "ood_sets": [ood],
            "ood_fingerprint": fingerprint(ood, foreign),
            "n_id": len(sets.id.scores),
            "n_ood": len(foreign.scores),
        }
        singles.append(with_columns(row, figures))
    order = {group: i for i, group in enumerate(benchmark.group_names)}
    singles.sort(key=lambda row: order[row["group"]])
    of_sets = {ood: foreign.scores for (_, ood), foreign in sets.ood.items()}

    def intervals(members: list[int]) -> Mapping[str, float]:
        own = [of_sets[singles[i]["ood"]] for i in members]
        return metrics.mean_intervals(sets.id.scores, own)

    rows = [*singles, *rows_of_means(benchmark, about, singles, intervals=intervals)]
    whole = [with_columns({}, {column: cell(row, column) for column in COLUMNS}) for row in rows]
    for row in whole:
        row["row_id"] = row_id(row)
    results = Results(whole)
    if all(row["auroc"] < UPSIDE_DOWN for row in singles):
        results.warnings.append(
            "every AUROC is below 50 %: the scores are likely higher for ID than for OOD. Say so "
            "with `higher=id`."
        )
    return results


def _about(
    sets: ForeignSets,
    detector: str,
    benchmark: Benchmark,
    backbone: str,
    seed: int,
    command: str | None,
) -> Row:
    of_sets = {ood: fingerprint(ood, foreign) for (_, ood), foreign in sets.ood.items()}
    own = fingerprint(benchmark.id.name, sets.id)
    given = [sets.id.scores.tolist(), *(foreign.scores.tolist() for foreign in sets.ood.values())]
    about: Row = {
        "detector": detector,
        "detector_options": {},
        "method": "external",
        "backbone": backbone,
        "id": benchmark.id.name,
        "benchmark": benchmark.name,
        "seed": seed,
        "recipe": None,
        "recipe_options": {},
        "preprocess": None,
        "precision": "unknown",
        "weights": f"unknown:{files.digest([backbone, seed, files.digest(given)])}",
        "id_train_fingerprint": None,
        "id_fingerprint": own,
        "selection": files.digest([own, of_sets]),
        "seconds": 0.0,
        "device": "unknown",
        **versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "schema": SCHEMA,
        "notes": None if sets.id.paths is not None else [BY_POSITION],
    }
    accuracy: dict[str, Any] = {"id_accuracy": None}
    if sets.id.correct is not None:
        right = np.asarray(sets.id.correct)
        low, high = metrics.proportion_ci(int(right.sum()), len(right))
        accuracy = {"id_accuracy": float(right.mean())}
        accuracy |= {"id_accuracy_low": low, "id_accuracy_high": high}
    return with_columns(about, accuracy)


def fingerprint(name: str, foreign: Foreign) -> str:
    """What tells the samples of a set from others: their paths, or else only how many they are."""
    if foreign.paths is not None:
        return f"paths:{files.digest(list(foreign.paths))}"
    return f"positions:{files.digest([name, len(foreign.scores)])}"


def keep(results: Results, sets: ForeignSets, folder: str | Path) -> Path:
    """Store rows with their scores in a folder of leaderboards, and write its page.

    Returns:
        The page, which is of all scores that were stored under the same name.

    Raises:
        StorageError: the folder cannot be written to.
    """
    kept: dict[str, np.ndarray] = {scores.ID: sets.id.scores}
    kept |= {scores.of_ood(ood): foreign.scores for (_, ood), foreign in sets.ood.items()}
    if sets.id.correct is not None:
        kept[scores.correct(scores.ID)] = np.asarray(sets.id.correct)
    store = ResultStore(folder)
    store.append(results.rows, kept)
    return leaderboard.write(benchmark_of_rows(store.rows(results.rows[0]["benchmark"])), folder)


def benchmark_of_page(page: Path) -> Benchmark | None:
    """What a page is of that :func:`keep` wrote; None of any other.

    Raises:
        OODBenchError: a result that is damaged.
    """
    folder = page.parent / "results" / page.stem
    rows = [row for path in stored.paths_in(folder) for row in stored.read(path).rows]
    is_rated = [row["weights"].startswith("unknown:") and row["preprocess"] is None for row in rows]
    if not rows or not all(is_rated) or page_name(rows[0]["benchmark"]) != page.stem:
        return None
    return benchmark_of_rows(ResultStore(page.parent).rows(rows[0]["benchmark"]))


def benchmark_of_rows(rows: list[Row]) -> Benchmark:
    """What stored scores of others are of."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        own = groups.setdefault(row["group"], [])
        if not row["is_mean"] and row["ood"] not in own:
            own.append(row["ood"])
    return benchmark_of(rows[0]["benchmark"], rows[0]["id"], groups)


def side_of(results: Results, sets: ForeignSets, other: StoredResult) -> Side:
    """Rated scores as something to compare with a stored result of the same images.

    They are taken to be in the order of that result's scores, which nothing here can tell.

    Raises:
        OptionError: another number of scores, or no set of the same name.
    """
    own = {row["ood"]: row for row in other.rows}
    shared = [ood for _, ood in sets.ood if ood in own and not own[ood]["is_mean"]]
    if not shared:
        names = ", ".join(row["ood"] for row in other.rows if not row["is_mean"])
        raise OptionError(
            f"none of your OOD sets has the name of one of {other.path.name}: {names}. Name them "
            "alike, NAME=FILE."
        )
    of_sets = {ood: foreign.scores for (_, ood), foreign in sets.ood.items()}
    for ood in shared:
        counts = len(sets.id.scores), len(of_sets[ood])
        if counts != (own[ood]["n_id"], own[ood]["n_ood"]):
            raise OptionError(
                f"you have {counts[0]:,} ID scores and {counts[1]:,} of {ood}; {other.path.name} "
                f"has {own[ood]['n_id']:,} and {own[ood]['n_ood']:,}. Give scores of the same "
                "images, in the same order."
            )
    kept = {scores.ID: sets.id.scores, **{scores.of_ood(o): of_sets[o] for o in shared}}
    rows = []
    for row in results.rows:
        is_known = row["ood"] in shared or (
            row["is_mean"]
            and row["ood"] in own
            and sorted(row["ood_sets"]) == sorted(own[row["ood"]]["ood_sets"])
        )
        if is_known:
            there = own[row["ood"]]
            images = ("id_fingerprint", "ood_fingerprint", "selection", "preprocess", "benchmark")
            rows.append(with_columns(row, {name: cell(there, name) for name in images}))
    (entry,) = entries_of(rows)
    samples = Sampled(kept)
    return Side(entry.name, entry, {row["row_id"]: samples for row in rows})
