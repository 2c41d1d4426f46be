"""Ranks of a page: what cannot be told apart shares one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from oodbench import ResultStore
from oodbench.results import leaderboard, ranking
from oodbench.results.entries import entries_of
from oodbench.results.significance import samples_of
from tests.helpers.pages import PAGE, entry, tables
from tests.helpers.results import drawn, stored_result


def ranked(*rows: list[dict[str, Any]], folder: Path | None = None) -> ranking.Ranking:
    results = ResultStore(folder).results("toy") if folder else []
    of_all = [row for own in rows for row in own] or [row for r in results for row in r.rows]
    entries = entries_of(of_all)  # type: ignore[arg-type]
    entries.sort(key=lambda one: -one.of("near")[0]["auroc"])
    return ranking.ranking_of(PAGE, entries, "near", samples_of(results))


def test_cliques_from_scores(tmp_path: Path) -> None:
    for name, seed, quality in (("a", 1, 1.6), ("b", 2, 1.6), ("c", 3, 0.8), ("d", 4, 0.8)):
        stored_result(tmp_path, name, *drawn(seed, quality))
    found = ranked(folder=tmp_path)
    assert found.ranks == [1, 1, 3, 3]
    assert "DeLong's test on the stored scores" in found.remark
    assert "for 6 pairs" in found.remark


def test_scores_tell_apart_what_intervals_do_not(tmp_path: Path) -> None:
    """The same images make both figures go up and down together."""
    for keep in (True, False):
        folder = tmp_path / str(keep)
        for name, quality in (("a", 1.05), ("b", 1.0)):
            stored_result(folder, name, *drawn(1, quality, 2000, noise=0.05), keep=keep)
        found = ranked(folder=folder)
        assert found.ranks == ([1, 2] if keep else [1, 1])
        assert ("scores were not kept" in found.remark) is not keep


def test_no_two_of_a_rank_are_apart() -> None:
    """A chain, each near the next, is cut where one differs from any above it in the rank."""
    found = ranked(*(entry(0.80 - 0.012 * i, detector=f"d{i}") for i in range(8)))
    assert found.ranks == [1, 1, 3, 3, 5, 5, 7, 7]


def test_ranks_need_intervals_or_scores() -> None:
    ends = {"auroc_low": None, "auroc_high": None}
    found = ranked(*(entry(0.9 - 0.1 * i, detector=f"d{i}", **ends) for i in range(3)))
    assert found.ranks == [1, 2, 3]
    assert "nothing says which differences are noise" in found.remark


def test_seeds_widen() -> None:
    """One network each is told apart by its images; of two, their spread is in it."""
    one = [entry(0.80, detector="a"), entry(0.74, detector="b")]
    assert ranked(*one).ranks == [1, 2]
    more = [entry(0.84, 1, detector="a"), entry(0.80, 1, detector="b")]
    found = ranked(*one, *more)
    assert found.ranks == [1, 1]
    assert "the spread of several networks" in found.remark


def test_too_many_are_not_compared() -> None:
    found = ranked(*(entry(0.8, detector=f"d{i}") for i in range(ranking.MOST + 1)))
    assert found.ranks == list(range(1, ranking.MOST + 2))


def test_the_page_has_ranks_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name, seed, quality in (("a", 1, 1.6), ("b", 2, 1.6), ("c", 3, 0.8)):
        stored_result(tmp_path, name, *drawn(seed, quality))
    page = leaderboard.page(PAGE, tmp_path)
    assert [row["Rank"] for row in tables(page)[0]] == ["1", "1", "3"]
    assert page == leaderboard.page(PAGE, tmp_path)
    assert np.array_equal([row["#"] for row in tables(page)[0]], ["1", "2", "3"])


def test_one_alone_is_first() -> None:
    assert ranked(entry(0.8, detector="a")).ranks == [1]
