"""What a page marks: duplicates, directions reversed, intervals that say little, single seeds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from oodbench.dataset import DatasetSpec
from oodbench.datasets.ptood import PROTOCOL
from oodbench.results import leaderboard
from oodbench.results.rows import METRICS, row_id
from oodbench.results.seeds import interval
from tests.helpers.pages import PAGE, entry, tables


def changed(rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """Rows with other fields; a function is given the row."""
    made = []
    for row in rows:
        new = {k: v(row) if callable(v) else v for k, v in fields.items()}
        made.append({**row, **new, "row_id": ""})
    return [{**row, "row_id": row_id(row)} for row in made]


def page(*entries: list[dict[str, Any]], benchmark: Any = PAGE) -> str:
    return leaderboard.render(benchmark, [row for rows in entries for row in rows], whole=True)


def names(text: str) -> list[str]:
    return [line["Detector"] for line in tables(text)[0]]


def line_of(text: str, mark: str) -> str:
    """The sentence below the first table that a mark sends to."""
    first = text.partition("\n## ")[2].partition("\n### ")[0]
    found = [line for line in first.splitlines() if line.startswith(f"{mark} ")]
    assert len(found) == 1, f"{mark}: {found}"
    return found[0]


# one detector under two names


def test_the_same_figures_on_the_same_network_are_marked() -> None:
    text = page(entry(0.7), entry(0.7, detector="twin"), entry(0.6, detector="other"))
    assert names(text) == ["msp §", "twin §", "other"]
    told = line_of(text, "§")
    assert "one detector under two names (or settings) here. 1 msp = 2 twin." in told
    for table in tables(text):
        assert {line["Detector"] for line in table} == {"msp §", "twin §", "other"}


def test_three_of_a_kind_are_one_group() -> None:
    text = page(*(entry(0.7, detector=name) for name in "abc"), entry(0.5, detector="d"))
    assert "1 a = 2 b = 3 c." in line_of(text, "§")


def test_rounding_is_no_difference_but_a_printed_digit_is() -> None:
    nearly = changed(entry(0.7, detector="twin"), auroc=lambda row: row["auroc"] - 1e-6)
    assert "§" in names(page(entry(0.7), nearly))[0]
    for metric in METRICS:
        # of one set alone, and by what the page just shows
        rows = entry(0.7, detector="twin")
        rows[1] = changed(rows[1:2], **{metric: rows[1][metric] + 2e-4})[0]
        assert "§" not in page(entry(0.7), rows), metric


@pytest.mark.parametrize(
    "other",
    [
        {"weights": "7" * 64},
        {"seed": 1, "weights": f"{1:064d}"},
        {"detector": "msp", "tuned": {"ood": ["x"], "fingerprint": "f" * 64}},
    ],
    ids=["another network", "another seed", "the same detector, options chosen"],
)
def test_no_twins(other: dict[str, Any]) -> None:
    rows = changed(entry(0.7, detector="twin"), **other)
    assert "§" not in page(entry(0.7), rows)


def test_one_detector_with_an_option_that_does_nothing_is_a_twin() -> None:
    options = {"detector_options": {"percentile": 100}}
    assert names(page(entry(0.7), entry(0.7, **options))) == ["msp §", "msp §"]


def figures(auroc: float, near: float = 0.0) -> dict[str, float]:
    one = {"auroc": auroc, "aupr_in": auroc, "aupr_out": auroc, "auroc_low": 0.0, "auroc_high": 1.0}
    return {**one, "fpr95_id": near, "fpr95_ood": near}


@pytest.mark.parametrize(
    "same",
    [
        figures(1.0),
        figures(0.5, 1.0),
        {**figures(1 - 1 / (60 * 20)), "aupr_in": 0.9999},
        {**figures(0.75), "n_id": 4, "n_ood": 3},
    ],
    ids=["perfect", "constant scores", "one pair in the wrong order", "a few images"],
)
def test_harmless_coincidences(same: dict[str, float]) -> None:
    text = page(changed(entry(0.7), **same), changed(entry(0.7, detector="other"), **same))
    assert "§" not in text


def test_two_very_good_detectors_are_not_one() -> None:
    """Their figures agree to the page's digits since nothing is left to differ in."""
    many = {"n_id": 10_000, "n_ood": 10_000}
    one, other = ({**figures(value), **many} for value in (0.99998, 0.99997))
    text = page(changed(entry(0.7), **one), changed(entry(0.7, detector="other"), **other))
    assert "§" not in text
    text = page(changed(entry(0.7), **one), changed(entry(0.7, detector="other"), **one))
    assert "§" in text  # two thousand pairs in the wrong order, the same ones


def test_a_perfect_set_beside_one_that_is_not() -> None:
    """An easy set says nothing, the other does."""
    rows = entry(0.7)
    rows = [*changed(rows[:1], **figures(1.0)), *rows[1:]]
    twin = changed(rows, detector="twin")
    assert "§" in page(rows, twin)
    other = changed(entry(0.65, detector="other"))
    other = [*changed(other[:1], **figures(1.0)), *other[1:]]
    assert "§" not in page(rows, other)


def test_twins_of_several_seeds() -> None:
    both = [*entry(0.7), *entry(0.75, 1)]
    assert "§" in page(both, changed(both, detector="twin"))
    half = [*entry(0.7), *entry(0.76, 1)]
    assert "§" not in page(both, changed(half, detector="twin"))


# an AUROC far below one half


def test_a_direction_reversed_sends_to_a_sentence() -> None:
    text = page(entry(0.25), entry(0.7, detector="good"))
    main, *sets, _ = tables(text)
    assert main[1]["near AUROC"] == "25.00 [24.00, 26.00] ¶"
    assert main[1]["far AUROC"] == "35.00 [34.00, 36.00] ¶"
    assert "¶" not in main[0]["near AUROC"]
    told = line_of(text, "¶")
    assert "AUROC below 40" in told
    assert "the direction is reversed" in told
    assert "artefact of the set-up" in told
    # below each table that has one, and no other
    assert [table[1]["AUROC"].endswith("¶") for table in sets] == [True] * 4
    assert text.count("\n¶ ") == 5


def test_where_the_mark_begins() -> None:
    assert "¶" in page(changed(entry(0.3), auroc=0.3999, auroc_low=0.3))
    assert "¶" not in page(changed(entry(0.3), auroc=0.4, auroc_low=0.3, auroc_high=0.5))
    # other figures than AUROC may be as low as they like
    assert "¶" not in page(changed(entry(0.7), aupr_in=0.01, fpr95_id=0.0))


def test_one_set_below_in_a_group_that_is_not() -> None:
    rows = entry(0.7)
    rows[0] = changed(rows[:1], auroc=0.2, auroc_low=0.1, auroc_high=0.3)[0]
    text = page(rows)
    assert "¶" not in text.partition("### near-a")[0]
    assert "\n¶ " in text.partition("### near-a")[2].partition("### far-a")[0]


def test_one_seed_below_in_a_mean_that_is_not() -> None:
    text = page([*entry(0.7), *entry(0.3, 1), *entry(0.68, 2)])
    assert "¶" not in text.partition("### Seeds")[0]
    (line,) = tables(text.partition("### Seeds")[2])[0]
    assert line["near AUROC"] == "70.00, 30.00 ¶, 68.00"
    assert "\n¶ " in text.partition("### Seeds")[2].partition("### near")[0]


def test_what_the_rows_know_of_it_is_pointed_at() -> None:
    why = "190 dimensions of 1280 have a variance: distances in the others are not seen."
    text = page(entry(0.2, detector="short", notes=[why]), entry(0.3, detector="bare"))
    assert "What is known of it is said under ‡: short." in line_of(text, "¶")
    assert why in text.partition("‡ What a reader")[2].partition("### ")[0]
    assert "said under" not in page(entry(0.2))


def test_notes_of_any_seed_are_marked() -> None:
    text = page([*entry(0.7), *entry(0.7, 1, notes=["only here"])])
    assert names(text) == ["msp ‡"]


# intervals that say little


def test_a_wide_interval_of_a_few_images() -> None:
    few = {"n_ood": 12, "auroc_low": 0.4, "auroc_high": 0.9}
    text = page(changed(entry(0.6), **few))
    assert tables(text)[0][0]["near AUROC"] == "60.00 [40.00, 90.00] ◊"
    told = line_of(text, "◊")
    assert "wider than 40 points says little" in told
    assert "near (n = 12 images)" in told
    assert "seeds" not in told
    assert "◊" not in page(changed(entry(0.6), auroc_low=0.4, auroc_high=0.79))


def test_any_figures_interval() -> None:
    wide = {"aupr_in_low": 0.0, "aupr_in_high": 0.9, "aupr_in": 0.5}
    text = page(changed(entry(0.6), **wide))
    assert "◊" not in text.partition("### near")[0]
    assert text.count("50.00 [0.00, 90.00] ◊") == 4
    assert text.count("\n◊ ") == 4


def test_a_wide_interval_of_seeds_that_differ() -> None:
    text = page([r for seed, value in enumerate((0.5, 0.9, 0.7)) for r in entry(value, seed)])
    assert "3 seeds that differ this much (mean ± deviation over seeds" in line_of(text, "◊")
    assert tables(text)[0][0]["near AUROC"] == "70.00 ± 20.00 ◊", "no interval says so little"
    assert "n = " not in line_of(text, "◊")


def test_a_wide_interval_of_a_rate_on_many_images() -> None:
    """A threshold where the ROC curve is flat, not images that are few."""
    wide = {"n_id": 271, "n_ood": 714, "fpr95_id": 0.4, "fpr95_id_low": 0.1, "fpr95_id_high": 0.6}
    told = line_of(page(changed(entry(0.7), **wide)), "◊")
    assert "FPR@95 of near, whose threshold many scores are near" in told
    assert "n = " not in told


def test_boxes_are_no_images() -> None:
    few = {"n_ood": 12, "auroc_low": 0.4, "auroc_high": 0.9, "id_map": 0.5}
    boxes = dataclasses.replace(PAGE, task="detection")
    assert "near (n = 12 boxes)" in line_of(page(changed(entry(0.6), **few), benchmark=boxes), "◊")


# several seeds


def test_an_outlier_is_seen() -> None:
    values = [0.766, 0.902, 0.947]
    rows = [r for s, v in enumerate(values) for r in entry(v - 0.1, s, id_accuracy=v)]
    text = page(rows, entry(0.9, detector="single"))
    (line,) = tables(text.partition("### Seeds")[2])[0]
    assert line == {
        "#": "2",
        "Detector": "msp",
        "Seeds": "0, 1, 2",
        "near AUROC": "66.60, 80.20, 84.70",
        "far AUROC": "76.60, 90.20, 94.70",
        "ID accuracy": "76.60, 90.20, 94.70",
    }
    assert "### Seeds" not in page(entry(0.9))


def test_a_seed_that_lacks_a_row_has_a_dash() -> None:
    text = page([*entry(0.7), *entry(0.8, 1)[:3]])
    (line,) = tables(text.partition("### Seeds")[2])[0]
    assert (line["near AUROC"], line["far AUROC"]) == ("70.00, 80.00", "80.00, –")


def test_the_ranking_figure_is_among_the_seeds() -> None:
    protocol = dataclasses.replace(PAGE.protocol, rank_by="fpr95_id")
    rows = [*entry(0.7), *entry(0.8, 1)]
    text = page(rows, benchmark=dataclasses.replace(PAGE, protocol=protocol))
    (line,) = tables(text.partition("### Seeds")[2])[0]
    assert line["near FPR@95 (ID positive)"] == "30.00, 20.00"


def test_seeds_with_intervals_over_images_have_one_over_both() -> None:
    values = [0.70, 0.73, 0.79]
    low, high = interval(values, [(v - 0.01, v + 0.01) for v in values])
    text = page([r for seed, value in enumerate(values) for r in entry(value, seed)])
    (line,) = tables(text)[0]
    assert line["near AUROC"] == f"74.00 [{100 * low:.2f}, {100 * high:.2f}]"
    assert low < 0.70
    assert high > 0.79
    # what has none over images says what it has instead
    assert line["near FPR@95 (ID positive)"] == "26.00 ± 4.58"
    head = text.partition("\n## ")[0]
    assert "interval over seeds and images together" in head
    assert "± the deviation over seeds where there is none over images" in head


def test_rows_from_before_and_new_ones_are_on_one_page() -> None:
    new = {f"{m}_{e}": lambda row, m=m, d=d: row[m] + d
           for m in METRICS for e, d in (("low", -0.01), ("high", 0.01))}  # fmt: skip
    old, made = entry(0.7), changed(entry(0.6, detector="new"), **new)
    first = tables(page(old, made))[0]
    assert first[0]["near FPR@95 (ID positive)"] == "30.00"
    assert first[1]["near FPR@95 (ID positive)"] == "40.00 [39.00, 41.00]"
    assert "older rows" in page(old, made).partition("\n## ")[0]
    assert "older rows" not in page(made).partition("\n## ")[0]


# other sentences


def test_aupr_is_said_to_be_average_precision() -> None:
    for rows in ([], entry(0.7)):
        assert "AUPR is average precision; the trapezoid" in page(rows)


def test_the_gap_is_arithmetic() -> None:
    spec = lambda name: DatasetSpec(name, lambda _: None)  # type: ignore[arg-type,return-value]
    benchmark = dataclasses.replace(
        PAGE,
        near=(),
        far=(),
        familiar=(spec("seen"),),
        unfamiliar=(spec("new"),),
        protocol=PROTOCOL,
    )
    other = {"near": "familiar", "far": "unfamiliar", "near-a": "seen", "far-a": "new"}
    rows = changed(
        entry(0.7),
        group=lambda row: other[row["group"]],
        ood=lambda row: other[row["ood"]],
        gap=lambda row: 0.1 if row["ood"] == "near" else None,
        gap_low=lambda row: 0.05 if row["ood"] == "near" else None,
        gap_high=lambda row: 0.15 if row["ood"] == "near" else None,
    )
    text = page(rows, benchmark=benchmark)
    assert tables(text)[0][0]["Gap"] == "10.00 [5.00, 15.00]"
    told = next(line for line in text.splitlines() if line.startswith("Gap: "))
    assert "minus that of the familiar sets' mean" in told
    assert "names no cause" in told
    for claim in ("knows", "harder", "easier", "because"):
        assert claim not in told


def test_seeds_of_one_command_are_one_line_of_provenance() -> None:
    command = {"command": "oodbench eval --seed 0,1"}
    later = {**command, "created": "2026-01-02T00:00:00+00:00", "seconds": 0.75}
    made = tables(page([*entry(0.7, **command), *entry(0.8, 1, **later)]))[-1]
    assert len(made) == 1
    assert made[0]["Seed"] == "0, 1"
    assert made[0]["When"] == "2026-01-01T00:00:00+00:00, 2026-01-02T00:00:00+00:00"
    assert made[0]["Weights"] == f"`{0:012d}`"  # the first twelve digits of both
    assert made[0]["Fit + score (s)"] == "0.50, 0.75"
    made = tables(page([*entry(0.7, **command), *entry(0.8, 1, command="another")]))[-1]
    assert [line["Seed"] for line in made] == ["0", "1"]
