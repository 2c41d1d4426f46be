"""A result's file: what made its rows said once, each row what an evaluation wrote."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from oodbench import ResultStore
from oodbench.errors import OODBenchError
from oodbench.results import leaderboard, stored
from oodbench.results.rows import COLUMNS, ENDS, METRICS, SCHEMA, row_id
from tests.helpers.pages import tables
from tests.helpers.rows import TOY, evaluate, numbered


@functools.cache
def written_by_an_evaluation() -> dict[str, bytes]:
    """The files of one, by their paths; each test has copies of its own."""
    with tempfile.TemporaryDirectory() as name:
        evaluate(detectors="energy", leaderboards=name)
        found = [path for path in Path(name).rglob("*") if path.is_file()]
        return {path.relative_to(name).as_posix(): path.read_bytes() for path in found}


def evaluated(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The file and the rows of a result; the last one is a mean."""
    for name, content in written_by_an_evaluation().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (path,) = ResultStore(folder).path("toy").glob("*.json")
    return path, [dict(row) for row in stored.read(path).rows]


def written(path: Path, rows: list[dict[str, Any]], *, renamed: bool = True) -> Path:
    """The file with other rows, under the name that these rows have if it is renamed."""
    text = stored.encode(rows)  # type: ignore[arg-type]
    path.unlink(missing_ok=True)
    path = path.with_name(f"{stored.name_of(rows)}.json") if renamed else path  # type: ignore[arg-type]
    path.write_text(text)
    return path


def test_what_made_the_rows_is_said_once(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    content = json.loads(path.read_text())
    assert len(content["rows"]) == len(rows) == 7
    for name in ("detector", "weights", "recipe_options", "id_accuracy", "command", "created"):
        assert content["result"][name] == rows[0][name]
        assert path.read_text().count(f'"{name}"') == 1
    assert {"auroc", "ood", "ood_fingerprint", "row_id"} <= content["rows"][0].keys()
    lines = path.read_text().splitlines()
    assert sum(line.startswith(' {"ood"') for line in lines) == 7, "a row is a line"


@pytest.mark.parametrize("columns", [{}, {"seed": 3, "note": "é"}, {"notes": ["a", "b"]}])
def test_rows_come_back_as_they_were(columns: dict[str, Any], tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    rows = [{**row, **columns} for row in rows]
    rows = [{**row, "row_id": row_id(row)} for row in rows]  # type: ignore[typeddict-item]
    assert [*stored.read(written(path, rows)).rows] == rows


def test_a_column_that_some_rows_have_stays_theirs(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    rows[2] = {**rows[2], "remark": 1}
    rows[2]["row_id"] = row_id(rows[2])  # type: ignore[arg-type]
    assert [*stored.read(written(path, rows)).rows] == rows


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
def test_a_figure_that_cannot_be_is_refused_by_row(case: str, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    fields, words = IMPOSSIBLE[case]
    rows[2] = {**rows[2], **fields}
    rows[2]["row_id"] = row_id(rows[2])  # type: ignore[arg-type]
    if isinstance(fields.get("detector"), list):
        path.write_text(stored.encode(rows))  # type: ignore[arg-type]
    else:
        path = written(path, rows)
    with pytest.raises(OODBenchError, match=r"energy-\w+\.json, row 3 .*evaluate again") as caught:
        ResultStore(tmp_path).rows("toy")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", [n for n in COLUMNS if n not in ("seconds", "command", "created",
                                  "device", "accelerator", "processor", "threads",
                                  "git_commit", "schema", "row_id", "preprocess_source",
                                  "detector_code", "scored_on")])  # fmt: skip
def test_an_edited_row_is_refused(name: str, tmp_path: Path) -> None:
    """Whatever was changed: the id is a digest of all that was measured."""
    path, rows = evaluated(tmp_path)
    was = rows[1][name]
    rows[1][name] = (
        was + "x" if isinstance(was, str) else 0.5 if was is None or was == 0.25 else 0.25
    )
    written(path, rows, renamed=False)
    with pytest.raises(OODBenchError, match=r"energy-\w+\.json, row 2"):
        ResultStore(tmp_path).rows("toy")


def test_a_row_that_was_removed_is_missed(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    for kept in (rows[:-1], rows[1:], [*rows[:3], *rows[4:]]):
        written(path, kept, renamed=False)
        with pytest.raises(OODBenchError, match="removed, added or renamed"):
            ResultStore(tmp_path).rows("toy")


def test_a_renamed_result_is_refused(tmp_path: Path) -> None:
    path, _ = evaluated(tmp_path)
    shutil.copy(path, path.with_name("msp-0123456789abcdef.json"))
    with pytest.raises(OODBenchError, match=rf"name would be {path.stem}\.json"):
        ResultStore(tmp_path).rows("toy")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", '0.9, "auroc": 0.8'])
def test_what_is_no_json_number_is_refused(word: str, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    figure = f'"auroc": {rows[0]["auroc"]!r}'
    assert figure in path.read_text()
    path.write_text(path.read_text().replace(figure, f'"auroc": {word}'))
    with pytest.raises(OODBenchError, match=r"energy-\w+\.json(, row 1)? is no result"):
        ResultStore(tmp_path).rows("toy")


@pytest.mark.parametrize("name", ["detector", "auroc", "n_id", "ood_sets", "schema", "weights"])
def test_a_row_without_a_column_is_refused(name: str, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    for row in rows:
        row.pop(name)
        row["row_id"] = row_id(row)  # type: ignore[arg-type]
    path.write_text(stored.encode(rows))  # type: ignore[arg-type]
    with pytest.raises(OODBenchError, match=rf"energy-\w+\.json, row 1 .*{name}"):
        ResultStore(tmp_path).rows("toy")


@pytest.mark.parametrize("schema", [0, -1, "1", True, 1.5, None, SCHEMA + 1])
def test_a_schema_that_is_not_known_is_refused(schema: Any, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    rows[0]["schema"] = schema
    rows[0]["row_id"] = row_id(rows[0])  # type: ignore[arg-type]
    words = "newer" if schema == SCHEMA + 1 else "schema is"
    with pytest.raises(OODBenchError, match=rf"row 1 .*{words}"):
        stored.read(written(path, rows))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"not json", b"[1, 2]", b'"text"', b"{}", b'{"format": 1}', b"\xff",
        b'{"format": 0, "result": {}, "rows": []}', b'{"format": true, "result": {}, "rows": []}',
        b'{"format": 1, "result": {}, "rows": []}', b'{"format": 1, "result": [], "rows": [1]}',
        b'{"format": 1, "result": {}, "rows": [{}], "scores": {"file": "../x", "sha256": ""}}',
    ],
)  # fmt: skip
def test_what_is_no_result_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path, _ = evaluated(tmp_path)
    path.write_bytes(content)
    with pytest.raises(OODBenchError, match=r"energy-\w+\.json.* is no result"):
        ResultStore(tmp_path).rows("toy")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path, _ = evaluated(tmp_path)
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(OODBenchError, match="newer oodbench"):
        ResultStore(tmp_path).rows("toy")


def test_a_row_twice_is_refused(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    path.write_text(stored.encode([*rows, rows[3]]))  # type: ignore[list-item]
    with pytest.raises(OODBenchError, match=r"row 8 is the row of row 4 once more"):
        ResultStore(tmp_path).rows("toy")


@pytest.mark.parametrize("name", METRICS)
def test_a_mean_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    at = next(i for i, one in enumerate(rows) if one["ood"] == "far")
    value = rows[at][name]
    changed = {**rows[at], name: value + (0.001 if value < 0.5 else -0.001)}
    assert changed["auroc_low"] < changed["auroc"] < changed["auroc_high"]
    rows[at] = {**changed, "row_id": row_id(changed)}  # type: ignore[arg-type]
    words = rf"row {at + 1} .*{name} .* is not the mean .* of far-a, far-b, far-c"
    with pytest.raises(OODBenchError, match=words):
        stored.read(written(path, rows))


@pytest.mark.parametrize("name", METRICS)
def test_the_intervals_of_a_mean_are_checked(name: str, tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    at = next(i for i, one in enumerate(rows) if one["ood"] == "far")
    low, value, high = (rows[at][key] for key in (f"{name}_low", name, f"{name}_high"))
    assert 0 <= low <= value <= high <= 1
    wrong = {f"{name}_low": value + 0.01} if value < 0.5 else {f"{name}_high": value - 0.01}
    for fields, words in (
        (wrong, f"{name} is {value}, outside of its interval"),
        ({f"{name}_low": None}, f"{name} has half an interval"),
        ({f"{name}_high": 1.01}, f"{name}_high must be a number from 0 to 1, or null"),
    ):
        changed = {**rows[at], **fields}
        changed["row_id"] = row_id(changed)  # type: ignore[arg-type]
        other = [*rows[:at], changed]
        with pytest.raises(OODBenchError, match=rf"row {at + 1} ") as caught:
            stored.read(written(path, other))
        assert words in str(caught.value)


def test_means_from_before_they_had_all_intervals_are_read(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    for row in rows:
        if row["is_mean"]:
            row.update(dict.fromkeys(ENDS[2:]))
            row["row_id"] = row_id(row)  # type: ignore[arg-type]
    written(path, rows)
    assert ResultStore(tmp_path).rows("toy") == rows
    page = leaderboard.write(TOY, tmp_path).read_text()
    (line,) = tables(page)[0]
    assert "[" in line["far AUROC"]
    assert "[" not in line["far FPR@95 (ID positive)"]
    assert "older rows" in page


def test_a_result_of_another_machine_is_read(tmp_path: Path) -> None:
    """Keys in another order, Windows's line ends, a column of theirs, another layout."""
    path, rows = evaluated(tmp_path)
    theirs = [dict(reversed({**row, "device": "mps", "note": "é"}.items())) for row in rows]
    theirs = [{**row, "row_id": row_id(row)} for row in theirs]  # type: ignore[typeddict-item]
    path.unlink()
    path = path.with_name(f"{stored.name_of(theirs)}.json")  # type: ignore[arg-type]
    content = {"rows": theirs, "result": {}, "format": 1}
    text = json.dumps(content, ensure_ascii=False, indent=2).replace("\n", "\r\n")
    path.write_bytes(text.encode())
    assert ResultStore(tmp_path).rows("toy") == theirs


def test_the_name_is_of_the_rows_in_any_order() -> None:
    rows = [numbered(1), numbered(2)]
    assert stored.name_of(rows) == stored.name_of(rows[::-1])  # type: ignore[arg-type]
    assert stored.name_of(rows) != stored.name_of(rows[:1])  # type: ignore[arg-type]
    named = stored.name_of([numbered(1, detector="My Own/Ünique")])  # type: ignore[list-item]
    assert named.isascii()
    assert "/" not in named


# --- the seal, and results that lie together -----------------------------------------------------


def test_a_file_of_before_without_a_seal_is_read(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    content = json.loads(path.read_text())
    del content["seal"]
    path.write_text(json.dumps({**content, "format": 1}))
    assert [dict(row) for row in stored.read(path).rows] == rows


@pytest.mark.parametrize("column", ["seconds", "created", "command", "detector_code", "threads"])
def test_what_no_row_id_tells_is_sealed(column: str, tmp_path: Path) -> None:
    path, _ = evaluated(tmp_path)
    content = json.loads(path.read_text())
    before = json.dumps(content["result"][column])
    others = {"seconds": "7.5", "created": '"2020-01-01T00:00:00+00:00"', "command": '"x"'}
    after = others.get(column, "null")
    line = f'"{column}": {before}'
    assert line in path.read_text()
    path.write_text(path.read_text().replace(line, f'"{column}": {after}'))
    with pytest.raises(OODBenchError, match="changed after its seal was made"):
        stored.read(path)


def test_ends_of_lines_are_no_change(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert [dict(row) for row in stored.read(path).rows] == rows


def test_a_pack_holds_the_same_results(tmp_path: Path) -> None:
    path, rows = evaluated(tmp_path)
    before = stored.read(path)
    content = stored.encode_pack([before])
    assert content == stored.encode_pack([before]), "the same results are the same bytes"
    packed = path.with_name("results.jsonl.gz")
    packed.write_bytes(content)
    (result,) = stored.read_pack(packed)
    assert (result.path, result.scores, result.checks) == (path, before.scores, before.checks)
    assert [dict(row) for row in result.rows] == rows
    line = gzip.decompress(content)
    packed.write_bytes(gzip.compress(line.replace(b'"seconds":', b'"seconds":1', 1)))
    with pytest.raises(OODBenchError, match=rf"{path.name}.* changed after its seal"):
        stored.read_pack(packed)
    packed.write_bytes(content[:-9])
    with pytest.raises(OODBenchError, match="no pack of results"):
        stored.read_pack(packed)


def test_a_check_is_kept(tmp_path: Path) -> None:
    path, _ = evaluated(tmp_path)
    result = stored.read(path)
    check = stored.Check("network", "identical", "0.1.0", "2026-01-02", "a processor")
    path.write_text(stored.encode(result.rows, result.scores, [check]))
    assert stored.read(path).checks == (check,)
