"""Rows, their store, the evaluator that makes them, and the pages made of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import oodbench
from oodbench import (
    Contender,
    DatasetSpec,
    Detector,
    Evaluator,
    Outputs,
    Protocol,
    ResultStore,
    metrics,
)
from oodbench.data.samples import ImageArrays, Samples
from oodbench.errors import (
    DataError,
    MissingDataError,
    MissingOutputError,
    OODBenchError,
    OptionError,
    StorageError,
)
from oodbench.registry import BENCHMARKS, DETECTORS
from oodbench.results import leaderboard, seeds
from oodbench.results.rows import COLUMNS, ENDS, METRICS, SCHEMA, row_id
from tests.conftest import REPOSITORY
from tests.helpers.pages import PAGE, entry, tables
from tests.helpers.rows import (
    CPU,
    FAR_A,
    FAR_B,
    FAR_C,
    ID,
    NEAR_A,
    PREPROCESS,
    TOY,
    absent,
    by_ood,
    evaluate,
    images,
    model,
    numbered,
    spec,
)

# Rows


def scores_of(spec: DatasetSpec) -> Tensor:
    """Energies of a set's test images on the network that is evaluated."""
    samples = spec.load("test")
    x = torch.stack([PREPROCESS(samples[i]) for i in range(len(samples))])
    with torch.no_grad():
        return -model()(x).double().logsumexp(dim=1)


def test_figures_are_those_of_the_scores() -> None:
    """A row is what the metrics say of the detector's scores, nothing in between."""
    rows = by_ood(evaluate(detectors="energy"))
    test = ID.load("test")
    for chosen in TOY.ood:
        row = rows[chosen.spec.name]
        expected = metrics.all_metrics(scores_of(ID), scores_of(chosen.spec))
        for name in METRICS:
            assert row[name] == pytest.approx(expected[name], abs=1e-4), (row["ood"], name)
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
        assert (row["n_id"], row["n_ood"]) == (60, len(chosen.spec.load("test")))
        assert row["group"] == chosen.group
        assert row["is_mean"] is False

    x = torch.stack([PREPROCESS(test[i]) for i in range(60)])
    with torch.no_grad():
        right = model()(x).argmax(dim=1).numpy() == test.labels
    assert all(row["id_accuracy"] == pytest.approx(right.mean()) for row in rows.values())


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


TUNED = {"ood": ["toy-synthetic"], "fingerprint": "f" * 64, "auroc": 0.9, "tried": 4}


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
    for path in sorted((REPOSITORY / "leaderboards" / "results").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            stored = json.loads(line)
            assert row_id(stored) == stored["row_id"]
            for later in COLUMNS[COLUMNS.index("tuned") :]:
                if stored.get(later) is None:
                    assert row_id({**stored, later: None}) == stored["row_id"]
                    stored.pop(later, None)
                    assert row_id(stored) == row_id({**stored, later: None})
    made = evaluate().rows[0]
    of_tasks = ("tuned", "id_miou", "id_map", "binning_error", "modality")
    added = COLUMNS[COLUMNS.index("tuned") :]  # whatever came after these came at the end
    assert added[:8] == (*of_tasks, "gap", "gap_low", "gap_high")
    assert added[8:12] == ("accelerator", "processor", "threads", "notes")
    for later, value in (("tuned", TUNED), ("id_miou", 0.5), ("modality", "audio"), ("gap", 0.1)):
        assert made[later] is None
        assert row_id({k: v for k, v in made.items() if k != later}) == made["row_id"]
        assert row_id({**made, later: value}) != made["row_id"]


# What is missing, and what was chosen


def test_missing_sets_are_named_and_left_out_of_the_averages() -> None:
    lines: list[str] = []
    some = dataclasses.replace(TOY, near=(NEAR_A, absent("tin")), far=(FAR_A, FAR_B))
    results = evaluate(some, report=lines.append)
    rows = by_ood(results)
    assert set(rows) == {"near-a", "near(near-a)", "far-a", "far-b", "far"}
    assert rows["near(near-a)"]["auroc"] == rows["near-a"]["auroc"]
    assert set(results.missing) == {"tin"}
    assert "/data/tin" in results.missing["tin"]
    assert any("tin" in line and "missing" in line for line in lines)


def test_chosen_sets_name_the_average_that_they_are() -> None:
    rows = by_ood(evaluate(ood=["near-b", "far-c", "far-a"]))
    assert set(rows) == {"near-b", "far-a", "far-c", "near(near-b)", "far(far-c, far-a)"}
    mean = (rows["far-a"]["auroc"] + rows["far-c"]["auroc"]) / 2
    assert rows["far(far-c, far-a)"]["auroc"] == pytest.approx(mean)
    assert rows["near(near-b)"]["group"] == "near"


def test_whole_groups_keep_their_names_however_they_are_chosen() -> None:
    rows = by_ood(evaluate(ood=["near-b", "near-a"]))
    assert set(rows) == {"near-a", "near-b", "near"}


def test_a_group_without_sets_has_no_average() -> None:
    some = dataclasses.replace(TOY, near=(absent("tin"),))
    rows = by_ood(evaluate(some))
    assert set(rows) == {"far-a", "far-b", "far-c", "far"}


def test_no_ood_set_at_all() -> None:
    nothing = dataclasses.replace(TOY, near=(absent("tin"),), far=(absent("svhn"),))
    with pytest.raises(MissingDataError, match=r"/data/tin.*/data/svhn"):
        evaluate(nothing)
    with pytest.raises(OptionError, match="`ood="):
        evaluate(dataclasses.replace(TOY, near=(), far=()))


def test_a_set_cannot_bear_the_name_of_an_average() -> None:
    with pytest.raises(OptionError, match="'near'"):
        evaluate(dataclasses.replace(TOY, near=(spec("near", 9, 150, 3),)))


def test_missing_id_set_is_an_error() -> None:
    with pytest.raises(MissingDataError, match="/data/toy"):
        evaluate(dataclasses.replace(TOY, id=absent("toy")))


def test_missing_training_images_matter_only_where_something_is_fitted() -> None:
    def load(split: str) -> Samples:
        if split == "train":
            raise MissingDataError("toy/train: not found in /data/toy/train.")
        return ID.load(split)

    some = dataclasses.replace(TOY, id=DatasetSpec("toy", load, ("train", "test")))
    assert len(evaluate(some)) == 7
    assert evaluate(some).rows[0]["id_train_fingerprint"] is None
    with pytest.raises(MissingDataError, match="/data/toy/train"):
        evaluate(some, detectors="knn")


def test_one_class_is_an_error() -> None:
    def load(split: str) -> Samples:
        return images(f"toy/{split}", 9, 100, 0, classes=1)

    with pytest.raises(DataError, match="one class"):
        evaluate(dataclasses.replace(TOY, id=DatasetSpec("toy", load, ("train", "test"))))


def test_splits_of_different_classes_are_an_error() -> None:
    def load(split: str) -> Samples:
        return images(f"toy/{split}", 9, 100, 0, classes=3 if split == "train" else 2)

    with pytest.raises(DataError, match=r"toy/train and toy/test.*'c'"):
        evaluate(
            dataclasses.replace(TOY, id=DatasetSpec("toy", load, ("train", "test"))),
            detectors="knn",
        )


def test_ood_images_that_are_id_test_images_are_warned_about() -> None:
    def load(split: str) -> Samples:
        both = np.concatenate([ID.load("test").images[:3], FAR_A.load("test").images])  # type: ignore[attr-defined]
        return ImageArrays("mixed/test", both, np.zeros(33, int), ("x",))

    lines: list[str] = []
    mixed = dataclasses.replace(TOY, far=(DatasetSpec("mixed", load),))
    results = evaluate(mixed, report=lines.append)
    assert len(results.warnings) == 1
    for word in ("3 of the 33", "mixed", "toy/test"):
        assert word in results.warnings[0]
    assert any(results.warnings[0] in line for line in lines)
    assert evaluate().warnings == []


def test_detector_that_needs_what_the_network_lacks_names_it() -> None:
    @dataclass
    class Thermometer(Detector):
        needs: ClassVar[frozenset[str]] = frozenset({"temperature"})

        def score(self, outputs: Outputs) -> Tensor:
            return outputs.extra["temperature"]

    with pytest.raises(MissingOutputError, match=r"Thermometer.*temperature"):
        evaluate(detectors=Thermometer())


def test_without_detectors() -> None:
    with pytest.raises(OptionError, match="at least one detector"):
        evaluate(detectors=[])


def test_an_evaluation_that_fails_stores_nothing(tmp_path: Path) -> None:
    network = model()
    with torch.no_grad():
        network[3].weight.fill_(torch.nan)  # type: ignore[index]
    with pytest.raises(OODBenchError, match="toy/test"):
        evaluate(model=network, leaderboards=tmp_path / "boards")
    assert not (tmp_path / "boards").exists()


def test_appending_twice_writes_once(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert store.append([numbered(0), numbered(1)]) == 2
    content = store.path("toy").read_bytes()
    assert store.append([numbered(1), numbered(0)]) == 0
    assert store.path("toy").read_bytes() == content
    assert store.append([numbered(1), numbered(2), numbered(2)]) == 1
    assert [r["number"] for r in store.rows("toy")] == [0, 1, 2]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = json.loads(json.dumps(evaluate(leaderboards=tmp_path).rows))
    assert ResultStore(tmp_path).rows("toy") == rows
    text = (tmp_path / "results" / "toy.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == rows
    evaluate(leaderboards=tmp_path)
    assert (tmp_path / "results" / "toy.jsonl").read_text() == text


def test_only_appends(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.append([numbered(0)])
    before = store.path("toy").read_bytes()
    store.append([numbered(1)])
    assert store.path("toy").read_bytes().startswith(before)


def test_benchmarks_have_a_file_each(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.append(
        [numbered(0), numbered(1, benchmark="cifar100/palm"), numbered(2, benchmark="folder:../x")]
    )
    assert [r["number"] for r in store.rows("cifar100/palm")] == [1]
    assert [r["number"] for r in store.rows("folder:../x")] == [2]
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files[:1] == ["results/cifar100-palm.jsonl"]
    assert len(files) == 3
    assert all(name.startswith("results/") for name in files)


def test_no_rows_no_file(tmp_path: Path) -> None:
    assert ResultStore(tmp_path).append([]) == 0
    assert ResultStore(tmp_path).rows("toy") == []
    assert list(tmp_path.iterdir()) == []


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.append([numbered(0), numbered(1, schema=SCHEMA + 1)])
    content = store.path("toy").read_bytes()
    with pytest.raises(OODBenchError, match=r"line 2.*newer"):
        store.rows("toy")
    with pytest.raises(OODBenchError, match=r"line 2.*newer"):
        store.append([numbered(2)])
    assert store.path("toy").read_bytes() == content


@pytest.mark.parametrize(
    "bad",
    [b"not json", b"[1, 2]", b'"text"', b"{}", b'{"schema": 1}', b'{"schema": null}', b"\xff", b""],
)
def test_a_bad_line_is_named_and_nothing_is_written(bad: bytes, tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.append([numbered(0)])
    path = store.path("toy")
    content = path.read_bytes() + bad + b"\n"
    path.write_bytes(content)
    for attempt in (lambda: store.rows("toy"), lambda: store.append([numbered(1)])):
        with pytest.raises(OODBenchError, match=r"toy\.jsonl, line 2"):
            attempt()
    assert path.read_bytes() == content


def evaluated(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The file and the rows of an evaluation; the last one is a mean."""
    evaluate(leaderboards=folder)
    path = ResultStore(folder).path("toy")
    return path, [json.loads(line) for line in path.read_text().splitlines()]


# what is changed in a row, and what is said of it, with a row_id that was made anew
IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "above one": ({"auroc": 1.2, "auroc_high": 1.3}, "auroc must be a number from 0 to 1"),
    "below zero": ({"fpr95_id": -0.01}, "fpr95_id must be a number from 0 to 1"),
    "percent": ({"aupr_in": 98.5}, "aupr_in must be"),
    "accuracy": ({"id_accuracy": 1.01}, "id_accuracy must be"),
    "no images": ({"n_id": 0}, "n_id must be a whole number of 1 or more"),
    "half an image": ({"n_ood": 20.5}, "n_ood must be"),
    "text": ({"auroc": "0.9"}, 'auroc must be a number from 0 to 1, not "0.9"'),
    "true": ({"auroc": True}, "auroc must be"),
    "null": ({"auroc": None}, "auroc must be"),
    "a list": ({"detector": ["msp"]}, "detector must be text"),
    "no name": ({"method": ""}, "method must be text that is not empty"),
    "no number": ({"seed": "0"}, "seed must be a whole number"),
    "seconds": ({"seconds": -1}, "seconds must be"),
    "mean or not": ({"is_mean": 0}, "is_mean must be true or false"),
    "another group": ({"group": "nearer"}, "group is nearer, but far-a is in the mean of far"),
    "no group": ({"group": ""}, "group must be text that is not empty"),
    "options": ({"detector_options": [1]}, "detector_options must be an object"),
    "time": ({"created": "yesterday"}, "created must be a time"),
    "low above high": ({"auroc_low": 0.9, "auroc_high": 0.1}, "outside of its interval"),
    "outside": ({"auroc": 0.0}, "auroc is 0.0, outside of its interval"),
    "half an interval": ({"aupr_out_low": None}, "aupr_out has half an interval"),
    "other sets": ({"ood_sets": ["mnist"]}, "ood_sets is not its own OOD set"),
    "choice": ({"tuned": {"ood": []}}, "tuned must be"),
    "gap": ({"gap": -1.5}, "gap must be"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_figure_that_cannot_be_is_refused_by_line(case: str, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    fields, told = IMPOSSIBLE[case]
    changed = {**rows[2], **fields}
    rows[2] = {**changed, "row_id": row_id(changed)}
    content = "".join(json.dumps(one) + "\n" for one in rows)
    path.write_text(content)
    with pytest.raises(OODBenchError, match=r"toy\.jsonl, line 3 .*remove the line") as caught:
        ResultStore(tmp_path).rows("toy")
    assert told in str(caught.value)
    with pytest.raises(OODBenchError, match=r"toy\.jsonl, line 3"):
        ResultStore(tmp_path).append([numbered(1)])
    assert path.read_text() == content


@pytest.mark.parametrize("name", [n for n in COLUMNS if n not in ("seconds", "command", "created",
                                  "device", "accelerator", "processor", "threads",
                                  "git_commit", "schema", "row_id")])  # fmt: skip
def test_an_edited_row_is_refused(name: str, tmp_path: Path) -> None:
    """Whatever was changed: the id is a digest of all that was measured."""
    path, rows = evaluated(tmp_path)
    was = rows[1][name]
    now = was + "x" if isinstance(was, str) else 0.5 if was is None or was == 0.25 else 0.25
    path.write_text("".join(json.dumps(one) + "\n" for one in (rows[0], {**rows[1], name: now})))
    with pytest.raises(OODBenchError, match=r"toy\.jsonl, line 2"):
        ResultStore(tmp_path).rows("toy")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", '0.9, "auroc": 0.8'])
def test_what_is_no_json_number_is_refused(word: str, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    line = json.dumps(rows[0]).replace(f'"auroc": {rows[0]["auroc"]!r}', f'"auroc": {word}')
    assert word in line
    path.write_text(line + "\n")
    with pytest.raises(OODBenchError, match=r"toy\.jsonl, line 1"):
        ResultStore(tmp_path).rows("toy")


@pytest.mark.parametrize("name", ["detector", "auroc", "n_id", "ood_sets", "schema", "weights"])
def test_a_row_without_a_column_is_refused(name: str, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    rows[0].pop(name)
    path.write_text(json.dumps({**rows[0], "row_id": row_id(rows[0])}) + "\n")
    with pytest.raises(OODBenchError, match=rf"toy\.jsonl, line 1 .*{name}"):
        ResultStore(tmp_path).rows("toy")


@pytest.mark.parametrize("schema", [0, -1, "1", True, 1.5, None])
def test_a_schema_that_never_was_is_refused(schema: Any, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    changed = {**rows[0], "schema": schema}
    path.write_text(json.dumps({**changed, "row_id": row_id(changed)}) + "\n")
    with pytest.raises(OODBenchError, match=r"toy\.jsonl, line 1"):
        ResultStore(tmp_path).rows("toy")


def test_a_row_twice_is_refused(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    path.write_text(path.read_text() + json.dumps(rows[3]) + "\n")
    with pytest.raises(OODBenchError, match=r"toy\.jsonl, line 8 is the row of line 4"):
        ResultStore(tmp_path).rows("toy")


@pytest.mark.parametrize("name", METRICS)
def test_a_mean_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    at = next(i for i, one in enumerate(rows) if one["ood"] == "far")
    value = rows[at][name]
    changed = {**rows[at], name: value + (0.001 if value < 0.5 else -0.001)}
    assert changed["auroc_low"] < changed["auroc"] < changed["auroc_high"]
    rows[at] = {**changed, "row_id": row_id(changed)}
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    told = rf"line {at + 1} .*{name} .* is not the mean .* of far-a, far-b, far-c"
    with pytest.raises(OODBenchError, match=told):
        ResultStore(tmp_path).rows("toy")


@pytest.mark.parametrize("name", METRICS)
def test_the_intervals_of_a_mean_are_checked(name: str, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    at = next(i for i, one in enumerate(rows) if one["ood"] == "far")
    low, value, high = (rows[at][key] for key in (f"{name}_low", name, f"{name}_high"))
    assert 0 <= low <= value <= high <= 1
    wrong = {f"{name}_low": value + 0.01} if value < 0.5 else {f"{name}_high": value - 0.01}
    for fields, told in (
        (wrong, f"{name} is {value}, outside of its interval"),
        ({f"{name}_low": None}, f"{name} has half an interval"),
        ({f"{name}_high": 1.01}, f"{name}_high must be a number from 0 to 1, or null"),
    ):
        changed = {**rows[at], **fields}
        changed["row_id"] = row_id(changed)
        path.write_text("".join(json.dumps(r) + "\n" for r in [*rows[:at], changed]))
        with pytest.raises(OODBenchError, match=rf"line {at + 1} ") as caught:
            ResultStore(tmp_path).rows("toy")
        assert told in str(caught.value)


def test_means_from_before_they_had_all_intervals_are_read(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    for one in rows:
        if one["is_mean"]:
            one.update(dict.fromkeys(ENDS[2:]))
            one["row_id"] = row_id(one)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert ResultStore(tmp_path).rows("toy") == rows
    page = leaderboard.write(TOY, tmp_path).read_text()
    (line,) = tables(page)[0]
    assert "[" in line["far AUROC"]
    assert "[" not in line["far FPR@95 (ID positive)"]
    assert "older rows" in page


def test_rows_that_others_appended_are_read(tmp_path: Path) -> None:
    """Of another machine, keys in another order, Windows's line ends, a column of theirs."""
    path, _ = evaluated(tmp_path / "mine")
    other, rows = evaluated(tmp_path / "theirs")
    text = other.read_text()
    evaluate(detectors="energy", leaderboards=tmp_path / "theirs", mean=(0.4,))
    theirs = [json.loads(line) for line in other.read_text().removeprefix(text).splitlines()]
    made = [dict(reversed({**one, "device": "mps", "note": "é"}.items())) for one in theirs]
    made = [{**one, "row_id": row_id(one)} for one in made]
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\r\n" for one in made)
    path.write_bytes(path.read_bytes() + lines.encode())
    found = ResultStore(tmp_path / "mine").rows("toy")
    assert len(found) == 2 * len(rows)
    assert found[len(rows) :] == made


def test_interrupted_and_repeated_evaluations_are_no_fault(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows if one["ood"] != "far-b"))
    assert len(ResultStore(tmp_path).rows("toy")) == len(rows) - 1
    evaluate(leaderboards=tmp_path)
    evaluate(leaderboards=tmp_path, seed=1)
    evaluate(detectors=["msp", "energy"], leaderboards=tmp_path)
    assert len(ResultStore(tmp_path).rows("toy")) == 3 * len(rows)


def test_committed_rows_are_read() -> None:
    store = ResultStore(REPOSITORY / "leaderboards")
    paths = sorted((REPOSITORY / "leaderboards" / "results").glob("*.jsonl"))
    assert len(paths) >= 8
    for path in paths:
        assert len(store.rows(path.stem)) == len(path.read_text().splitlines())


def test_a_half_written_line_is_not_read_and_goes(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.append([numbered(0)])
    whole = store.path("toy").read_bytes()
    store.path("toy").write_bytes(whole + b'{"benchmark": "toy", "text": "' + b"x" * 500)
    assert store.rows("toy") == [numbered(0)]
    assert store.append([numbered(1)]) == 1
    content = store.path("toy").read_bytes()
    assert content.startswith(whole)
    assert content == whole + (json.dumps(numbered(1)) + "\n").encode(), "nothing of it is left"
    assert [r["number"] for r in store.rows("toy")] == [0, 1]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="`leaderboards`"):
        ResultStore(tmp_path / "file").append([numbered(0)])


def test_regenerating_changes_no_byte(tmp_path: Path) -> None:
    evaluate(PAGE, detectors=["msp", "knn"], leaderboards=tmp_path)
    path = leaderboard.write(PAGE, tmp_path)
    assert path == tmp_path / "toy.md"
    content, stamp = path.read_bytes(), path.stat().st_mtime_ns
    time.sleep(0.02)
    evaluate(PAGE, detectors=["msp", "knn"], leaderboards=tmp_path)
    assert leaderboard.write(PAGE, tmp_path) == path
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == stamp
    evaluate(PAGE, detectors="energy", leaderboards=tmp_path)
    leaderboard.write(PAGE, tmp_path)
    assert path.read_bytes() != content


def test_page_is_a_function_of_the_rows() -> None:
    rows = [*entry(0.7), *entry(0.8, detector="knn", detector_options={"k": 5})]
    assert leaderboard.render(PAGE, rows) == leaderboard.render(PAGE, iter(list(rows)))


def test_remarks_of_the_benchmark_stand_at_the_head() -> None:
    remarks = ("The ID set is *small*.", "Pixels are far from independent.")
    page = leaderboard.render(dataclasses.replace(PAGE, remarks=remarks), entry(0.7))
    head, _ = page.split("\n## ", 1)
    for text in ("\n\nThe ID set is &#42;small&#42;.\n", "\n\nPixels are far from independent.\n"):
        assert text in head
    without = page
    for text in ("The ID set is &#42;small&#42;.\n\n", "Pixels are far from independent.\n\n"):
        without = without.replace(text, "")
    assert without == leaderboard.render(PAGE, entry(0.7))


def test_every_set_and_figure_is_there() -> None:
    """AUROC, both FPR@95 by their names, AUPR, accuracy: averages and each set."""
    page = leaderboard.render(PAGE, entry(0.7))
    main, *sets, made = tables(page)
    (line,) = main
    assert line["near AUROC"] == "70.00 [69.00, 71.00]"
    assert line["far AUROC"] == "80.00 [79.00, 81.00]"
    assert line["near FPR@95 (ID positive)"] == "30.00"
    assert line["near FPR@95 (OOD positive)"] == "15.00"
    assert line["far FPR@95 (ID positive)"] == "20.00"
    assert line["ID accuracy"] == "90.00"
    assert (line["Detector"], line["Method"], line["Backbone"]) == ("msp", "ce (quick)", "net")
    assert len(sets) == 4
    headings = [text for text in page.splitlines() if text.startswith("### ")]
    assert [h.removeprefix("### ") for h in headings[:4]] == ["near", "far", "near-a", "far-a"]
    for table in sets:
        for column in ("FPR@95 (ID positive)", "FPR@95 (OOD positive)", "AUPR-in", "AUPR-out"):
            assert column in table[0]
    assert sets[3][0]["AUPR-in"] == "40.00"
    assert (
        "FPR@95"
        not in page.replace("FPR@95 (ID positive)", "")
        .replace("FPR@95 (OOD positive)", "")
        .partition("## near, far")[2]
    ), "no FPR is printed without the name of its positive class"
    assert "oodbench 0.1" in made[0]["With"]
    assert "torch 2" in made[0]["With"]
    assert made[0]["When"] == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("protocol", "order"),
    [
        (Protocol(), ["good", "fair", "poor"]),
        (Protocol(rank_by="fpr95_id"), ["good", "fair", "poor"]),
        (Protocol(rank_by="aupr_in", rank_group="far"), ["good", "fair", "poor"]),
        (Protocol(rank_by="fpr95_ood"), ["poor", "fair", "good"]),
    ],
    ids=lambda value: f"{value.rank_by} {value.rank_group}" if isinstance(value, Protocol) else "",
)
def test_ranked_by_the_protocols_metric(protocol: Protocol, order: list[str]) -> None:
    rows = []
    # fpr95_ood is turned round, so that a page that ranks by something else would show
    for name, value in (("fair", 0.7), ("poor", 0.5), ("good", 0.9)):
        rows += entry(value, detector=name, fpr95_ood=value)
    page = leaderboard.render(dataclasses.replace(PAGE, protocol=protocol), rows)
    for table in tables(page)[:5]:
        assert [line["Detector"] for line in table] == order
        assert [line["#"] for line in table] == ["1", "2", "3"]
    assert leaderboard.NAMES[protocol.rank_by] in page.split("Ranked by", 1)[1].split(".")[0]


def test_seeds_are_one_line_with_mean_and_deviation() -> None:
    """Where there are no intervals over images; see test_seeds.py and test_footnotes.py."""
    values = [0.70, 0.73, 0.79]
    bare = dict.fromkeys(("auroc_low", "auroc_high"))
    rows = [r for seed, value in enumerate(values) for r in entry(value, seed, **bare)]
    (line,) = tables(leaderboard.render(PAGE, rows))[0]
    # mean 0.74; deviations -0.04, -0.01, 0.05; sample variance 0.0042 / 2
    assert line["near AUROC"] == "74.00 ± 4.58"
    assert line["near AUROC"] == f"74.00 ± {100 * statistics.stdev(values):.2f}"
    assert line["far AUROC"] == "84.00 ± 4.58"
    assert line["ID accuracy"] == "90.00 ± 0.00"
    assert line["Seeds"] == "0, 1, 2"


def test_a_repeated_measurement_counts_once_and_the_newest() -> None:
    rows = [*entry(0.6), *entry(0.8, created="2026-02-01T00:00:00+00:00", torch="3")]
    page = leaderboard.render(PAGE, rows)
    (line,) = tables(page)[0]
    assert line["near AUROC"] == "80.00 [79.00, 81.00]"
    assert "2026-01-01" not in page


@pytest.mark.parametrize(
    "other",
    [
        {"detector_options": {"k": 3}},
        {"method": "palm"},
        {"recipe": "published"},
        {"recipe_options": {"epochs": 3}},
        {"backbone": "wider"},
        {"recipe": None, "weights": "9" * 64},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_other_settings_are_another_line(other: dict[str, Any]) -> None:
    rows = [*entry(0.6), *entry(0.8, **other)]
    assert len(tables(leaderboard.render(PAGE, rows))[0]) == 2


def test_settings_are_shown() -> None:
    (line,) = tables(leaderboard.render(PAGE, entry(0.6, detector_options={"k": 3, "b": "x|y"})))[0]
    assert line["Settings"] == "b=x\\|y, k=3"


def test_tuned_entries_are_marked() -> None:
    options = {"k": 5}
    rows = [
        *entry(0.8, detector="knn", detector_options=options, tuned=TUNED),
        *entry(0.8, detector="knn", detector_options=options, tuned=None),
        *entry(0.6),
    ]
    page = leaderboard.render(PAGE, rows)
    for table in tables(page):
        assert sorted(line["Detector"] for line in table) == ["knn", "knn †", "msp"]
    assert page.count("\n† ") == 1
    assert "toy-synthetic" in page.partition("\n† ")[2].splitlines()[0]
    # a section without them says nothing of it
    for row in rows[:4]:
        row["id_fingerprint"] = "2" * 64
    whole, other = leaderboard.render(PAGE, rows).split("\n## ")[1:]
    assert ("†" in whole) != ("†" in other)
    assert "†" not in leaderboard.render(PAGE, rows[4:])


def test_rows_without_the_column_are_those_with_nothing_in_it() -> None:
    old, new = entry(0.8), entry(0.8, tuned=None)
    assert [row["row_id"] for row in old] == [row["row_id"] for row in new]
    assert leaderboard.render(PAGE, old) == leaderboard.render(PAGE, new)
    assert len(tables(leaderboard.render(PAGE, [*old, *entry(0.7, 1, tuned=None)]))[0]) == 1


def test_seeds_that_were_tuned_one_by_one_are_one_line() -> None:
    rows = [*entry(0.7, tuned=TUNED), *entry(0.8, 1, tuned={**TUNED, "auroc": 0.8, "tried": 3})]
    (line,) = tables(leaderboard.render(PAGE, rows))[0]
    assert line["Detector"] == "msp †"
    assert line["Seeds"] == "0, 1"
    other = entry(0.8, 1, tuned={**TUNED, "fingerprint": "e" * 64})
    assert len(tables(leaderboard.render(PAGE, [*rows[:4], *other]))[0]) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"id_fingerprint": "2" * 64},
        {"selection": "t", "ood_fingerprint": "2" * 64},
        {"preprocess": {"size": 8, "mode": "L", "resize": "stretch", "mean": [0], "std": [1]}},
        {"preprocess": {"size": 4, "mode": "L", "resize": "crop", "mean": [0], "std": [1]}},
    ],
    ids=["ID images", "OOD images", "size", "resize"],
)
def test_rows_on_other_data_never_share_a_table(other: dict[str, Any]) -> None:
    page = leaderboard.render(PAGE, [*entry(0.6), *entry(0.8, detector="knn", **other)])
    for table in tables(page):
        assert len({line["Detector"] for line in table}) == 1
    assert page.count("\n## ") == 2


def test_a_networks_own_normalisation_is_not_other_data() -> None:
    shape = {"size": 4, "mode": "L", "resize": "stretch", "mean": [0.3], "std": [2]}
    page = leaderboard.render(PAGE, [*entry(0.6), *entry(0.8, detector="knn", preprocess=shape)])
    assert page.count("\n## ") == 1


def test_other_selections_of_sets_never_share_a_table(tmp_path: Path) -> None:
    evaluate(detectors="msp", leaderboards=tmp_path)
    evaluate(detectors="energy", ood=["near-a", "far-a"], leaderboards=tmp_path)
    page = leaderboard.write(TOY, tmp_path).read_text()
    for table in tables(page):
        assert len({line["Detector"] for line in table}) == 1
    assert "## near, far\n" in page
    assert "## near(near-a), far(far-a)\n" in page
    assert page.index("## near, far\n") < page.index("## near(near-a)"), "the most complete first"


@pytest.mark.parametrize("whole_first", [True, False])
def test_a_set_measured_in_two_selections_is_in_both(whole_first: bool, tmp_path: Path) -> None:
    """The row of a set is the same in both evaluations; each of the pages' tables has it."""
    selections: list[list[str] | None] = [None, ["far-a"]]
    for ood in selections if whole_first else reversed(selections):
        evaluate(ood=ood, leaderboards=tmp_path)
    page = leaderboard.write(TOY, tmp_path).read_text()
    whole, part = (page.partition("\n## far(far-a)")[i] for i in (0, 2))
    assert "### far-a\n" in whole
    assert "### near-b\n" in whole
    assert "### far-a\n" in part
    assert "near" not in "".join(t for t in part.splitlines() if t.startswith("### "))
    for table in tables(page):
        (line,) = table
        assert "–" not in [cell for column, cell in line.items() if column != "Settings"]
    assert ", near-a" not in part


def test_rows_written_in_two_parts_are_one_evaluation(tmp_path: Path) -> None:
    """A crash cut the first part short; the rest came later, with another time."""
    whole = entry(0.7)
    later = entry(0.7, created="2026-03-01T00:00:00+00:00")
    expected = tables(leaderboard.render(PAGE, whole))[:-1]
    for cut in range(len(whole) + 1):
        page = leaderboard.render(PAGE, [*whole[:cut], *later[cut:]])
        assert tables(page)[:-1] == expected
        assert page.count("\n## ") == 1


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_an_evaluation_cut_short_does_not_break_the_page(kept: int) -> None:
    page = leaderboard.render(PAGE, entry(0.9, detector="cut")[:kept])
    assert "cut" in page
    page = leaderboard.render(PAGE, [*entry(0.9, detector="cut")[:kept], *entry(0.6)])
    first = tables(page)[0]
    if kept < 3:
        assert [line["Detector"] for line in first] == ["msp", "cut"], "nothing to rank it by"
    assert {line["Detector"]: line["far AUROC"] for line in first}["cut"] == "–"


def test_no_rows_say_how_to_get_some() -> None:
    page = leaderboard.render(PAGE, [])
    assert "No results yet" in page
    assert "oodbench eval" in page


def test_incomplete_groups_are_named_on_the_page(tmp_path: Path) -> None:
    some = dataclasses.replace(TOY, near=(NEAR_A, absent("tin")))
    evaluate(some, leaderboards=tmp_path)
    page = leaderboard.write(some, tmp_path).read_text()
    assert "near(near-a) AUROC" in page
    assert "## near(near-a), far\n" in page


def test_seeds_of_trained_networks_end_on_one_line(tmp_path: Path) -> None:
    benchmark = dataclasses.replace(TOY, preprocess=dataclasses.replace(PREPROCESS, size=8))
    results = oodbench.evaluate(
        benchmark=dataclasses.replace(benchmark, backbone="digits-cnn"),
        detectors=["msp", "energy"],
        recipe="quick",
        recipe_options={"epochs": 1, "batch_size": 16},
        seed=[0, 1],
        hardware=CPU,
        leaderboards=tmp_path,
    )
    assert [row["seed"] for row in results] == [0] * 14 + [1] * 14
    near = [r for r in results if r["detector"] == "msp" and r["ood"] == "near"]
    line = {r["Detector"]: r for r in tables(leaderboard.write(TOY, tmp_path).read_text())[0]}[
        "msp"
    ]
    for metric, name in (("auroc", "AUROC"), ("fpr95_ood", "FPR@95 (OOD positive)")):
        ends = [(r[f"{metric}_low"], r[f"{metric}_high"]) for r in near]
        low, high = seeds.interval([r[metric] for r in near], ends)
        mean = statistics.fmean(r[metric] for r in near)
        told = f"{100 * mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        assert line[f"near {name}"].removesuffix(" ◊").removesuffix(" ¶") == told
    assert line["Seeds"] == "0, 1"
    assert results.rows[0]["recipe_options"]["epochs"] == 1
    assert results.rows[0]["method"] == "ce"


# In a few lines of Python


@pytest.fixture
def forgotten() -> Iterator[None]:
    yield
    DETECTORS.unregister("largest-feature")
    BENCHMARKS.unregister("toy")


@pytest.mark.usefixtures("forgotten")
def test_a_detector_in_ten_lines(tmp_path: Path) -> None:
    @oodbench.register_detector("largest-feature")
    @dataclass
    class LargestFeature(Detector):
        """Minus the largest feature. Higher = more OOD."""

        needs = frozenset({"features"})
        power: float = 1.0

        def score(self, outputs: Outputs) -> Tensor:
            return -(outputs.features.max(dim=1).values ** self.power)

    oodbench.register_benchmark("toy")(TOY)

    assert "largest-feature" in oodbench.list_detectors()
    assert "toy" in oodbench.list_benchmarks()
    results = oodbench.evaluate(
        model(), id="toy", detectors=["largest-feature", "msp"], leaderboards=tmp_path, hardware=CPU
    )
    table = results.to_pandas()
    assert set(table.detector) == {"largest-feature", "msp"}
    assert table[table.ood == "near"].auroc.between(0, 1).all()
    page = leaderboard.write(oodbench.get_benchmark("toy"), tmp_path).read_text()
    assert {line["Detector"] for line in tables(page)[0]} == {"largest-feature", "msp"}
    assert "power=1.0" in page

    tuned = oodbench.create_detector("largest-feature", power="2")
    assert tuned.options() == {"power": 2.0}
    with pytest.raises(OptionError, match="power"):
        oodbench.create_detector("largest-feature", powr=2)


def test_evaluator_takes_detector_objects_and_counts_images() -> None:
    evaluator = Evaluator(TOY, hardware=CPU)
    results = evaluator.run(
        Contender(model(), method="mine", backbone="mlp", seed=4),
        [oodbench.create_detector("msp"), oodbench.create_detector("energy")],
    )
    assert evaluator.forward_passes == 60 + 20 + 50 + 30 + 40 + 9
    for made in results:
        assert (made["method"], made["backbone"], made["seed"]) == ("mine", "mlp", 4)


def test_own_preprocessing_belongs_to_the_network() -> None:
    own = dataclasses.replace(PREPROCESS, mean=(0.1,), std=(0.9,))
    rows = evaluate(preprocess=own).rows
    assert rows[0]["preprocess"]["mean"] == (0.1,)
    assert evaluate(mean=(0.1,), std=(0.9,)).rows[0]["row_id"] == rows[0]["row_id"]
    with pytest.raises(OptionError, match="Preprocess"):
        evaluate(preprocess=lambda image: PREPROCESS(image), mean=(0.1,))


@pytest.mark.parametrize(
    "page", sorted((REPOSITORY / "leaderboards").glob("*.md")), ids=lambda p: p.stem
)
def test_committed_pages_are_made_of_the_committed_rows(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "leaderboards"
    shutil.copytree(REPOSITORY / "leaderboards" / "results", folder / "results")
    (name,) = {row["benchmark"] for row in ResultStore(folder).rows(page.stem)}
    made = leaderboard.write(oodbench.get_benchmark(benchmark=name), folder)
    assert made.name == page.name
    assert made.read_bytes() == page.read_bytes()
