"""Rows, their store, the evaluator that makes them, and the pages made of them."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest
import torch

import oodbench
from oodbench import metrics
from oodbench.results.rows import COLUMNS, ENDS, METRICS, SCHEMA, row_id
from oodbench.results.store import ResultStore
from tests.conftest import REPOSITORY
from tests.helpers.rows import (
    FAR_A,
    FAR_B,
    FAR_C,
    ID,
    NEAR_A,
    TOY,
    TUNED,
    absent,
    by_ood,
    evaluate,
    model,
    scores_of,
)


def test_group_means_are_unweighted() -> None:
    """Each set counts alike, however many images it has."""
    rows = by_ood(evaluate())
    for group, members in {
        "near": ["near-a", "near-b"],
        "far": ["far-a", "far-b", "far-c"],
    }.items():
        for name in METRICS:
            by_hand = sum(rows[member][name] for member in members) / len(members)
            assert rows[group][name] == pytest.approx(by_hand, abs=1e-12)
        assert rows[group]["is_mean"] is True
        assert rows[group]["ood_sets"] == members
        assert rows[group]["n_ood"] == sum(rows[member]["n_ood"] for member in members)
        for name in METRICS:
            low, high = rows[group][f"{name}_low"], rows[group][f"{name}_high"]
            assert low <= rows[group][name] <= high
            assert high > low


def test_the_mean_of_one_set_has_its_intervals() -> None:
    rows = by_ood(evaluate(ood=["near-b", "far-a", "far-b"]))
    for name in ENDS:
        assert rows["near(near-b)"][name] == rows["near-b"][name]


def test_the_intervals_of_a_mean_are_of_all_its_sets() -> None:
    """As the metrics make them, from the scores of all sets and the ID scores that they share."""
    rows = by_ood(evaluate(detectors="energy"))
    expected = metrics.mean_intervals(scores_of(ID), [scores_of(s) for s in (FAR_A, FAR_B, FAR_C)])
    assert set(expected) == set(ENDS)
    for name in ENDS:
        assert rows["far"][name] == pytest.approx(expected[name], abs=2e-2), name


def test_rows_have_the_columns_and_say_what_made_them() -> None:
    results = evaluate(detectors=[oodbench.create_detector("knn", k=7)], command="oodbench eval")
    frame = results.to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame.columns[:9]) == [
        "detector", "detector_options", "method", "backbone", "id", "benchmark", "ood", "group",
        "seed",
    ]  # fmt: skip
    assert len(frame) == len(results) == 7
    for row in results:
        assert set(row) <= set(COLUMNS)
        assert row["detector"] == "knn"
        assert row["detector_options"]["k"] == 7
        assert row["method"] == "external"
        assert row["schema"] == SCHEMA
        assert row["command"] == "oodbench eval"
        assert torch.__version__.startswith(row["torch"].partition("+")[0])
        assert row["id_fingerprint"] == ID.load("test").fingerprint
        assert row["id_train_fingerprint"] == ID.load("train").fingerprint
        assert len(row["weights"]) == 64
        assert row["created"].endswith("+00:00")
        assert 0 <= row["auroc"] <= 1
    near = by_ood(results)["near-a"]
    assert near["ood_fingerprint"] == NEAR_A.load("test").fingerprint


def test_weights_digest_tells_networks_apart() -> None:
    digests = {evaluate(model=model(seed)).rows[0]["weights"] for seed in (0, 1, 0)}
    assert len(digests) == 2


def test_json_is_what_it_says() -> None:
    results = evaluate(dataclasses.replace(TOY, far=(FAR_A, absent("away"))))
    said = json.loads(results.to_json())
    assert said["rows"] == json.loads(json.dumps(results.rows))
    assert "/data/away" in said["missing"]["away"]
    assert said["warnings"] == []


def test_results_add_up() -> None:
    one, other = evaluate(), evaluate(detectors="energy")
    both = one + other
    assert len(both) == 14
    assert [row["detector"] for row in both] == ["msp"] * 7 + ["energy"] * 7


def test_equal_measurements_are_the_same_row() -> None:
    first = evaluate().rows
    time.sleep(1.1)  # another time of creation
    again = evaluate(command="another command").rows
    assert [row["row_id"] for row in again] == [row["row_id"] for row in first]
    assert first[0]["created"] != again[0]["created"]
    assert len({row["row_id"] for row in first}) == len(first)
    assert row_id(first[0]) == first[0]["row_id"]


@pytest.mark.parametrize(
    "other",
    [
        lambda: evaluate(detectors="energy"),
        lambda: evaluate(model=model(1)),
        lambda: evaluate(seed=1),
        lambda: evaluate(dataclasses.replace(TOY, name="other")),
        lambda: evaluate(mean=(0.4,)),
    ],
    ids=["detector", "weights", "seed", "benchmark", "preprocessing"],
)
def test_another_measurement_is_another_row(other: Any) -> None:
    first = {row["row_id"] for row in evaluate()}
    assert not first & {row["row_id"] for row in other()}


def test_rows_from_before_a_column_was_there_keep_their_id() -> None:
    store = ResultStore(REPOSITORY / "leaderboards")
    added = COLUMNS[COLUMNS.index("tuned") :]
    kinds: set[tuple[str, ...]] = set()
    for path in sorted((REPOSITORY / "leaderboards" / "results").iterdir()):
        for stored in map(dict, store.rows(path.name)):
            assert row_id(stored) == stored["row_id"]
            empty = tuple(later for later in added if stored.get(later) is None)
            if empty in kinds:  # whether a column is there depends on no other column's value
                continue
            kinds.add(empty)
            for later in empty:
                assert row_id({**stored, later: None}) == stored["row_id"]
                stored.pop(later, None)
                assert row_id(stored) == row_id({**stored, later: None})
    assert len(kinds) > 3
    made = evaluate().rows[0]
    of_tasks = ("tuned", "id_miou", "id_map", "binning_error", "modality")
    assert added[:8] == (*of_tasks, "gap", "gap_low", "gap_high")
    assert added[8:12] == ("accelerator", "processor", "threads", "notes")
    for later, value in (("tuned", TUNED), ("id_miou", 0.5), ("modality", "audio"), ("gap", 0.1)):
        assert made[later] is None
        assert row_id({k: v for k, v in made.items() if k != later}) == made["row_id"]
        assert row_id({**made, later: value}) != made["row_id"]
