"""The quick pass over stored results agrees with the careful checks."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest

from oodbench import files
from oodbench.errors import OODBenchError
from oodbench.results import quickcheck, stored
from oodbench.results.rows import row_id

BOARDS = Path(__file__).resolve().parents[2] / "leaderboards"
ONE = sorted((BOARDS / "results" / "digits").glob("*.json"))[0]


def content() -> dict:
    return json.loads(ONE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["avdigits", "digits", "ptood-textures10", "scenes-segmentation"])
def test_committed_results_are_seen_to_be_sound_at_once(page: str, monkeypatch) -> None:
    def refuse(*_args, **_kept):
        raise AssertionError("examined")

    monkeypatch.setattr(stored, "_examined", refuse)
    assert all(stored.read(path).rows for path in stored.paths_in(BOARDS / "results" / page))


def test_ids_are_those_of_rows() -> None:
    numbers = [0.0, -0.0, 1.0, 1e-4, 9.9e-5, 1e-5, 1e-7, 1e15, 1e16, 1e22, -3e-9, 5, 2**63, True]
    texts = [
        "a-1e-5",
        ":0.00001",
        ",1e-5,",
        "[2e-7,",
        'a:3e+4 \\" ,1e-9',
        "é",
        "\x7f",
        '\x01\n"\\/',
        "",
        "𝄞",
    ]
    generator = random.Random(0)
    for _ in range(300):
        numbers.append(generator.random() * 10.0 ** generator.randint(-12, 20))
    for value in [*numbers, *texts, None, {"b": numbers, "a": texts}]:
        shared = {"detector": "msp", "id": "digits", "detector_options": {"z": value, "A": 1}}
        own = [{"ood": "mnist", "auroc": 0.5, "gap": value, "row_id": "x"}]
        expected = row_id({**shared, **own[0]})  # type: ignore[typeddict-item]
        assert quickcheck.ids_of(shared, own, ["gap"]) == [expected], value


def changed(kind: str) -> dict:
    """A result with one thing wrong, with ids, name and seal that are made for it."""
    result = content()
    rows, shared = result["rows"], result["result"]
    if kind == "above one":
        rows[0]["auroc"] = 1.2
    elif kind == "outside of its interval":
        rows[0]["auroc"] = rows[0]["auroc_low"] - 0.01
    elif kind == "no mean":
        next(row for row in rows if row["is_mean"])["aupr_in"] += 1e-4
    elif kind == "no number":
        rows[0]["n_ood"] = True
    elif kind == "no time":
        shared["created"] = "yesterday"
    elif kind == "no column":
        del shared["weights"]
    elif kind == "other sets":
        rows[0]["ood_sets"] = ["elsewhere"]
    elif kind == "other group":
        rows[0]["group"] = "elsewhere"
    elif kind == "newer":
        shared["schema"] = 99
    return result


KINDS = (
    "above one, outside of its interval, no mean, no number, no time, no column, other sets, "
    "other group, newer"
).split(", ")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_is_left_to_the_careful_checks(kind: str, tmp_path: Path) -> None:
    result = changed(kind)
    shared = result["result"]
    for row in result["rows"]:
        row["row_id"] = row_id({**shared, **row})
    assert quickcheck.sound_rows([(shared, result["rows"])]) == [None]
    rows = [{**shared, **row} for row in result["rows"]]
    path = tmp_path / f"{stored.name_of(rows)}.json"  # type: ignore[arg-type]
    files.write_text(path, stored.encode(rows))  # type: ignore[arg-type]
    with pytest.raises(OODBenchError):
        stored.read(path)


def test_an_id_that_is_another_rows_is_seen() -> None:
    result = content()
    sound = copy.deepcopy(result)
    assert quickcheck.sound_rows([(sound["result"], sound["rows"])]) != [None]
    result["rows"][0]["row_id"] = result["rows"][1]["row_id"]
    assert quickcheck.sound_rows([(result["result"], result["rows"])]) == [None]


@pytest.mark.parametrize("text", [b"[NaN]", b"[1e999]", b'["\\ud800"]', b"[" * 3000 + b"]" * 3000])
def test_text_that_parsers_take_in_different_ways_is_left(text: bytes) -> None:
    assert quickcheck.content_of(text) is None


def test_one_that_is_not_sound_leaves_the_others() -> None:
    paths = sorted((BOARDS / "results" / "digits").glob("*.json"))[:40]
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    contents[7]["rows"][0]["auroc"] = 1.2
    contents[8]["rows"][0]["row_id"] = contents[9]["rows"][0]["row_id"]
    del contents[9]["result"]["schema"]
    found = quickcheck.sound_rows([(one["result"], one["rows"]) for one in contents])
    assert [number for number, rows in enumerate(found) if rows is None] == [7, 8, 9]
    for rows, one in zip(found, contents, strict=True):
        assert rows is None or rows == [{**one["result"], **row} for row in one["rows"]]


@pytest.mark.parametrize("figure", [0.0, 9.999e-4, 9.9e-5, 1e-5, 3e-7, 1e-16, 1e-3])
def test_small_figures_have_the_ids_that_they_were_written_with(figure: float) -> None:
    result = content()
    rows = [row for row in result["rows"] if not row["is_mean"]]
    rows[0] |= {"fpr95_id": figure, "fpr95_id_low": 0.0, "fpr95_id_high": 0.5}
    rows[0]["row_id"] = row_id({**result["result"], **rows[0]})  # type: ignore[typeddict-item]
    other = content()
    found = quickcheck.sound_rows([(result["result"], rows), (other["result"], other["rows"])])
    assert all(found)
    assert found[0] is not None
    assert found[0][0]["fpr95_id"] == figure
