"""Figures of scores that other code gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oodbench import ResultStore, metrics
from oodbench.errors import OptionError
from oodbench.results import rated, significance, verify
from oodbench.results.foreign import Foreign, ForeignSets
from tests.helpers.results import drawn, stored_result


def sets(seed: int = 1, quality: float = 1.0, paths: bool = False) -> ForeignSets:
    ids, own = drawn(seed, quality)
    names = tuple(f"{i}.png" for i in range(len(ids))) if paths else None
    correct = np.arange(len(ids)) % 10 > 0
    ood = {("near", "near-a"): Foreign(own["near-a"]), ("", "far-a"): Foreign(own["far-a"])}
    return ForeignSets(Foreign(ids, names, correct), ood)


def test_figures_are_those_of_the_metrics() -> None:
    given = sets()
    rows = {row["ood"]: row for row in rated.rows_of(given, "mine")}
    assert list(rows) == ["near-a", "far-a", "near", "far"]
    expected = metrics.all_metrics(given.id.scores, given.ood["near", "near-a"].scores)
    assert {name: rows["near-a"][name] for name in expected} == expected  # type: ignore[literal-required]
    assert rows["near"]["id_accuracy"] == 0.9
    assert rows["near"]["notes"] == [rated.BY_POSITION]
    assert next(iter(rated.rows_of(sets(paths=True), "mine")))["notes"] is None


def test_a_result_that_holds_and_a_page(tmp_path: Path) -> None:
    given = sets()
    page = rated.keep(rated.rows_of(given, "mine"), given, tmp_path)
    better = sets(2, 2.0)
    assert rated.keep(rated.rows_of(better, "better"), better, tmp_path) == page
    text = page.read_text()
    assert "| 1 | 1 | better ‡ |" in text
    assert "| 2 | 2 | mine ‡ |" in text
    assert "oodbench saw no image" in text
    assert {v.word for v in verify.verify(tmp_path)} == {"identical"}
    page.write_text(text.replace("better", "worse"))
    assert {v.word for v in verify.verify(page)} == {"different"}
    one, other = significance.sides_of(ResultStore(tmp_path).results("own-scores"))
    assert significance.compare_sides(one, other, ("auroc",))[0].is_told_apart


def test_names_that_are_taken_are_refused() -> None:
    with pytest.raises(OptionError, match="is a detector of oodbench"):
        rated.rows_of(sets(), "msp")
    with pytest.raises(OptionError, match="'digits' is a benchmark"):
        rated.rows_of(sets(), "mine", name="digits")
    with pytest.raises(OptionError, match="a name of its own"):
        rated.rows_of(sets(), "mine", id_name="near-a")


def test_scores_that_are_upside_down_are_noticed() -> None:
    given = sets()
    turned = ForeignSets(
        Foreign(-given.id.scores), {key: Foreign(-one.scores) for key, one in given.ood.items()}
    )
    (warning,) = rated.rows_of(turned, "mine").warnings
    assert "`higher=id`" in warning
    assert rated.rows_of(given, "mine").warnings == []


def test_compared_with_a_stored_result_of_the_same_images(tmp_path: Path) -> None:
    other = stored_result(tmp_path, "stored", *drawn(3, 0.5))
    given = sets(1, 1.5)
    side = rated.side_of(rated.rows_of(given, "mine"), given, other)
    (there,) = significance.sides_of([other])
    found = significance.compare_sides(side, there, ("auroc",))
    assert {one.ood for one in found} == {"near-a", "far-a", "near", "far"}
    assert all(one.is_told_apart and one.difference > 0 for one in found)
    few = ForeignSets(Foreign(given.id.scores[:-1]), given.ood)
    with pytest.raises(OptionError, match="399 ID scores"):
        rated.side_of(rated.rows_of(few, "mine"), few, other)
    named = ForeignSets(given.id, {("", "x"): given.ood["near", "near-a"]})
    with pytest.raises(OptionError, match="none of your OOD sets"):
        rated.side_of(rated.rows_of(named, "mine"), named, other)
