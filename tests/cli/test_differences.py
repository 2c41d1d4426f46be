"""``oodbench compare`` of stored results."""

from __future__ import annotations

import json
from pathlib import Path

from oodbench.results.store import ResultStore
from tests.helpers.cli import CLI
from tests.helpers.results import drawn, stored_result


def board(folder: Path) -> None:
    """Three detectors on two networks."""
    for seed in (0, 1):
        weights = f"{seed:064d}"
        fields = {"recipe": None, "weights": weights, "backbone": f"net{seed}"}
        for i, (name, quality) in enumerate((("a", 1.6), ("b", 1.6), ("c", 0.8))):
            stored_result(folder, name, *drawn(10 * seed + i, quality), seed=0, **fields)


def test_detectors_by_name(run: CLI, tmp_path: Path) -> None:
    board(tmp_path)
    ran = run("compare", "a", "c", "--leaderboards", tmp_path)
    assert ran.status == 0, ran.both
    assert ran.out.count("Told apart: a is better than c") == 2  # on each network
    assert "net0 (" in ran.out
    assert "Holm's correction for 2 comparisons" in ran.out
    assert "Mean ranks over 4 blocks" in ran.out


def test_files_and_their_names(run: CLI, tmp_path: Path) -> None:
    board(tmp_path)
    one, other = (
        min((r for r in ResultStore(tmp_path).results("toy") if r.rows[0]["detector"] == name),
            key=lambda r: r.rows[0]["backbone"])
        for name in "ab"
    )  # fmt: skip
    by_file = run("compare", one.path, other.path)
    assert "Not told apart: " in by_file.out
    assert "not told apart" in by_file.out
    by_name = run("compare", one.path.stem, other.path.stem[:-4], "--leaderboards", tmp_path)
    assert by_name.out == by_file.out
    found = json.loads(run("compare", one.path, other.path, "--json").out)["compared"]
    assert {f["metric"] for f in found} == {"auroc", "fpr95_id", "fpr95_ood", "aupr_in", "aupr_out"}
    assert not any(f["told_apart"] for f in found if f["metric"] == "auroc")


def test_three_and_a_diagram(run: CLI, tmp_path: Path) -> None:
    board(tmp_path)
    plot = tmp_path / "cd.png"
    ran = run("compare", "a", "b", "c", "--leaderboards", tmp_path, "--plot", plot)
    assert ran.status == 0, ran.both
    assert "Friedman" in ran.out
    assert ran.out.count("Not told apart: a and b. All other pairs are.") == 2
    assert plot.is_file()
    ran = run(
        "compare", "a", "b", "c", "--leaderboards", tmp_path, "--json", "--posthoc", "nemenyi"
    )
    across = json.loads(ran.out)["across"]
    assert (len(across["blocks"]), across["posthoc"], len(across["pairs"])) == (4, "nemenyi", 3)


def test_what_is_refused(run: CLI, tmp_path: Path) -> None:
    board(tmp_path)
    where = ("--leaderboards", tmp_path)
    assert "two or more results" in run.refuses("compare", "a", *where)
    assert "Did you mean c?" in run.refuses("compare", "cc", "b", *where)
    assert "--epochs means nothing" in run.refuses("compare", "a", "b", "--epochs", "3", *where)
    assert "wilcoxon or nemenyi" in run.refuses("compare", "a", "b", "--posthoc", "x", *where)
    assert "there is no result" in run.refuses("compare", "x.json", "y.json")
    assert "there are no results" in run.refuses("compare", "a", "b", "--leaderboards", "nowhere")
    assert "name what is compared" in run.refuses("compare", "--id", "digits")
    assert "three or more" in run.refuses("compare", "a", "b", *where, "--plot", "x.png")
    for weights in ("0" * 64, "1".zfill(64)):
        other = {
            "recipe": None,
            "weights": weights,
            "backbone": "net0",
            "detector_options": {"k": 3},
        }
        stored_result(tmp_path, "a", *drawn(5, 1.0), **other)
    assert "several results on the same network" in run.refuses("compare", "a", "b", *where)


def test_networks_without_scores_are_passed_over_and_named(run: CLI, tmp_path: Path) -> None:
    board(tmp_path)
    for i, name in enumerate("ac"):
        fields = {"recipe": None, "weights": "7".zfill(64), "backbone": "old"}
        stored_result(tmp_path, name, *drawn(40 + i, 1.0 - 0.5 * i), keep=False, **fields)
    ran = run("compare", "a", "c", "--leaderboards", tmp_path)
    assert ran.status == 0
    assert "old (000000000000): passed over, as the scores of" in ran.err
    assert ran.out.count("Told apart") == 2
    assert "Mean ranks over 6 blocks" in ran.out
