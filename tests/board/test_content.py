"""What a board shows of rows is what is in them."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from oodbench.board.content import content_of, entry_id, tags_of
from oodbench.registry import DETECTORS
from oodbench.results import arranged
from oodbench.results.entries import entries_of
from oodbench.results.leaderboard import render
from oodbench.results.rows import METRICS, NAMES, cell
from tests.helpers.pages import PAGE, entry


def shown(rows: list[dict[str, Any]]) -> dict[str, Any]:
    content = content_of(PAGE, rows, [])  # type: ignore[arg-type]
    json.dumps(content, allow_nan=False)
    return content


def test_figures_are_those_of_rows() -> None:
    rows = entry(0.81234, detector="msp") + entry(0.7, detector="energy")
    (part,) = shown(rows)["parts"]
    assert [e["detector"] for e in part["entries"]] == ["msp", "energy"]
    assert [s["name"] for s in part["sets"]] == ["near-a", "near", "far-a", "far"]
    assert [s["mean"] for s in part["sets"]] == [False, True, False, True]
    for one in part["entries"]:
        own = {row["ood"]: row for row in rows if row["detector"] == one["detector"]}
        for s, figures in zip(part["sets"], one["figures"], strict=True):
            for metric, figure in zip(METRICS, figures, strict=True):
                row = own[s["name"]]
                assert f"{figure[0]:.2f}" == f"{100 * cell(row, metric):.2f}"
                if cell(row, f"{metric}_low") is not None:
                    assert figure[1:3] == pytest.approx(
                        [100 * cell(row, f"{metric}_{end}") for end in ("low", "high")], abs=0.005
                    )


def test_figures_ranks_and_order_are_those_of_the_page() -> None:
    rows = entry(0.8, detector="b") + entry(0.9, detector="a") + entry(0.7, detector="c")
    lines = [line.split(" | ") for line in render(PAGE, rows).splitlines()]  # type: ignore[arg-type]
    overview = [line for line in lines if line[0].strip("| ").isdigit()][:3]
    (part,) = shown(rows)["parts"]
    for line, one in zip(overview, part["entries"], strict=True):
        assert line[1:3] == [str(one["rank"]), one["detector"]]
        assert f"{one['figures'][1][0][0]:.2f}" in line[6]


def test_seeds_are_one_entry_with_mean_and_deviation() -> None:
    values = [0.8, 0.85, 0.81]
    rows = [row for seed, value in enumerate(values) for row in entry(value, seed)]
    (part,) = shown(rows)["parts"]
    (one,) = part["entries"]
    assert one["seeds"] == [0, 1, 2]
    mean, low, high, spread = one["figures"][0][0]
    assert mean == round(100 * statistics.fmean(values), 2)
    assert spread == round(100 * statistics.stdev(values), 2)
    assert low < mean < high
    assert one["each"][0][0] == [80.0, 85.0, 81.0]
    assert len(one["runs"]) == 3


def test_a_link_to_an_entry_stays() -> None:
    before = shown(entry(0.8))["parts"][0]["entries"][0]["id"]
    assert before.startswith("msp-")
    again = entry(0.8) + entry(0.95, created="2026-02-01T00:00:00+00:00") + entry(0.9, seed=1)
    more = again + entry(0.99, detector="energy")
    found = {e["detector"]: e["id"] for e in shown(more)["parts"][0]["entries"]}
    assert found["msp"] == before, "measured again, with another seed, and no longer the first"
    others = entry(0.8, detector_options={"k": 1}) + entry(0.8, backbone="other")
    others += entry(0.8, selection="t", id_fingerprint="2" * 64) + entry(0.8, method="palm")
    ids = [e["id"] for part in shown(others)["parts"] for e in part["entries"]]
    assert len({*ids, before}) == 5, "another setting, network, image or training is another"


def test_an_id_is_the_same_on_every_machine() -> None:
    (one,) = entries_of(entry(0.8))  # type: ignore[arg-type]
    assert entry_id(one, PAGE) == "msp-1684a6602c"


def test_benchmarks_say_what_was_measured() -> None:
    content = shown(entry(0.8))
    assert content["name"] == "toy"
    assert content["figures"][content["fpr"]]["title"] == NAMES[PAGE.protocol.fpr]
    assert "Ranked by the near-OOD mean of AUROC" in content["about"][0]
    assert "60 images" in " ".join(content["parts"][0]["about"])


def test_figures_that_are_not_there_are_null() -> None:
    rows = entry(0.8) + [r for r in entry(0.7, detector="energy") if r["group"] == "near"]
    (part,) = shown(rows)["parts"]
    by_name = {e["detector"]: e for e in part["entries"]}
    assert by_name["energy"]["figures"][3] == [None] * len(METRICS)


def test_names_that_cannot_be_seen_are_written_out() -> None:
    rows = entry(0.8, backbone="evil\u202eten", detector="<script>|'\"")
    (one,) = shown(rows)["parts"][0]["entries"]
    assert one["backbone"] == "evil\\u202eten"
    assert one["detector"] == "<script>|'\"", "the page shows it as text"
    assert not set(one["id"]) & set("<>|'\"/")


def test_long_texts_are_kept_once() -> None:
    rows = entry(0.8, command="oodbench eval") + entry(
        0.7, detector="energy", command="oodbench eval"
    )
    content = shown(rows)
    assert content["texts"].count("oodbench eval") == 1
    commands = {run["command"] for e in content["parts"][0]["entries"] for run in e["runs"]}
    assert [content["texts"][number] for number in commands] == ["oodbench eval"]


def test_modalities_are_entries_of_their_own() -> None:
    rows = entry(0.8) + entry(0.7, modality="audio")
    (part,) = shown(rows)["parts"]
    assert [e["modality"] for e in part["entries"]] == ["", "audio"]


def test_tags_are_what_a_detector_is() -> None:
    assert tags_of("msp") == ["reads logits", "learns nothing"]
    assert tags_of("knn") == ["reads features", "learns from ID data"]
    assert tags_of("odin") == ["runs the network", "learns nothing"]
    assert "own training" in tags_of("palm")
    assert tags_of("of-a-plug-in-that-is-not-here") == []
    for name in DETECTORS.names():
        assert tags_of(name), name


def test_no_rows_no_parts() -> None:
    assert shown([])["parts"] == []
    assert arranged.sections(PAGE, []) == []
