"""Whether several modalities help, as a page says it."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from scipy import stats

from oodbench.results import leaderboard, modalities
from oodbench.results.entries import entries_of
from tests.helpers.pages import PAGE, entry, tables


def measured(joint: list[float], image: list[float], audio: list[float], **fields: Any) -> list:
    rows = []
    for modality, values in ((None, joint), ("image", image), ("audio", audio)):
        for seed, value in enumerate(values):
            rows += entry(value, seed, modality=modality, **fields)
    return rows


def families(rows: list) -> list[modalities.Family]:
    return modalities.families_of(list(enumerate(entries_of(rows), start=1)))


def test_the_gain_is_over_the_better_one_alone_paired_by_network() -> None:
    joint, image, audio = [0.80, 0.84, 0.85], [0.70, 0.76, 0.73], [0.60, 0.81, 0.61]
    (family,) = families(measured(joint, image, audio))
    gain = family.gain("near", "auroc")
    assert gain is not None
    differences = [a - b for a, b in zip(joint, image, strict=True)]
    assert gain.values == pytest.approx(differences)
    expected = stats.t.interval(
        0.95, 2, statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(3)
    )
    assert (gain.mean - gain.half, gain.mean + gain.half) == pytest.approx(expected)
    assert gain.sign == 1
    rate = family.gain("near", "fpr95_id")
    assert rate is not None
    assert rate.mean == pytest.approx(gain.mean), "a lower rate is the better one"


@pytest.mark.parametrize(
    ("joint", "sign"), [([0.8, 0.81], 1), ([0.5, 0.51], -1), ([0.5, 0.95], 0), ([0.9], 0)]
)
def test_a_gain_within_the_spread_of_networks_is_none(joint: list[float], sign: int) -> None:
    n = len(joint)
    (family,) = families(measured(joint, [0.7, 0.71][:n], [0.6, 0.61][:n]))
    gain = family.gain("near", "auroc")
    assert gain is not None
    assert gain.sign == sign


def test_other_detectors_settings_and_methods_are_other_families() -> None:
    rows = [
        *measured([0.8, 0.81], [0.7, 0.7], [0.6, 0.6]),
        *measured([0.7, 0.71], [0.85, 0.87], [0.6, 0.6], detector="knn"),
        *measured([0.6, 0.61], [0.5, 0.5], [0.4, 0.4], method="palm"),
        *entry(0.9, detector="energy"),
        *entry(0.9, detector="vim", modality="image"),
    ]
    assert len(families(rows)) == 3
    page = leaderboard.render(PAGE, rows)
    answer = page.partition("### Do several modalities help?")[2]
    assert "**near**: all together is better than the better one alone in 2 of 3 lines, worse" in (
        answer
    )
    assert "worse in 1, not told apart in 0; median gain +10.50 points" in answer
    first = tables(page)[0]
    assert [line["Method"] for line in first] == ["ce (quick)", "palm (quick)"]
    assert first[0]["image"] in ("70.00", "80.00")
    assert page.index("Do several modalities help?") < page.index("### The best lines")


def test_nothing_is_said_where_nothing_was_measured_alone() -> None:
    assert "modalities" not in leaderboard.render(PAGE, entry(0.7))
    assert "modalities" not in leaderboard.render(PAGE, entry(0.7, modality="image"))
