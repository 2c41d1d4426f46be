"""The store of results: a file for each, never replaced, whole whatever happens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from oodbench import ResultStore
from oodbench.errors import OODBenchError, StorageError
from oodbench.results import scores
from tests.conftest import REPOSITORY
from tests.helpers.rows import evaluate, numbered


def numbers(folder: Path, benchmark: str = "toy") -> list[int]:
    """The numbers of a store's rows."""
    return sorted(row["number"] for row in ResultStore(folder).rows(benchmark))  # type: ignore[typeddict-item]


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_appending_twice_writes_once(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert store.append([numbered(0)]) == 1
    before = contents(tmp_path)
    assert store.append([numbered(0)]) == 0
    assert contents(tmp_path) == before
    assert store.append([numbered(1), numbered(2, seed=7), numbered(1)]) == 2
    assert before.items() <= contents(tmp_path).items(), "nothing is replaced"
    assert numbers(tmp_path) == [0, 1, 2]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = json.loads(json.dumps(evaluate(leaderboards=tmp_path).rows))
    key = "row_id"
    stored = ResultStore(tmp_path).rows("toy")
    assert sorted(stored, key=lambda row: row["row_id"]) == sorted(rows, key=lambda row: row[key])
    before = contents(tmp_path)
    evaluate(leaderboards=tmp_path)
    assert contents(tmp_path) == before


def test_another_outcome_is_another_result(tmp_path: Path) -> None:
    evaluate(detectors="energy", leaderboards=tmp_path)
    evaluate(detectors="energy", leaderboards=tmp_path, mean=(0.4,))
    assert len(ResultStore(tmp_path).results("toy")) == 2


def test_benchmarks_have_a_folder_each(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.append(
        [numbered(0), numbered(1, benchmark="cifar100/palm"), numbered(2, benchmark="folder:../x")]
    )
    assert numbers(tmp_path, "cifar100/palm") == [1]
    assert numbers(tmp_path, "cifar100-palm") == [1], "asked for by the page's name"
    assert numbers(tmp_path, "folder:../x") == [2]
    folders = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert folders[0] == "cifar100-palm"
    assert len(folders) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_no_rows_no_file(tmp_path: Path) -> None:
    assert ResultStore(tmp_path).append([]) == 0
    assert ResultStore(tmp_path).rows("toy") == []
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_result_is_not_written_over(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.append([numbered(0)])
    (path,) = store.path("toy").iterdir()
    path.write_bytes(b"{")
    with pytest.raises(OODBenchError, match=path.name):
        store.append([numbered(0)])
    assert path.read_bytes() == b"{"


def test_repeated_evaluations_are_no_fault(tmp_path: Path) -> None:
    rows = evaluate(detectors="energy", leaderboards=tmp_path).rows
    evaluate(leaderboards=tmp_path, detectors="energy", seed=1)
    evaluate(detectors=["msp", "energy"], leaderboards=tmp_path)
    assert len(ResultStore(tmp_path).rows("toy")) == 3 * len(rows)


def test_committed_results_are_read() -> None:
    store = ResultStore(REPOSITORY / "leaderboards")
    folders = sorted((REPOSITORY / "leaderboards" / "results").iterdir())
    assert len(folders) >= 8
    for folder in folders:
        assert len(store.results(folder.name)) == len(list(folder.glob("*.json"))) > 0


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="`leaderboards`"):
        ResultStore(tmp_path / "file").append([numbered(0)])


def test_an_evaluation_keeps_the_scores_of_every_sample(tmp_path: Path) -> None:
    evaluate(detectors="energy", leaderboards=tmp_path)
    (result,) = ResultStore(tmp_path).results("toy")
    assert result.scores_path is not None
    kept = scores.read(result.scores_path)
    sets = [row for row in result.rows if not row["is_mean"]]
    assert len(kept["id"]) == sets[0]["n_id"]
    for row in sets:
        assert len(kept[f"ood/{row['ood']}"]) == row["n_ood"]
    assert kept["correct/id"].mean() == pytest.approx(sets[0]["id_accuracy"], abs=0)


def test_scores_join_a_result_that_was_there_without(tmp_path: Path) -> None:
    store, rows = ResultStore(tmp_path), [numbered(0)]
    store.append(rows)
    assert store.append(rows, {"id": np.arange(3.0), "ood/x": np.arange(2.0)}) == 0
    (result,) = store.results("toy")
    assert result.scores_path is not None
    assert scores.read(result.scores_path)["ood/x"].tolist() == [0, 1]
    before = contents(tmp_path)
    store.append(rows, {"id": np.ones(3), "ood/x": np.ones(2)})
    store.append(rows)
    assert contents(tmp_path) == before
