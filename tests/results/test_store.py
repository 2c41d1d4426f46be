"""The store of rows: only appended to, checked when read, whole whatever happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oodbench import ResultStore
from oodbench.errors import OODBenchError, StorageError
from oodbench.results import leaderboard
from oodbench.results.rows import COLUMNS, ENDS, METRICS, SCHEMA, row_id
from tests.conftest import REPOSITORY
from tests.helpers.pages import tables
from tests.helpers.rows import TOY, evaluate, numbered


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
