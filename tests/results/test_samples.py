"""Scores for people: tables, histograms, ROC curves, and csv files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import auc

from oodbench import ResultStore
from oodbench.data.samples import ImageArrays
from oodbench.errors import OODBenchError, OptionError
from oodbench.results import samples, stored
from oodbench.results.samples import SampleScores, SampleSet
from tests.helpers.cli import CLI
from tests.helpers.images import arrays
from tests.helpers.rows import by_ood, evaluate

HAND = SampleScores(
    "toy", "mine", {"k": 1}, "ce", "net", 0,
    (
        SampleSet("id", "id", np.array([0.0, 1.0, 2.0, 3.0]), list("abab"), list("wxyz")),
        SampleSet("a", "far", np.array([2.0, 4.0])),
        SampleSet("b", "far", np.array([5.0])),
        SampleSet("c", "shifted", np.array([10.0])),
    ),
    ("c",),
)  # fmt: skip


def test_by_hand() -> None:
    assert HAND.id.tolist() == [0, 1, 2, 3, 10], "a shifted set that counts as ID"
    assert HAND.of("far").tolist() == [2, 4, 5]
    assert HAND.of("b").tolist() == [5]
    table = HAND.to_pandas()
    assert list(table.columns) == ["set", "group", "path", "label", "score"]
    assert table.iloc[1].tolist() == ["id", "id", "x", "b", 1.0]
    assert table[table["set"] == "a"]["path"].isna().all()
    cells = HAND.histogram("far", bins=5)
    assert cells["low"].tolist() == [0, 2, 4, 6, 8]
    assert cells["id"].tolist() == [2, 2, 0, 0, 1]
    assert cells["ood"].tolist() == [0, 1, 2, 0, 0]
    curve = HAND.roc("b")
    at_three = curve[curve["threshold"] == 5.0].iloc[0]
    assert (at_three["tpr"], at_three["fpr"]) == (1.0, 0.2)
    with pytest.raises(OptionError, match="no scores of 'bb'"):
        HAND.of("bb")


def test_results_have_the_scores_that_made_them(tmp_path: Path) -> None:
    results = evaluate(detectors=["energy", "msp"], leaderboards=tmp_path)
    rows = by_ood([row for row in results if row["detector"] == "energy"])
    energy, msp = results.scores
    assert (energy.detector, msp.detector) == ("energy", "msp")
    for name in ("near-a", "far-c"):
        curve = energy.roc(name)
        assert auc(curve["fpr"], curve["tpr"]) == pytest.approx(rows[name]["auroc"], abs=1e-12)
    assert energy.sets[0].labels is not None
    assert {*energy.sets[0].labels} == {"a", "b"}
    kept = {r.rows[0]["detector"]: r for r in ResultStore(tmp_path).results("toy")}["energy"]
    again = samples.of_result(kept)
    assert again.of("far") == pytest.approx(energy.of("far"), abs=1e-6)
    with pytest.raises(OODBenchError, match="no scores were kept"):
        samples.of_result(stored.StoredResult(kept.path, kept.rows))


def test_tables_of_scores_on_the_command_line(run: CLI, digits: list[str], tmp_path: Path) -> None:
    ran = run("eval", "--detector", "msp,energy", *digits, "--scores", tmp_path / "scores")
    assert ran.status == 0
    paths = sorted((tmp_path / "scores").glob("*.csv"))
    assert [path.name.split("-")[0] for path in paths] == ["energy", "msp"]
    table = pd.read_csv(paths[0])
    assert list(table.columns) == ["set", "group", "path", "label", "score"]
    assert (table["set"] == "id").sum() == 100
    assert table["score"].notna().all()
    assert str(paths[0]) in ran.out


def test_by_hand_to_the_edges(tmp_path: Path) -> None:
    cells = HAND.histogram("far", bins=5)
    assert cells["high"].tolist() == [2, 4, 6, 8, 10]
    assert len(HAND.histogram("far")) == 50
    with pytest.raises(OptionError, match="no scores of 'id'"):
        HAND.of("id")
    with pytest.raises(OptionError, match="Did you mean 'shifted'"):
        HAND.of("shiftd")
    first = replace(HAND, sets=(HAND.sets[0], replace(HAND.sets[1], name="mnist")))
    with pytest.raises(OptionError, match="Did you mean 'mnist'"):
        first.of("mnst")
    slashed = replace(HAND, detector="their/own")
    path = slashed.to_csv(tmp_path)
    assert path.parent == tmp_path
    assert re.fullmatch(r"their-own-ce-seed0-[0-9a-f]{8}\.csv", path.name)
    assert path.read_text().splitlines()[:3] == [
        "set,group,path,label,score", "id,id,w,a,0.0", "id,id,x,b,1.0"
    ]  # fmt: skip
    assert path.read_text().splitlines()[5] == "a,far,,,2.0"
    names = {"benchmark": "b", "detector_options": {"k": 2}, "method": "palm", "backbone": "other"}
    files = {replace(slashed, **{name: value}).to_csv(tmp_path) for name, value in names.items()}
    assert len({path, *files}) == 5, "what differs has files of its own"


def test_a_set_has_labels_and_paths_where_there_is_a_score_for_each() -> None:
    images = arrays(3)
    values = np.arange(3.0)
    of_images = samples.sample_set("a", "far", values, images)
    assert of_images.labels == [images.classes[label] for label in images.labels]
    assert of_images.paths is None
    images.paths = ("x", "y", "z")  # type: ignore[attr-defined]
    assert samples.sample_set("a", "far", values, images).paths == ("x", "y", "z")
    boxes = samples.sample_set("a", "far", np.arange(4.0), images)
    assert (boxes.labels, boxes.paths) == (None, None)
    unnamed = ImageArrays("noise", images.images, images.labels, ())
    assert samples.sample_set("a", "far", values, unnamed).labels is None


def test_shifted_sets_of_a_stored_result_count_as_id_where_they_did(tmp_path: Path) -> None:
    evaluate(detectors=["msp"], leaderboards=tmp_path)
    (kept,) = ResultStore(tmp_path).results("toy")
    single = next(row for row in kept.rows if not row["is_mean"])
    shifted = [
        {**row, "group": "shifted"} if row["ood"] == single["ood"] else row for row in kept.rows
    ]
    plain = samples.of_result(replace(kept, rows=tuple(shifted)))
    assert plain.counts_as_id == ()
    spectrum = tuple({**row, "spectrum_accuracy": 0.5} for row in shifted)
    found = samples.of_result(replace(kept, rows=spectrum))
    assert found.counts_as_id == (single["ood"],)
    assert len(found.id) == len(plain.id) + len(plain.of(single["ood"]))
