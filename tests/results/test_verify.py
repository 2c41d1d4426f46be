"""Verification: honest results hold, and whatever is changed in them is caught."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oodbench
from oodbench import ResultStore, get_benchmark, metrics
from oodbench.errors import OODBenchError
from oodbench.registry import BENCHMARKS
from oodbench.results import leaderboard, scores, stored
from oodbench.results.rows import METRICS, row_id
from oodbench.results.verify import of_page, of_result, verify
from tests.conftest import REPOSITORY
from tests.helpers.rows import TOY, evaluate

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with results of four detectors, their scores, and the page."""
    folder = tmp_path_factory.mktemp("boards")
    oodbench.register_benchmark("toy")(TOY)
    evaluate(detectors=["energy", "msp", "maxlogit", "knn"], leaderboards=folder)
    leaderboard.write(TOY, folder)
    yield folder
    BENCHMARKS.unregister("toy")


@pytest.fixture(scope="module", autouse=True)
def _intervals_of_the_same_scores_are_computed_once() -> Iterator[None]:
    """Copies of the same results are verified hundreds of times; what was changed is another."""
    known: dict[tuple[Any, ...], dict[str, float]] = {}

    def remembered(function: Callable[..., dict[str, float]]) -> Callable[..., dict[str, float]]:
        def intervals(ids: Any, oods: Any, *rest: Any, **options: Any) -> dict[str, float]:
            parts = map(np.asarray, [ids, *(oods if isinstance(oods, list) else [oods])])
            arrays = [(part.dtype.str, part.tobytes()) for part in parts]
            key = (function.__name__, *arrays, *rest, *options.items())
            if key not in known:
                known[key] = function(ids, oods, *rest, **options)
            return dict(known[key])

        return intervals

    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_intervals", "mean_intervals"):
            patch.setattr(metrics, name, remembered(getattr(metrics, name)))
        yield


@pytest.fixture
def boards(honest: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(honest, tmp_path / "boards"))


def results(boards: Path) -> list[Path]:
    return sorted((boards / "results" / "toy").glob("*.json"))


def words(boards: Path) -> set[str]:
    """What became of all that is there."""
    return {verdict.word for verdict in verify(boards)}


def test_honest_results_are_identical(boards: Path) -> None:
    verdicts = verify(boards)
    assert {v.word for v in verdicts} == {"identical"}
    by_result = [v for v in verdicts if v.path.suffix == ".json"]
    assert len(by_result) == 4
    assert [v.path.name for v in verdicts if v.path.suffix == ".md"] == ["toy.md"]
    for verdict in by_result:
        rows = stored.read(verdict.path).rows
        # five metrics with both ends and two counts in each row, and the accuracy with both ends
        assert verdict.checked == len(rows) * (3 * len(METRICS) + 2 + 3)
        assert verdict.differences == []


def test_what_scores_cannot_tell_is_said(boards: Path) -> None:
    path = changed_rows(results(boards)[0], lambda rows: rows[0].update(separability=0.75))
    (remark,) = of_result(path).remarks
    assert remark == "not made of scores, so not derived: separability"


def test_without_scores_nothing_is_claimed(boards: Path) -> None:
    path = results(boards)[0]
    rows = stored.read(path).rows
    path.with_suffix(".scores.safetensors").unlink()
    path.write_text(stored.encode(rows))
    verdict = of_result(path)
    assert (verdict.word, verdict.checked) == ("not checked", 0)
    assert verdict.holds


# --- what somebody may have changed --------------------------------------------------------------


def rewritten(path: Path, rows: Rows, kept: dict[str, np.ndarray] | None = None) -> Path:
    """The result with other rows or scores, and all digests made anew: what a forger would do."""
    rows = [{**row, "row_id": row_id(row)} for row in rows]  # type: ignore[typeddict-item]
    old = path.with_suffix(".scores.safetensors")
    content = old.read_bytes() if kept is None else scores.encode(kept)
    path.unlink()
    old.unlink()
    path = path.with_name(f"{stored.name_of(rows)}.json")  # type: ignore[arg-type]
    beside = path.with_suffix(".scores.safetensors")
    beside.write_bytes(content)
    from oodbench import files

    about = stored.StoredScores(beside.name, files.sha256(beside))
    path.write_text(stored.encode(rows, about))  # type: ignore[arg-type]
    return path


def changed_rows(path: Path, change: Callable[[Rows], Any]) -> Path:
    rows = [dict(row) for row in stored.read(path).rows]
    change(rows)
    return rewritten(path, rows)


def changed_scores(path: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> Path:
    kept = scores.read(path.with_suffix(".scores.safetensors"))
    change(kept)
    return rewritten(path, [dict(row) for row in stored.read(path).rows], kept)


def _figure(rng: random.Random, path: Path) -> None:
    """A digit of a figure, within its interval, with the means that follow from it."""

    def change(rows: Rows) -> None:
        row = rng.choice([row for row in rows if not row["is_mean"]])
        name = rng.choice(METRICS)
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        now = low + rng.uniform(0.2, 0.8) * (high - low)
        row[name] = now if abs(now - row[name]) > 1e-6 else (now + high) / 2
        for mean in rows:
            if mean["is_mean"] and row["ood"] in mean["ood_sets"]:
                members = [r[name] for r in rows if r["ood"] in mean["ood_sets"]]
                mean[name] = float(np.mean(members))
                mean[f"{name}_low"] = min(mean[f"{name}_low"], mean[name])
                mean[f"{name}_high"] = max(mean[f"{name}_high"], mean[name])

    changed_rows(path, change)


def _interval(rng: random.Random, path: Path) -> None:
    def change(rows: Rows) -> None:
        row, name = rng.choice(rows), rng.choice(METRICS)
        row[f"{name}_low"] = (row[f"{name}_low"] + 3 * row[name]) / 4 - 1e-4 * (row[name] > 0)
        row[f"{name}_low"] = max(0.0, row[f"{name}_low"])
        row[f"{name}_high"] = min(1.0, row[f"{name}_high"] + 1e-4)

    changed_rows(path, change)


def _score(rng: random.Random, path: Path) -> None:
    """The score of one sample, so that another one is passed."""

    def change(kept: dict[str, np.ndarray]) -> None:
        key = rng.choice([key for key in kept if key.startswith("ood/")])
        order = np.argsort(kept[key])
        kept[key][order[0]] = max(values.max() for values in kept.values()) + 1

    changed_scores(path, change)


def _label(rng: random.Random, path: Path) -> None:
    def change(kept: dict[str, np.ndarray]) -> None:
        at = rng.randrange(len(kept["correct/id"]))
        kept["correct/id"][at] = 1 - kept["correct/id"][at]

    changed_scores(path, change)


def _swapped_scores(rng: random.Random, path: Path) -> None:
    other = rng.choice([p for p in path.parent.glob("*.json") if p != path])
    a, b = (p.with_suffix(".scores.safetensors") for p in (path, other))
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def _swapped_sets(rng: random.Random, path: Path) -> None:
    def change(kept: dict[str, np.ndarray]) -> None:
        first, second = rng.sample([key for key in kept if key.startswith("ood/")], 2)
        kept[first], kept[second] = kept[second], kept[first]

    changed_scores(path, change)


def _option(rng: random.Random, path: Path) -> None:
    text = path.read_text()
    name = rng.choice(["seed", "n_id", "batch_size"])
    at = text.find(f'"{name}": ')
    if at < 0:
        at = text.index('"seed": ')
    end = min(i for i in (text.find(",", at), text.find("\n", at)) if i > 0)
    path.write_text(f"{text[:end]}7{text[end:]}")


def _code(_: random.Random, path: Path) -> None:
    text = path.read_text()
    code = stored.read(path).rows[0]["detector_code"]
    assert code is not None
    path.write_text(text.replace(code, code[::-1]))


def _other_version(rng: random.Random, path: Path) -> None:
    """Rows of another version of the detector, sealed anew: the page does not say so."""

    def change(rows: Rows) -> None:
        for row in rows:
            row["detector_code"] = f"{rng.randrange(16**64):064x}"

    changed_rows(path, change)


def _page(rng: random.Random, path: Path) -> None:
    """A digit of the page, by hand."""
    page = path.parents[2] / "toy.md"
    text = page.read_text()
    at = rng.choice([i for i, c in enumerate(text) if c.isdigit()])
    page.write_text(f"{text[:at]}{(int(text[at]) + rng.randint(1, 9)) % 10}{text[at + 1 :]}")


def _removed_page(_: random.Random, path: Path) -> None:
    (path.parents[2] / "toy.md").unlink()


def _removed_row_sealed(rng: random.Random, path: Path) -> None:
    """A row and its scores, the file made anew: the means and the page tell of it."""
    rows = [dict(row) for row in stored.read(path).rows]
    single = rng.choice([row for row in rows if not row["is_mean"]])
    kept = scores.read(path.with_suffix(".scores.safetensors"))
    del kept[scores.of_ood(single["ood"])]
    rewritten(path, [row for row in rows if row is not single], kept)


def _removed_with_scores(_: random.Random, path: Path) -> None:
    """A whole result, with its scores: the page has a line more than there are results."""
    path.with_suffix(".scores.safetensors").unlink()
    path.unlink()


def _removed_row(rng: random.Random, path: Path) -> None:
    rows = [*stored.read(path).rows]
    rows.pop(rng.randrange(len(rows)))
    path.write_text(stored.encode(rows, stored.read(path).scores))


def _removed_set(_: random.Random, path: Path) -> None:
    """A bad set and all that tells of it, digests made anew; its scores are still there."""

    def change(rows: Rows) -> None:
        rows[:] = [row for row in rows if "far-c" not in row["ood_sets"]]

    changed_rows(path, change)


def _removed_scores(_: random.Random, path: Path) -> None:
    path.with_suffix(".scores.safetensors").unlink()


def _unnamed_scores(_: random.Random, path: Path) -> None:
    path.write_text(stored.encode(stored.read(path).rows))


def _removed_result(_: random.Random, path: Path) -> None:
    path.unlink()


def _renamed(rng: random.Random, path: Path) -> None:
    path.rename(path.with_name(f"msp-{rng.randrange(16**15):016x}.json"))


def _shorter_scores(rng: random.Random, path: Path) -> None:
    def change(kept: dict[str, np.ndarray]) -> None:
        key = rng.choice(sorted(kept))
        kept[key] = kept[key][:-1]

    changed_scores(path, change)


CHANGES = [
    _figure, _interval, _score, _label, _swapped_scores, _swapped_sets, _option, _code,
    _removed_row, _removed_set, _removed_scores, _unnamed_scores, _removed_result, _renamed,
    _shorter_scores, _other_version, _page, _removed_page, _removed_row_sealed,
    _removed_with_scores,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_planted_change_is_caught(
    change: Callable[[random.Random, Path], None], honest: Path, tmp_path: Path
) -> None:
    """Seven of each kind, a hundred and forty in all."""
    for number in range(7):
        rng = random.Random(f"{change.__name__} {number}")
        boards = Path(shutil.copytree(honest, tmp_path / str(number)))
        change(rng, rng.choice(results(boards)))
        found = verify(boards)
        assert not all(verdict.holds for verdict in found), number
        if change is _other_version:
            assert any("another version" in "".join(v.remarks) for v in found), number


def test_a_copy_holds_wherever_it_is(honest: Path, tmp_path: Path) -> None:
    """A hundred copies of results."""
    for number in range(25):
        copy = Path(shutil.copytree(honest, tmp_path / f"copy {number}"))
        assert {of_result(path).word for path in results(copy)} == {"identical"}
    assert words(copy) == {"identical"}


def test_the_last_digits_of_another_processor(boards: Path) -> None:
    def change(rows: Rows) -> None:
        rows[0]["auroc_low"] += 1e-12

    verdict = of_result(changed_rows(results(boards)[0], change))
    assert verdict.word == "within tolerance"
    assert verdict.holds


def test_differences_say_which_figure_and_by_how_much(boards: Path) -> None:
    def change(rows: Rows) -> None:
        rows[0]["n_ood"] += 1
        rows[1]["auroc_low"] -= 0.0078125

    first, second = of_result(changed_rows(results(boards)[0], change)).differences[:2]
    assert (first.column, first.stored, first.derived) == (
        "n_ood",
        first.derived + 1,
        first.derived,
    )  # type: ignore[operator]
    assert second.column == "auroc_low"
    assert ", by 0.0078" in str(second)


# --- pages ---------------------------------------------------------------------------------------


def page_of_digits(folder: Path) -> Path:
    shutil.copytree(REPOSITORY / "leaderboards" / "results" / "digits", folder / "results/digits")
    return leaderboard.write(get_benchmark(benchmark="digits"), folder)


def test_a_page_follows_from_its_results(tmp_path: Path) -> None:
    page = page_of_digits(tmp_path)
    assert of_page(page).word == "identical"
    text = page.read_text()
    for changed in (text.replace("99.", "99,", 1), text + "\n", text.replace("| 1 |", "| 2 |", 1)):
        page.write_text(changed)
        verdict = of_page(page)
        assert not verdict.holds
        assert "oodbench leaderboard --benchmark digits" in verdict.reasons[0]
    page.write_text(text)
    next((tmp_path / "results" / "digits").glob("msp-*.json")).unlink()
    assert not of_page(page).holds, "a result was taken away"


def test_the_csv_beside_a_page_follows_too(tmp_path: Path) -> None:
    page = page_of_digits(tmp_path)
    table = page.with_suffix(".csv")
    text = table.read_text()
    assert verify(table)[0].word == "identical"
    table.write_text(text.replace("99.", "98.", 1))
    assert "digits.csv is not what its results render to" in of_page(page).reasons[0]
    assert not verify(table)[0].holds
    table.unlink()
    assert "digits.csv, which has all its lines, is missing" in of_page(page).reasons[0]


def test_a_page_with_every_table_follows_too(tmp_path: Path) -> None:
    page_of_digits(tmp_path)
    whole = leaderboard.write(get_benchmark("digits"), tmp_path, whole=True)
    assert whole.name == "digits.whole.md"
    assert of_page(whole).word == "identical"
    assert all(verdict.holds for verdict in verify(tmp_path))
    whole.write_text(whole.read_text().replace("99.", "98.", 1))
    assert "--whole" in of_page(whole).reasons[0]


def test_a_page_that_is_missing_or_of_nothing(tmp_path: Path) -> None:
    page = page_of_digits(tmp_path)
    text = page.read_text()
    page.unlink()
    (missing,) = [v for v in verify(tmp_path) if not v.holds]
    assert missing.path == page
    (tmp_path / "nothing.md").write_text(text)
    assert "no benchmark" in of_page(tmp_path / "nothing.md").reasons[0]


def test_a_note_beside_the_pages_is_none_of_them(tmp_path: Path) -> None:
    page_of_digits(tmp_path)
    (tmp_path / "SUBMITTING.md").write_text("How to submit.")
    assert all(verdict.holds for verdict in verify(tmp_path))


def test_committed_leaderboards_hold() -> None:
    verdicts = verify(REPOSITORY / "leaderboards")
    assert len([v for v in verdicts if v.path.suffix == ".md"]) >= 8
    assert [v.path for v in verdicts if not v.holds] == []


@pytest.mark.parametrize("what", ["nothing", "empty/", "text.txt"])
def test_nothing_to_verify_is_said(what: str, tmp_path: Path) -> None:
    if what.endswith("/"):
        (tmp_path / what).mkdir()
    elif what != "nothing":
        (tmp_path / what).write_text("x")
    with pytest.raises(OODBenchError, match="nothing to verify"):
        verify(tmp_path / what)


def test_a_result_of_an_unknown_detector_is_told(boards: Path) -> None:
    path = results(boards)[0]
    text = path.read_text().replace('"detector": "energy"', '"detector": "theirs"')
    rows = [{**row, "detector": "theirs"} for row in stored.read(path).rows]
    assert "theirs" in text
    path = rewritten(path, rows)
    (remark,) = of_result(path).remarks
    assert "not known here" in remark


def test_json_has_all_of_it(boards: Path) -> None:
    _removed_scores(random.Random(0), results(boards)[0])
    told = json.loads(json.dumps([verdict.to_json() for verdict in verify(boards)]))
    assert told[0].keys() == {
        *("path", "level", "outcome", "tolerance", "checked", "reasons", "differences"),
        *("largest", "remarks"),
    }
    different = [Path(v["path"]).suffix for v in told if v["outcome"] == "different"]
    assert different == [".json", ".md"]  # the page ranks by these scores


def test_the_store_names_what_the_verdict_does(boards: Path) -> None:
    paths = {result.path for result in ResultStore(boards).results("toy")}
    assert paths == {v.path for v in verify(boards) if v.path.suffix == ".json"}
