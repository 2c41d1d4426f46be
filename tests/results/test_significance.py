"""Whether two stored results differ by more than noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oodbench import get_benchmark
from oodbench.errors import OODBenchError, OptionError
from oodbench.results import scores, significance, stored
from oodbench.results.significance import Side, compare_sides, ranking_of, sentence, sides_of
from oodbench.results.stored import StoredResult
from tests.conftest import REPOSITORY
from tests.helpers.pages import PAGE
from tests.helpers.results import drawn, stored_result


def compared(one: list[StoredResult], other: list[StoredResult]) -> tuple[str, bool]:
    """The sentence, and whether the ranking figure is told apart."""
    (a,), (b,) = sides_of(one), sides_of(other)
    chief = ranking_of(compare_sides(a, b, ("auroc", "fpr95_id"), draws=100), PAGE)
    return sentence(a, b, chief), chief.is_told_apart


def test_a_better_detector_is_told_apart(tmp_path: Path) -> None:
    good = stored_result(tmp_path, "good", *drawn(1, 1.5))
    bad = stored_result(tmp_path, "bad", *drawn(2, 0.7))
    text, is_apart = compared([bad], [good])
    assert is_apart
    assert text.startswith("Told apart: good is better than bad by ")
    assert "more than noise over 400 ID and 400 OOD samples" in text
    assert "DeLong, p < 0.0001" in text


def test_noise_is_not_told_apart(tmp_path: Path) -> None:
    one = stored_result(tmp_path, "one", *drawn(1, 1.0))
    other = stored_result(tmp_path, "other", *drawn(2, 1.0))
    text, is_apart = compared([one], [other])
    assert not is_apart
    assert text.startswith("Not told apart: ")
    assert "no more than noise" in text


def test_results_that_differ_by_seed_alone_are_not_told_apart(tmp_path: Path) -> None:
    """Although the images alone would tell these two networks apart."""
    one = stored_result(tmp_path, "msp", *drawn(1, 1.5), seed=0)
    other = stored_result(tmp_path, "msp", *drawn(2, 0.7), seed=1)
    text, is_apart = compared([one], [other])
    assert not is_apart
    assert "differ by the seed alone" in text
    assert "msp (seed 0) and msp (seed 1)" in text


def test_seeds_of_an_entry_are_one_side_with_their_spread(tmp_path: Path) -> None:
    """Of two seeds the spread between networks outweighs what the images say."""
    one = [stored_result(tmp_path, "one", *drawn(s, q), seed=s) for s, q in ((0, 1.0), (1, 1.9))]
    other = [
        stored_result(
            tmp_path, "other", *drawn(s + 9, q), seed=s, method="x", weights=f"{s + 9:064d}"
        )
        for s, q in ((0, 0.8), (1, 1.2))
    ]
    text, is_apart = compared(one, other)
    assert not is_apart
    assert "They are means over 2 and 2 networks, whose spread is in this." in text
    text, is_apart = compared(one[1:], other[:1])  # the images alone would tell these apart
    assert is_apart
    assert "takes several" in text


def test_other_images_are_refused(tmp_path: Path) -> None:
    one = stored_result(tmp_path, "one", *drawn(1, 1.0))
    other = stored_result(tmp_path, "other", *drawn(2, 1.0), id_fingerprint="2" * 64)
    with pytest.raises(OptionError, match="not measured on the same images"):
        compared([one], [other])


def test_without_scores_it_is_refused(tmp_path: Path) -> None:
    one = stored_result(tmp_path, "one", *drawn(1, 1.0), keep=False)
    other = stored_result(tmp_path, "other", *drawn(2, 1.0))
    with pytest.raises(OptionError, match="scores of one were not kept"):
        compared([one], [other])


def test_changed_and_missing_scores_are_refused(tmp_path: Path) -> None:
    one = stored_result(tmp_path, "one", *drawn(1, 1.0))
    assert one.scores_path is not None
    kept = scores.read(one.scores_path)
    kept[scores.ID] = kept[scores.ID][::-1]
    one.scores_path.write_bytes(scores.encode(kept))
    with pytest.raises(OODBenchError, match="were changed"):
        sides_of([one])
    one.scores_path.unlink()
    with pytest.raises(OODBenchError, match="are missing"):
        sides_of([one])


def test_many_sets_are_corrected_for(tmp_path: Path) -> None:
    (a,), (b,) = (
        sides_of([stored_result(tmp_path, name, *drawn(s, 1.0))])
        for s, name in ((1, "a"), (2, "b"))
    )
    found = compare_sides(a, b, ("auroc",))
    assert [one.ood for one in found] == ["near-a", "far-a", "near", "far"]
    smallest = min(found, key=lambda one: one.p)
    assert smallest.p_holm == pytest.approx(min(1.0, 4 * smallest.p))


def test_shifted_sets_that_count_as_id_are_in_the_id_scores(tmp_path: Path) -> None:
    """As in the rows: what is derived again are the rows' own figures."""
    ids, sets = drawn(1, 1.0)
    kept = {scores.ID: ids, scores.of_ood("fog"): ids[:50] + 0.1}
    kept |= {scores.of_ood(name): own for name, own in sets.items()}
    row = {"ood": "near-a", "is_mean": False, "ood_sets": ["near-a"]}
    found = significance.Sampled(kept, ("fog",)).of(row)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found[0], np.concatenate([ids, ids[:50] + 0.1]))
    row = {"ood": "fog", "is_mean": False, "ood_sets": ["fog"]}
    assert len(significance.Sampled(kept, ("fog",)).of(row)[0]) == 400  # type: ignore[arg-type]


BOARD = REPOSITORY / "leaderboards" / "results" / "cifar10-openood"


def committed(detector: str) -> Side:
    (side,) = sides_of([stored.read(path) for path in BOARD.glob(f"{detector}-*.json")][:1])
    return side


def test_msp_and_energy_on_cifar10_are_told_apart() -> None:
    """Real scores of 9,000 ID images; the figures are those of the committed page."""
    msp, energy = committed("msp"), committed("energy")
    found = compare_sides(msp, energy, ("auroc",))
    chief = ranking_of(found, get_benchmark(benchmark="cifar10/openood"))
    assert chief.ood == "near"
    assert chief.is_told_apart
    rows = {row["ood"]: row["auroc"] for row in msp.entry.rows.values()}
    assert {one.ood: one.one for one in found} == pytest.approx(rows)
    assert "energy is better than msp" in sentence(msp, energy, chief)
