"""Scores for people: tables, histograms, ROC curves, and csv files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import auc

from oodbench import ResultStore
from oodbench.errors import OODBenchError, OptionError
from oodbench.results import samples, stored
from oodbench.results.samples import SampleScores, SampleSet
from tests.helpers.cli import CLI
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
