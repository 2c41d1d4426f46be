"""The store of results: a file for each, never replaced, whole whatever happens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from oodbench import ResultStore, files
from oodbench.errors import OODBenchError, StorageError
from oodbench.results import leaderboard, scores, stored
from oodbench.results.rows import row_id
from oodbench.results.verify import verify
from tests.conftest import REPOSITORY
from tests.helpers.rows import TOY, evaluate, numbered


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
    read = ResultStore(tmp_path).rows("toy")
    assert sorted(read, key=lambda row: row["row_id"]) == sorted(rows, key=lambda row: row[key])
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
        assert len(store.results(folder.name)) == len(stored.paths_in(folder)) > 0


def test_results_that_lie_together_are_the_same(tmp_path: Path) -> None:
    results = evaluate(detectors=["energy", "msp"], leaderboards=tmp_path)
    store = ResultStore(tmp_path)
    before = store.rows("toy")
    pack = store.pack("toy")
    assert [path.name for path in pack.parent.glob("*.json*")] == [pack.name]
    assert store.rows("toy") == before
    assert {r.rows[0]["detector"] for r in store.results("toy")} == {"energy", "msp"}
    assert store.append(results.rows) == 0, "what is there is not written again"
    evaluate(detectors="maxlogit", leaderboards=tmp_path)
    assert len(store.results("toy")) == 3
    first = pack.read_bytes()
    store.pack("toy")
    assert len(stored.read_pack(pack)) == 3
    assert pack.read_bytes() != first
    assert all(verdict.holds for verdict in verify(tmp_path)), "the scores are those of the pack"


def test_a_result_is_replaced_by_one_made_again(tmp_path: Path) -> None:
    evaluate(detectors="energy", leaderboards=tmp_path)
    store = ResultStore(tmp_path)
    (old,) = store.results("toy")
    kept = scores.read(old.scores_path)  # type: ignore[arg-type]
    rows = [{**row, "seconds": 1.5} for row in old.rows]
    assert store.replace(old, rows, kept) == old.path, "the same figures are the same file"  # type: ignore[arg-type]
    (same,) = store.results("toy")
    assert (same.rows[0]["seconds"], same.scores) == (1.5, old.scores)
    store.pack("toy")
    other = [{**row, "torch": "9.9"} for row in old.rows]
    other = [{**row, "row_id": row_id(row)} for row in other]  # type: ignore[typeddict-item]
    path = store.replace(same, other, kept)  # type: ignore[arg-type]
    (new,) = store.results("toy")
    assert new.path == path != old.path
    assert not old.scores_path.exists()  # type: ignore[union-attr]


def test_scores_and_what_was_not_noted_join_a_row(tmp_path: Path) -> None:
    results = evaluate(detectors="energy", leaderboards=tmp_path / "again")
    (again,) = ResultStore(tmp_path / "again").results("toy")
    kept = scores.read(again.scores_path)  # type: ignore[arg-type]
    store = ResultStore(tmp_path / "old")
    unnoted = [{**row, "arguments": None, "detector_code": None} for row in results.rows]
    store.append(unnoted)  # type: ignore[arg-type]
    assert store.append(results.rows, kept) == 0
    (joined,) = store.results("toy")
    assert joined.scores is not None
    for row, whole in zip(joined.rows, again.rows, strict=True):
        assert row["detector_code"] == whole["detector_code"]
        assert row["row_id"] == whole["row_id"]


def test_names_of_files_differ_in_more_than_case(tmp_path: Path) -> None:
    rows = [numbered(i, detector=name) for i, name in enumerate(("mine", "Mine", "MINE"))]
    store = ResultStore(tmp_path)
    assert store.append(rows) == 3
    names = [path.name.casefold() for path in store.path("toy").iterdir()]
    assert len({*names}) == 3
    for folder in (REPOSITORY / "leaderboards" / "results").iterdir():
        paths = [path.name for path in (*folder.iterdir(), *stored.paths_in(folder))]
        assert len({path.casefold() for path in paths}) == len({*paths})


def test_results_that_cannot_be_written_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(detectors="energy", leaderboards=tmp_path)

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise StorageError(f"cannot write to {path}")

    for name in ("write_text", "write_bytes", "writable_dir", "make_dir"):
        monkeypatch.setattr(files, name, refuse)
    assert len(ResultStore(tmp_path).rows("toy")) == 7
    assert leaderboard.page(TOY, tmp_path).startswith("# toy")
    assert {verdict.word for verdict in verify(tmp_path)} == {"identical"}


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
