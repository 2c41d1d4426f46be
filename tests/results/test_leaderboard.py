"""Leaderboard pages: a function of the rows, ranked, with every set and figure."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

import oodbench
from oodbench import Protocol
from oodbench.data.content import Content
from oodbench.registry import BENCHMARKS
from oodbench.results import footnotes, leaderboard, seeds
from tests.conftest import REPOSITORY
from tests.helpers.pages import PAGE, entry, tables
from tests.helpers.rows import CPU, NEAR_A, PREPROCESS, TOY, TUNED, absent, evaluate


def whole(benchmark: oodbench.Benchmark, rows: Any) -> str:
    """The page with every line and a table for each set."""
    return leaderboard.render(benchmark, rows, whole=True)


def test_regenerating_changes_no_byte(tmp_path: Path) -> None:
    evaluate(PAGE, detectors=["msp", "knn"], leaderboards=tmp_path)
    path = leaderboard.write(PAGE, tmp_path)
    assert path == tmp_path / "toy.md"
    content, stamp = path.read_bytes(), path.stat().st_mtime_ns
    time.sleep(0.02)
    evaluate(PAGE, detectors=["msp", "knn"], leaderboards=tmp_path)
    assert leaderboard.write(PAGE, tmp_path) == path
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == stamp
    evaluate(PAGE, detectors="energy", leaderboards=tmp_path)
    leaderboard.write(PAGE, tmp_path)
    assert path.read_bytes() != content


def test_page_is_a_function_of_the_rows() -> None:
    rows = [*entry(0.7), *entry(0.8, detector="knn", detector_options={"k": 5})]
    assert whole(PAGE, rows) == whole(PAGE, iter(list(rows)))


def test_remarks_of_the_benchmark_stand_at_the_head() -> None:
    remarks = ("The ID set is *small*.", "Pixels are far from independent.")
    page = whole(dataclasses.replace(PAGE, remarks=remarks), entry(0.7))
    head, _ = page.split("\n## ", 1)
    for text in ("\n\nThe ID set is &#42;small&#42;.\n", "\n\nPixels are far from independent.\n"):
        assert text in head
    without = page
    for text in ("The ID set is &#42;small&#42;.\n\n", "Pixels are far from independent.\n\n"):
        without = without.replace(text, "")
    assert without == whole(PAGE, entry(0.7))


def test_every_set_and_figure_is_there() -> None:
    """AUROC, both FPR@95 by their names, AUPR, accuracy: averages and each set."""
    page = whole(PAGE, entry(0.7))
    main, *sets, made = tables(page)
    (line,) = main
    assert line["near AUROC"] == "70.00 [69.00, 71.00]"
    assert line["far AUROC"] == "80.00 [79.00, 81.00]"
    assert line["near FPR@95 (ID positive)"] == "30.00"
    assert line["near FPR@95 (OOD positive)"] == "15.00"
    assert line["far FPR@95 (ID positive)"] == "20.00"
    assert line["ID accuracy"] == "90.00"
    assert (line["Detector"], line["Method"], line["Backbone"]) == ("msp", "ce (quick)", "net")
    assert len(sets) == 4
    headings = [text for text in page.splitlines() if text.startswith("### ")]
    assert [h.removeprefix("### ") for h in headings[:4]] == ["near", "far", "near-a", "far-a"]
    for table in sets:
        for column in ("FPR@95 (ID positive)", "FPR@95 (OOD positive)", "AUPR-in", "AUPR-out"):
            assert column in table[0]
    assert sets[3][0]["AUPR-in"] == "40.00"
    assert (
        "FPR@95"
        not in page.replace("FPR@95 (ID positive)", "")
        .replace("FPR@95 (OOD positive)", "")
        .partition("## near, far")[2]
    ), "no FPR is printed without the name of its positive class"
    assert "oodbench 0.1" in made[0]["With"]
    assert "torch 2" in made[0]["With"]
    assert made[0]["When"] == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("protocol", "order"),
    [
        (Protocol(), ["good", "fair", "poor"]),
        (Protocol(rank_by="fpr95_id"), ["good", "fair", "poor"]),
        (Protocol(rank_by="aupr_in", rank_group="far"), ["good", "fair", "poor"]),
        (Protocol(rank_by="fpr95_ood"), ["poor", "fair", "good"]),
    ],
    ids=lambda value: f"{value.rank_by} {value.rank_group}" if isinstance(value, Protocol) else "",
)
def test_ranked_by_the_protocols_metric(protocol: Protocol, order: list[str]) -> None:
    rows = []
    # fpr95_ood is turned round, so that a page that ranks by something else would show
    for name, value in (("fair", 0.7), ("poor", 0.5), ("good", 0.9)):
        rows += entry(value, detector=name, fpr95_ood=value)
    page = whole(dataclasses.replace(PAGE, protocol=protocol), rows)
    for table in tables(page)[:5]:
        assert [line["Detector"] for line in table] == order
        assert [line["#"] for line in table] == ["1", "2", "3"]
    assert leaderboard.NAMES[protocol.rank_by] in page.split("Ranked by", 1)[1].split(".")[0]


def test_seeds_are_one_line_with_mean_and_deviation() -> None:
    """Where there are no intervals over images; see test_seeds.py and test_footnotes.py."""
    values = [0.70, 0.73, 0.79]
    bare = dict.fromkeys(("auroc_low", "auroc_high"))
    rows = [r for seed, value in enumerate(values) for r in entry(value, seed, **bare)]
    (line,) = tables(whole(PAGE, rows))[0]
    # mean 0.74; deviations -0.04, -0.01, 0.05; sample variance 0.0042 / 2
    assert line["near AUROC"] == "74.00 ± 4.58"
    assert line["near AUROC"] == f"74.00 ± {100 * statistics.stdev(values):.2f}"
    assert line["far AUROC"] == "84.00 ± 4.58"
    assert line["ID accuracy"] == "90.00 ± 0.00"
    assert line["Seeds"] == "0, 1, 2"


def test_a_repeated_measurement_counts_once_and_the_newest() -> None:
    rows = [*entry(0.6), *entry(0.8, created="2026-02-01T00:00:00+00:00", torch="3")]
    page = whole(PAGE, rows)
    (line,) = tables(page)[0]
    assert line["near AUROC"] == "80.00 [79.00, 81.00]"
    assert "2026-01-01" not in page


@pytest.mark.parametrize(
    "other",
    [
        {"detector_options": {"k": 3}},
        {"method": "palm"},
        {"recipe": "published"},
        {"recipe_options": {"epochs": 3}},
        {"backbone": "wider"},
        {"recipe": None, "weights": "9" * 64},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_other_settings_are_another_line(other: dict[str, Any]) -> None:
    rows = [*entry(0.6), *entry(0.8, **other)]
    assert len(tables(whole(PAGE, rows))[0]) == 2


def test_settings_are_shown() -> None:
    (line,) = tables(whole(PAGE, entry(0.6, detector_options={"k": 3, "b": "x|y"})))[0]
    assert line["Settings"] == "b=x\\|y, k=3"


def test_tuned_entries_are_marked() -> None:
    options = {"k": 5}
    rows = [
        *entry(0.8, detector="knn", detector_options=options, tuned=TUNED),
        *entry(0.8, detector="knn", detector_options=options, tuned=None),
        *entry(0.6),
    ]
    page = whole(PAGE, rows)
    for table in tables(page):
        assert sorted(line["Detector"] for line in table) == ["knn", "knn †", "msp"]
    assert page.count("\n† ") == 1
    assert "toy-synthetic" in page.partition("\n† ")[2].splitlines()[0]
    # a section without them says nothing of it
    for row in rows[:4]:
        row["id_fingerprint"] = "2" * 64
    complete, other = whole(PAGE, rows).split("\n## ")[1:]
    assert ("†" in complete) != ("†" in other)
    assert "†" not in whole(PAGE, rows[4:])


def test_rows_without_the_column_are_those_with_nothing_in_it() -> None:
    old, new = entry(0.8), entry(0.8, tuned=None)
    assert [row["row_id"] for row in old] == [row["row_id"] for row in new]
    assert whole(PAGE, old) == whole(PAGE, new)
    assert len(tables(whole(PAGE, [*old, *entry(0.7, 1, tuned=None)]))[0]) == 1


def test_seeds_that_were_tuned_one_by_one_are_one_line() -> None:
    rows = [*entry(0.7, tuned=TUNED), *entry(0.8, 1, tuned={**TUNED, "auroc": 0.8, "tried": 3})]
    (line,) = tables(whole(PAGE, rows))[0]
    assert line["Detector"] == "msp †"
    assert line["Seeds"] == "0, 1"
    other = entry(0.8, 1, tuned={**TUNED, "fingerprint": "e" * 64})
    assert len(tables(whole(PAGE, [*rows[:4], *other]))[0]) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"id_fingerprint": "2" * 64},
        {"selection": "t", "ood_fingerprint": "2" * 64},
        {"preprocess": {"size": 8, "mode": "L", "resize": "stretch", "mean": [0], "std": [1]}},
        {"preprocess": {"size": 4, "mode": "L", "resize": "crop", "mean": [0], "std": [1]}},
    ],
    ids=["ID images", "OOD images", "size", "resize"],
)
def test_rows_on_other_data_never_share_a_table(other: dict[str, Any]) -> None:
    page = whole(PAGE, [*entry(0.6), *entry(0.8, detector="knn", **other)])
    for table in tables(page):
        assert len({line["Detector"] for line in table}) == 1
    assert page.count("\n## ") == 2


def test_a_networks_own_normalisation_is_not_other_data() -> None:
    shape = {"size": 4, "mode": "L", "resize": "stretch", "mean": [0.3], "std": [2]}
    page = whole(PAGE, [*entry(0.6), *entry(0.8, detector="knn", preprocess=shape)])
    assert page.count("\n## ") == 1


def test_other_selections_of_sets_never_share_a_table(tmp_path: Path) -> None:
    evaluate(detectors="msp", leaderboards=tmp_path)
    evaluate(detectors="energy", ood=["near-a", "far-a"], leaderboards=tmp_path)
    page = leaderboard.write(TOY, tmp_path, whole=True).read_text()
    for table in tables(page):
        assert len({line["Detector"] for line in table}) == 1
    assert "## near, far\n" in page
    assert "## near(near-a), far(far-a)\n" in page
    assert page.index("## near, far\n") < page.index("## near(near-a)"), "the most complete first"


@pytest.mark.parametrize("whole_first", [True, False])
def test_a_set_measured_in_two_selections_is_in_both(whole_first: bool, tmp_path: Path) -> None:
    """The row of a set is the same in both evaluations; each of the pages' tables has it."""
    selections: list[list[str] | None] = [None, ["far-a"]]
    for ood in selections if whole_first else reversed(selections):
        evaluate(ood=ood, leaderboards=tmp_path)
    page = leaderboard.write(TOY, tmp_path, whole=True).read_text()
    whole, part = (page.partition("\n## far(far-a)")[i] for i in (0, 2))
    assert "### far-a\n" in whole
    assert "### near-b\n" in whole
    assert "### far-a\n" in part
    assert "near" not in "".join(t for t in part.splitlines() if t.startswith("### "))
    for table in tables(page):
        (line,) = table
        assert "–" not in [cell for column, cell in line.items() if column != "Settings"]
    assert ", near-a" not in part


def test_rows_written_in_two_parts_are_one_evaluation(tmp_path: Path) -> None:
    """A crash cut the first part short; the rest came later, with another time."""
    first = entry(0.7)
    later = entry(0.7, created="2026-03-01T00:00:00+00:00")
    expected = tables(whole(PAGE, first))[:-1]
    for cut in range(len(first) + 1):
        page = whole(PAGE, [*first[:cut], *later[cut:]])
        assert tables(page)[:-1] == expected
        assert page.count("\n## ") == 1


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_an_evaluation_cut_short_does_not_break_the_page(kept: int) -> None:
    page = whole(PAGE, entry(0.9, detector="cut")[:kept])
    assert "cut" in page
    page = whole(PAGE, [*entry(0.9, detector="cut")[:kept], *entry(0.6)])
    first = tables(page)[0]
    if kept < 3:
        assert [line["Detector"] for line in first] == ["msp", "cut"], "nothing to rank it by"
    assert {line["Detector"]: line["far AUROC"] for line in first}["cut"] == "–"


def test_no_rows_say_how_to_get_some() -> None:
    page = whole(PAGE, [])
    assert "No results yet" in page
    assert "oodbench eval" in page


def test_incomplete_groups_are_named_on_the_page(tmp_path: Path) -> None:
    some = dataclasses.replace(TOY, near=(NEAR_A, absent("tin")))
    evaluate(some, leaderboards=tmp_path)
    page = leaderboard.write(some, tmp_path).read_text()
    assert "near(near-a) AUROC" in page
    assert "## near(near-a), far\n" in page


def test_seeds_of_trained_networks_end_on_one_line(tmp_path: Path) -> None:
    benchmark = dataclasses.replace(TOY, preprocess=dataclasses.replace(PREPROCESS, size=8))
    results = oodbench.evaluate(
        benchmark=dataclasses.replace(benchmark, backbone="digits-cnn"),
        detectors=["msp", "energy"],
        recipe="quick",
        recipe_options={"epochs": 1, "batch_size": 16},
        seed=[0, 1],
        hardware=CPU,
        leaderboards=tmp_path,
    )
    assert [row["seed"] for row in results] == [0] * 14 + [1] * 14
    near = [r for r in results if r["detector"] == "msp" and r["ood"] == "near"]
    line = {
        r["Detector"]: r
        for r in tables(leaderboard.write(TOY, tmp_path, whole=True).read_text())[0]
    }["msp"]
    for metric, name in (("auroc", "AUROC"), ("fpr95_ood", "FPR@95 (OOD positive)")):
        ends = [(r[f"{metric}_low"], r[f"{metric}_high"]) for r in near]
        low, high = seeds.interval([r[metric] for r in near], ends)
        mean = statistics.fmean(r[metric] for r in near)
        told = f"{100 * mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        if high - low > footnotes.WIDE and statistics.fmean(b - a for a, b in ends) < high - low:
            told = f"{100 * mean:.2f} ± {100 * statistics.stdev(r[metric] for r in near):.2f}"
        assert line[f"near {name}"].removesuffix(" ◊").removesuffix(" ¶") == told
    assert line["Seeds"] == "0, 1"
    assert results.rows[0]["recipe_options"]["epochs"] == 1
    assert results.rows[0]["method"] == "ce"


PAGES = [
    page
    for page in sorted((REPOSITORY / "leaderboards").glob("*.md"))
    if page.stem != "SUBMITTING"  # which tells how to add to them
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_committed_pages_are_made_of_the_committed_rows(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "leaderboards"
    if (rows := page.parent / "results" / page.stem).is_dir():
        shutil.copytree(rows, folder / "results" / page.stem)
    (name,) = (name for name in BENCHMARKS.names() if name.replace("/", "-") == page.stem)
    made = leaderboard.write(oodbench.get_benchmark(benchmark=name), folder)
    assert made.name == page.name
    assert made.read_bytes() == page.read_bytes()
    table = page.with_suffix(".csv")
    assert made.with_suffix(".csv").is_file() == table.is_file()
    if table.is_file():
        assert made.with_suffix(".csv").read_bytes() == table.read_bytes()
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 120


def many_lines() -> list[dict[str, Any]]:
    """Forty detectors, of which three have other settings as well, with two methods."""
    rows = []
    for number in range(40):
        rows += entry(0.80 - number / 100, detector=f"d{number:02d}", weights=f"{number:064d}")
    for number in range(3):
        rows += entry(0.79 - number / 100, detector=f"d{number:02d}", detector_options={"k": 5})
    return rows + entry(0.30, detector="late", method="other")


def test_a_page_has_the_best_line_of_each_detector_and_method() -> None:
    page = leaderboard.render(PAGE, many_lines())
    main, *_ = tables(page)
    names = [line["Detector"].removesuffix(" ¶") for line in main]
    assert len(main) == leaderboard.MOST == 25
    assert names == [*(f"d{number:02d}" for number in range(24)), "late"]
    assert all(line["Settings"] == "–" for line in main)
    assert main[-1]["#"] == "44", "its place among all lines"
    assert "25 of 44 lines" in page
    assert "25 of 44 lines" not in whole(PAGE, many_lines())
    assert len(tables(whole(PAGE, many_lines()))[0]) == 44
    few = leaderboard.render(PAGE, entry(0.7))
    assert " lines: of each detector," not in few


def test_a_page_says_how_to_repeat_it_in_few_lines() -> None:
    command = "oodbench eval --id toy --seed {} --detector msp,knn"
    rows = []
    for seed in range(3):
        for detector in ("msp", "knn"):
            rows += entry(0.7 + seed / 50, seed, detector=detector, command=command.format(seed))
    rows += entry(0.6, 0, detector="energy", command=None)
    first, second = tables(leaderboard.render(PAGE, rows))[-1]
    assert first["Command"] == "`oodbench eval --id toy --seed 0,1,2 --detector msp,knn`"
    assert (first["#"], first["Seeds"]) == ("1, 2", "0–2")
    assert (second["#"], second["Seeds"], second["Command"]) == ("3", "0", "Python")


def bounded(least: float) -> oodbench.Benchmark:
    protocol = Protocol(least_accuracy=least, least_accuracy_source="A. Author has 95 %")
    return dataclasses.replace(PAGE, protocol=protocol)


def test_short_runs_stand_below_and_are_not_ranked_among_the_others() -> None:
    rows = [
        *entry(0.9, detector="short", id_accuracy=0.89),
        *entry(0.8, detector="full", id_accuracy=0.91),
        *entry(0.7, 0, detector="mixed", id_accuracy=0.88),
        *entry(0.7, 1, detector="mixed", id_accuracy=0.93),
    ]
    page = leaderboard.render(bounded(0.9), rows)
    main, short = tables(page)[:2]
    assert [line["Detector"] for line in main] == ["full", "mixed"], "the mean over seeds counts"
    assert [line["Detector"] for line in short] == ["short"]
    assert [line["#"] for line in (*main, *short)] == ["1", "2", "3"]
    assert short[0]["Rank"] == "3"
    assert "below 90 %" in page.partition("### Short runs")[2]
    assert "A. Author has 95 %" in page
    assert "Short runs" not in leaderboard.render(PAGE, rows)
    assert "Lines from 3 on are short runs." in whole(bounded(0.9), rows)
    none = leaderboard.render(bounded(0.99), rows)
    assert "No network here classifies as those of the literature do." in none
    assert [line["Detector"] for line in tables(none)[0]] == ["short", "full", "mixed"]


@pytest.mark.parametrize("least", [0.0, 1.0, -1.0])
def test_a_bound_that_is_none_is_refused(least: float) -> None:
    with pytest.raises(oodbench.errors.OptionError, match="least_accuracy"):
        bounded(least)
    with pytest.raises(oodbench.errors.OptionError, match="source"):
        Protocol(least_accuracy=0.5)


def test_rows_of_another_version_have_a_table_of_their_own_and_say_so() -> None:
    second = dataclasses.replace(PAGE, version=2)
    rows = [*entry(0.9), *entry(0.7, benchmark_version=2, detector="knn")]
    page = whole(second, rows)
    first, other = page.split("\n## ")[1:]
    assert "These rows are of version" not in first
    assert "| 1 | knn |" in first, "those of this version come first, whatever their figures"
    assert "These rows are of version 1 of the benchmark" in other
    assert "This is version 2." in other
    assert whole(PAGE, entry(0.9)).count("\n## ") == 1
    results = evaluate(dataclasses.replace(TOY, version=2))
    assert {row["benchmark_version"] for row in results} == {2}
    assert {row["benchmark_version"] for row in evaluate(TOY)} == {None}


def test_a_page_says_what_supersedes_it_and_over_how_many_networks_papers_average() -> None:
    protocol = dataclasses.replace(PAGE.protocol, seeds=3)
    changed = dataclasses.replace(PAGE, superseded_by="toy/better", protocol=protocol)
    page = whole(changed, entry(0.9))
    assert "Superseded by `toy/better`." in page
    assert "means over 3 trained networks" in page
    plain = whole(PAGE, entry(0.9))
    assert "Superseded" not in plain
    assert "trained networks" not in plain


def test_other_content_than_was_published_is_told_in_rows() -> None:
    content = Content(21, "ab" * 32)
    other = dataclasses.replace(NEAR_A, contents={"test": content})
    (near, *rest) = evaluate(dataclasses.replace(TOY, groups={"near": (other,), "far": ()}))
    assert rest
    (note,) = near["notes"]
    assert note.startswith("near-a/test: 21 images expected with fingerprint abababababab…, found ")
    assert "in no table with those" in note
