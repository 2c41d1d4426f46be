"""Stores of before, of one line a row: read, and converted when a result is added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oodbench import ResultStore
from oodbench.errors import OODBenchError
from oodbench.results import lines
from tests.helpers.rows import evaluate, numbered

ROWS = [numbered(0), numbered(1), numbered(2, seed=5), numbered(3, ood="digits-8")]


def store_of(folder: Path, rows: list[dict[str, Any]], name: str = "toy") -> Path:
    path = folder / "results" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_are_read_and_nothing_is_written(tmp_path: Path) -> None:
    path = store_of(tmp_path, ROWS)
    before = path.read_bytes()
    assert ResultStore(tmp_path).rows("toy") == ROWS
    assert [*(tmp_path / "results").iterdir()] == [path]
    assert path.read_bytes() == before


def test_the_next_result_converts_them(tmp_path: Path) -> None:
    path = store_of(tmp_path, ROWS)
    store = ResultStore(tmp_path)
    assert store.append([ROWS[1]]) == 0
    assert not path.exists()
    by_id = {row["row_id"]: row for row in store.rows("toy")}
    assert by_id == {row["row_id"]: row for row in ROWS}


def test_rows_of_an_evaluation_are_one_result(tmp_path: Path) -> None:
    rows = json.loads(json.dumps(evaluate(detectors=["msp", "energy"]).rows))
    mixed = [*rows[::2], *rows[1::2]]
    assert sorted(map(len, lines.by_evaluation(mixed))) == [7, 7]
    store_of(tmp_path, mixed)
    ResultStore(tmp_path).append([numbered(0)])
    assert len(ResultStore(tmp_path).results("toy")) == 3


def test_a_set_once_more_is_another_result() -> None:
    rows = [numbered(0), numbered(1, ood="digits-8"), numbered(2), numbered(3, ood="digits-8")]
    found = [[row["number"] for row in result] for result in lines.by_evaluation(rows)]  # type: ignore[arg-type,typeddict-item]
    assert found == [[0, 1], [2, 3]]


def test_a_conversion_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    """Whatever is written already, each row is read once."""
    store = ResultStore(tmp_path)
    store.append(ROWS[:2])
    path = store_of(tmp_path, ROWS)
    ids = sorted(row["row_id"] for row in ROWS)
    assert sorted(row["row_id"] for row in store.rows("toy")) == ids
    store.append(ROWS[:1])
    assert not path.exists()
    assert sorted(row["row_id"] for row in store.rows("toy")) == ids


def test_a_file_that_two_benchmarks_share_stays(tmp_path: Path) -> None:
    others = [numbered(number, benchmark="folder:x/y") for number in (7, 8)]
    mine = numbered(9, benchmark="folder:x-y")
    path = store_of(tmp_path, [*others, mine], "folder-x-y")
    store = ResultStore(tmp_path)
    assert store.rows("folder:x-y") == [mine]
    store.append([numbered(10, benchmark="folder:x-y")])
    assert path.exists()
    assert sorted(row["number"] for row in store.rows("folder:x-y")) == [9, 10]  # type: ignore[typeddict-item]
    assert store.rows("folder:x/y") == others


def test_a_half_written_line_is_not_read(tmp_path: Path) -> None:
    path = store_of(tmp_path, ROWS)
    path.write_bytes(path.read_bytes() + b'{"benchmark": "toy", "text": "' + b"x" * 500)
    assert ResultStore(tmp_path).rows("toy") == ROWS


@pytest.mark.parametrize(
    "bad",
    [b"not json", b"[1, 2]", b'"text"', b"{}", b'{"schema": 1}', b'{"schema": null}', b"\xff", b""],
)
def test_a_bad_line_is_named_and_nothing_is_written(bad: bytes, tmp_path: Path) -> None:
    path = store_of(tmp_path, ROWS[:1])
    content = path.read_bytes() + bad + b"\n"
    path.write_bytes(content)
    store = ResultStore(tmp_path)
    for attempt in (lambda: store.rows("toy"), lambda: store.append([numbered(1)])):
        with pytest.raises(OODBenchError, match=r"toy\.jsonl, line 2"):
            attempt()
    assert path.read_bytes() == content


@pytest.mark.parametrize("fields", [{"auroc": 0.5}, {"auroc": 1.5}, {"schema": 99}, {"n_id": "1"}])
def test_an_edited_line_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    store_of(tmp_path, [ROWS[0], {**ROWS[1], **fields}])
    with pytest.raises(OODBenchError, match=r"toy\.jsonl, line 2"):
        ResultStore(tmp_path).rows("toy")


def test_line_ends_of_windows(tmp_path: Path) -> None:
    path = store_of(tmp_path, ROWS)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert ResultStore(tmp_path).rows("toy") == ROWS
