"""Submissions: what passes, what is refused and why, and challenges."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench import Detector, ResultStore, files, register_detector
from oodbench.errors import OODBenchError, OptionError
from oodbench.registry import BENCHMARKS, DETECTORS
from oodbench.results import cards, derive, disputes, leaderboard, scores, stored, submission
from oodbench.results.cards import Card
from oodbench.results.rows import row_id, with_columns
from oodbench.results.stored import StoredResult
from oodbench.results.submission import Checked
from tests.helpers.pages import tables
from tests.helpers.results import drawn, stored_result
from tests.helpers.rows import TOY, evaluate

CARD = Card(
    who="A. Body",
    contact="a@body.org",
    paper="arXiv:2401.00001",
    code="https://example.org/code",
    licence="MIT",
    weights="https://example.org/weights",
    outlier_data="none",
    test_time_adaptation="none",
    tuned_on="nothing",
)


@dataclass
class Mine(Detector):
    """A detector of somebody's own."""

    def score(self, outputs: Any) -> Any:
        """The second largest logit, negated."""
        return -outputs.logits.sort(dim=1).values[:, -2].double()


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[None]:
    """The benchmark is known by its name, and the detector while it is scored."""
    patch = pytest.MonkeyPatch()
    patch.setitem(BENCHMARKS._objects, "toy", TOY)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, toy: None) -> Path:
    """The leaderboards with three results, and those of somebody else with one of their own."""
    root = tmp_path_factory.mktemp("boards")
    evaluate(detectors=["energy", "msp", "maxlogit"], leaderboards=root / "there")
    register_detector("mine")(Mine)
    try:
        evaluate(detectors=["mine"], leaderboards=root / "own")
    finally:
        del DETECTORS._objects["mine"]
    return root


@pytest.fixture
def root(measured: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(measured, tmp_path / "root"))


def results(boards: Path, detector: str = "mine") -> list[StoredResult]:
    found = ResultStore(boards).results("toy")
    return [result for result in found if result.rows[0]["detector"] == detector]


def made(root: Path, **fields: str) -> Path:
    """A submission that passes."""
    card = cards.of({**{n: v for n, v in vars(CARD).items() if v}, **fields})
    (one,) = submission.make(results(root / "own"), card, root / "submission", root / "there")
    assert one.faults == []
    return root / "submission"


def faults(root: Path, folder: Path | None = None) -> str:
    checked = submission.check(folder or root / "submission", root / "there")
    return " ".join(fault for one in checked for fault in one.faults)


def test_a_detector_of_somebodys_own_passes(root: Path) -> None:
    folder = made(root)
    names = sorted(path.name for path in (folder / "results" / "toy").iterdir())
    stem = results(root / "own")[0].path.stem
    assert names == [f"{stem}.card.toml", f"{stem}.json", f"{stem}.scores.safetensors"]
    (one,) = submission.check(folder, root / "there")
    assert one.faults == []
    assert "of 4 results on the same images" in one.comparison[0]
    assert any("old apart" in line for line in one.comparison)
    assert cards.read(folder / "results" / "toy" / names[0]) == CARD
    # what a pull request does
    shutil.copytree(folder / "results", root / "there" / "results", dirs_exist_ok=True)
    assert [one.faults for one in submission.check(root / "there", root / "there")] == [[]]
    assert "| mine |" in leaderboard.page(TOY, root / "there")


# --- what is refused ----------------------------------------------------------------------------


def in_folder(root: Path) -> Path:
    (path,) = (root / "submission" / "results" / "toy").glob("*.json")
    return path


def forged(root: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Rows that were changed, with all digests made anew."""
    path = in_folder(root)
    result = stored.read(path)
    rows: list[Any] = [dict(row) for row in result.rows]
    change(rows)
    rows = [{**row, "row_id": row_id(row)} for row in rows]
    renamed(root, rows, path.with_suffix(".scores.safetensors").read_bytes())


def renamed(root: Path, rows: list[Any], content: bytes) -> None:
    path = in_folder(root)
    new = path.with_name(f"{stored.name_of(rows)}.json")
    path.with_suffix(".scores.safetensors").unlink()
    cards.path_of(path).rename(cards.path_of(new))
    path.unlink()
    beside = new.with_suffix(".scores.safetensors")
    beside.write_bytes(content)
    about = stored.StoredScores(beside.name, files.sha256(beside))
    new.write_text(stored.encode(rows, about))


def _edited(root: Path) -> None:
    path = in_folder(root)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 3'))


def _better(root: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["auroc"] = (row["auroc"] + row["auroc_high"]) / 2
        for row in rows:
            members = [r["auroc"] for r in rows if r["ood"] in row["ood_sets"] and not r["is_mean"]]
            row["auroc"] = float(np.mean(members))

    forged(root, change)


def _without_scores(root: Path) -> None:
    path = in_folder(root)
    path.with_suffix(".scores.safetensors").unlink()
    path.write_text(stored.encode(stored.read(path).rows))


def _lost_scores(root: Path) -> None:
    in_folder(root).with_suffix(".scores.safetensors").unlink()


def _one_score(root: Path) -> None:
    beside = in_folder(root).with_suffix(".scores.safetensors")
    kept = scores.read(beside)
    kept[scores.ID][3] += 0.5
    beside.write_bytes(scores.encode(kept))


def _checked_by_itself(root: Path) -> None:
    path = in_folder(root)
    result = stored.read(path)
    check = stored.Check("network", "identical", "1.0", "2026-01-01")
    path.write_text(stored.encode(result.rows, result.scores, [check]))


def _a_row_less(root: Path) -> None:
    path = in_folder(root)
    result = stored.read(path)
    path.write_text(stored.encode(result.rows[1:], result.scores))


def _no_card(root: Path) -> None:
    cards.path_of(in_folder(root)).unlink()


def _no_contact(root: Path) -> None:
    path = cards.path_of(in_folder(root))
    path.write_text(path.read_text().replace("a@body.org", "somewhere"))


def _no_code(root: Path) -> None:
    path = cards.path_of(in_folder(root))
    path.write_text(path.read_text().replace("https://example.org/code", "none"))


def _other_images(root: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["id_fingerprint"] = "9" * 64

    forged(root, change)


def _other_ood_images(root: Path) -> None:
    forged(root, lambda rows: rows[0].update(ood_fingerprint="8" * 64))


def _unknown_benchmark(root: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["benchmark"] = "toys"

    forged(root, change)


def _a_pickle(root: Path) -> None:
    (in_folder(root).parent / "weights.pkl").write_bytes(b"\x80\x04.")


def _a_link(root: Path) -> None:
    (in_folder(root).parent / "x.json").symlink_to("/etc/passwd")


def _a_program(root: Path) -> None:
    (root / "submission" / "setup.py").write_text("print(1)")


def _there_already(root: Path) -> None:
    shutil.copytree(root / "submission" / "results", root / "there" / "results", dirs_exist_ok=True)


def _a_known_name(root: Path) -> None:
    """Rows of a detector that has the name of another."""

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row.update(detector="msp", detector_options={"temperature": 3.0})

    forged(root, change)


def _other_name_same_scores(root: Path) -> None:
    (other,) = results(root / "there", "energy")
    rows = [{**row, "detector": "mine", "detector_options": {}} for row in other.rows]
    rows = [{**row, "row_id": row_id(row)} for row in rows]  # type: ignore[arg-type,misc]
    assert other.scores_path is not None
    renamed(root, rows, other.scores_path.read_bytes())


def _the_wrong_folder(root: Path) -> None:
    path = root / "submission" / "results" / "toy"
    path.rename(path.with_name("digits"))


FAULTY = {
    _edited: "not what was measured",
    _better: "does not follow from its scores",
    _without_scores: "its scores are not there",
    _lost_scores: "are missing",
    _one_score: "not those that it was written with",
    _checked_by_itself: "says of itself that it was made again",
    _a_row_less: "some were removed",
    _no_card: "it has no card",
    _no_contact: "is no address",
    _no_code: "its card names no code",
    _other_images: "the ID test set has the fingerprint 999999999999",
    _other_ood_images: "has the fingerprint 888888888888",
    _unknown_benchmark: "'toys' is not known here",
    _a_pickle: "weights.pkl cannot be added",
    _a_link: "it is a link",
    _a_program: "setup.py cannot be added",
    _there_already: "once more, which is there already",
    _a_known_name: "other code than the detector 'msp'",
    _other_name_same_scores: "under another name",
    _the_wrong_folder: "belongs into results/toy",
}


@pytest.mark.parametrize("spoil", FAULTY, ids=lambda spoil: spoil.__name__.strip("_"))
def test_what_is_wrong_is_refused_with_the_reason(root: Path, spoil: Any) -> None:
    made(root)
    spoil(root)
    assert FAULTY[spoil] in faults(root)


def test_nothing_is_left_of_what_cannot_be_added(root: Path) -> None:
    shutil.copytree(root / "own" / "results", root / "there" / "results", dirs_exist_ok=True)
    before = sorted(root.rglob("*"))
    (one,) = submission.make(results(root / "own"), CARD, root / "submission", root / "there")
    assert "once more" in one.faults[0]
    assert sorted(root.rglob("*")) == before
    with pytest.raises(OptionError, match="is there already"):
        submission.make(results(root / "own"), CARD, root / "own", root / "there")
    (root / "empty").mkdir()
    with pytest.raises(OptionError, match="there is no submission"):
        submission.check(root / "empty", root / "there")


def test_the_first_of_a_benchmark_is_added_by_those_who_saw_to_it(root: Path) -> None:
    made(root)
    shutil.rmtree(root / "there" / "results")
    assert "cannot be told to be the right ones" in faults(root)
    checked = submission.check(root / "submission", root / "there", first=True)
    assert [one.faults for one in checked] == [[]]


def test_what_was_there_stays_as_it_was(root: Path) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(
            ["git", *identity, *words], cwd=root / "there", check=True, capture_output=True
        )

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "results")
    made(root)
    shutil.copytree(root / "submission" / "results", root / "there" / "results", dirs_exist_ok=True)
    git("add", ".")
    assert submission.changed_since("HEAD", root / "there") == []
    one, other, *_ = ResultStore(root / "there").results("toy")
    one.path.unlink()
    other.path.write_text(other.path.read_text() + "\n")
    found = " ".join(submission.changed_since("HEAD", root / "there"))
    assert f"{one.path.name} was there before and was removed" in found
    assert f"{other.path.name} was there before and was edited" in found
    for commit in ("nothing", "--help"):
        with pytest.raises(OptionError, match="commit"):
            submission.changed_since(commit, root / "there")


# --- challenges, and what sets apart ------------------------------------------------------------


def challenge(root: Path, shift: float) -> tuple[StoredResult, StoredResult]:
    """Somebody else's measurement of energy's entry, with other scores; and that."""
    (there,) = results(root / "there", "energy")
    assert there.scores_path is not None
    kept = {key: values.copy() for key, values in scores.read(there.scores_path).items()}
    for key in kept:
        if key.startswith("ood/"):
            kept[key] = kept[key] + np.float32(shift)
    rows = [dict(row) for row in there.rows]
    derived = derive.derived(rows, kept, None)  # type: ignore[arg-type]
    rows = [{**row, **figures} for row, figures in zip(rows, derived, strict=True)]
    rows = [{**row, "row_id": row_id(row)} for row in rows]  # type: ignore[arg-type]
    ResultStore(root / "own").append(rows, kept)  # type: ignore[arg-type]
    (own,) = results(root / "own", "energy")
    return own, there


def test_a_challenge_disputes_what_is_there(root: Path) -> None:
    own, there = challenge(root, 0.3)
    (one,) = submission.make([own], CARD, root / "submission", root / "there")
    assert "A measurement of an entry that is there is a challenge" in one.faults[0]
    card = cards.of({**{n: v for n, v in vars(CARD).items() if v}, "challenges": there.path.stem})
    (one,) = submission.make([own], card, root / "submission", root / "there")
    assert one.faults == []
    assert "is disputed by it" in one.comparison[0]
    before = leaderboard.page(TOY, root / "there")
    shutil.copytree(root / "submission" / "results", root / "there" / "results", dirs_exist_ok=True)
    page = leaderboard.page(TOY, root / "there")
    assert "### Measured by others" not in before
    lines = [line for line in page.splitlines() if "A. Body" in line]
    near = next(line for line in lines if "| near |" in line)
    ours, theirs = (next(r for r in s.rows if r["ood"] == "near") for s in (there, own))
    assert f"| {100 * ours['auroc']:.2f} | {100 * theirs['auroc']:.2f} |" in near
    assert "| disputed |" in near
    made = tables(leaderboard.page(TOY, root / "there", whole=True))[-1]
    words = {row["Detector"].split()[0]: row["Checked"] for row in made}
    assert words == {"energy": "disputed", "msp": "scores checked", "maxlogit": "scores checked"}
    assert "Disputed: see Measured by others." in page
    # it has no line of its own: the tables before are as they were
    first = page.splitlines()[page.splitlines().index("## near, far") :]
    assert first[4:10] == before.splitlines()[before.splitlines().index("## near, far") :][4:10]


def test_a_challenge_that_agrees_confirms(root: Path) -> None:
    own, there = challenge(root, 1e-6)
    card = cards.of({**{n: v for n, v in vars(CARD).items() if v}, "challenges": there.path.stem})
    checked = submission.make([own], card, root / "submission", root / "there")
    if checked[0].faults:  # no order of scores changed, so that it is the same measurement
        assert "once more" in checked[0].faults[0]
        return
    assert "confirmed by others" in checked[0].comparison[0]


def test_a_challenge_is_of_the_same_entry(root: Path) -> None:
    (msp,) = results(root / "there", "msp")
    card = cards.of({**{n: v for n, v in vars(CARD).items() if v}, "challenges": msp.path.stem})
    (one,) = submission.make(results(root / "own"), card, root / "submission", root / "there")
    assert "no result here of the same detector" in one.faults[0]


def test_what_sets_a_row_apart_is_marked(root: Path) -> None:
    fields = {
        "outlier_data": "80 Million Tiny Images",
        "test_time_adaptation": "batch statistics",
        "tuned_on": "the test sets",
    }
    folder = made(root, **fields)
    (one,) = submission.check(folder, root / "there")
    assert len(one.notes) == 3
    shutil.copytree(folder / "results", root / "there" / "results", dirs_exist_ok=True)
    page = leaderboard.page(TOY, root / "there")
    assert "| mine ⚑ |" in page
    (line,) = [line for line in page.splitlines() if line.startswith("- mine: ")]
    for value in fields.values():
        assert value in line


def test_cards_are_read_as_they_were_written(tmp_path: Path) -> None:
    card = Card(**{**vars(CARD), "remark": 'quotes " and \\ back\x7fslashes, ü'})
    path = cards.write(card, tmp_path / "x-1.json")
    assert cards.read(path) == card
    for text, why in (
        ("who = 3", "lacks contact"),
        (cards.text_of(card) + "more = 'x'\n", "which no card has"),
        (cards.text_of(card).replace('"MIT"', '"none"'), "without a licence"),
        ("who = ", "is no card"),
        (cards.text_of(card).replace('"A. Body"', '"A\\nB"'), "on one line"),
    ):
        path.write_text(text)
        with pytest.raises(OODBenchError, match=why):
            cards.read(path)


def test_another_training_is_disputed_by_the_spread_of_the_seeds(tmp_path: Path) -> None:
    """A figure that one more seed may give disputes nothing, though intervals do not overlap."""
    seeds = ((0, 0.9), (1, 1.4), (2, 1.9))
    there = [stored_result(tmp_path, "x", *drawn(s, q, 2000), seed=s) for s, q in seeds]
    for quality, word in ((1.7, disputes.CONFIRMED), (0.2, disputes.DISPUTED)):
        fields = {"weights": "5" * 64, "oodbench": f"{quality}"}
        own = stored_result(tmp_path / word, "x", *drawn(7, quality, 2000), seed=0, **fields)
        moved = stored.StoredResult(tmp_path / "results/toy" / own.path.name, own.rows, own.scores)
        moved.path.write_bytes(own.path.read_bytes())
        cards.write(Card(**{**vars(CARD), "challenges": there[0].path.stem}), moved.path)
        about = disputes.submitted([*there, moved])
        assert about.word(there[0].rows[0], "auroc") == word
        assert about.word(there[1].rows[0], "auroc") is None
        alone = disputes.submitted([there[0], moved])
        assert alone.word(there[0].rows[0], "auroc") == disputes.DISPUTED


def test_a_card_names_the_outliers_that_were_trained_with(root: Path) -> None:
    (result,) = results(root / "own")
    beside = {"as": "outliers", "name": "mine/train", "count": 9, "fingerprint": "0" * 64}
    rows = [with_columns(row, {"auxiliary": beside}) for row in result.rows]
    found = [Checked(result.path), Checked(result.path)]
    trained = dataclasses.replace(result, rows=rows)
    submission._check_outliers(trained, CARD, found[0])
    assert "mine/train" in " ".join(found[0].faults)
    named = dataclasses.replace(CARD, outlier_data="mine")
    submission._check_outliers(trained, named, found[1])
    assert found[1].faults == []
