"""Pictures of results: curves are those of the scores, and files are pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

import oodbench
from oodbench import cli
from oodbench.errors import OODBenchError, OptionError
from oodbench.results import plots, stored
from oodbench.results.stored import StoredResult

ROOT = Path(oodbench.__file__).resolve().parents[1] / "leaderboards"
KEPT = sorted((ROOT / "results" / "cifar10").glob("energy-*.scores.safetensors"))


@pytest.fixture
def results() -> list[StoredResult]:
    """Committed results of three seeds whose scores were kept."""
    paths = [path.with_name(path.name.replace(".scores.safetensors", ".json")) for path in KEPT]
    return [stored.read(path) for path in paths]


def test_points_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    ids, oods = rng.normal(0, 1, 300).round(1), rng.normal(1, 1, 200).round(1)  # with ties
    flagged, caught = plots.roc_points(ids, oods)
    labels = np.r_[np.zeros(300), np.ones(200)]
    fpr, tpr, _ = roc_curve(labels, np.r_[ids, oods], drop_intermediate=False)
    np.testing.assert_allclose(flagged, fpr)
    np.testing.assert_allclose(caught, tpr)


def test_few_points_keep_the_area() -> None:
    rng = np.random.default_rng(1)
    ids, oods = rng.normal(0, 1, 20_000), rng.normal(1, 1, 20_000)
    flagged, caught = plots.roc_points(ids, oods)
    assert len(flagged) == plots.POINTS + 1
    assert (flagged[0], caught[0], flagged[-1], caught[-1]) == (0, 0, 1, 1)
    labels = np.r_[np.zeros(20_000), np.ones(20_000)]
    area = roc_auc_score(labels, np.r_[ids, oods])
    assert np.trapezoid(caught, flagged) == pytest.approx(area, abs=1e-4)


def test_the_legend_tells_the_auroc_of_the_row(results: list[StoredResult]) -> None:
    (axes,) = plots.roc([results[0]]).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    singles = {row["ood"]: row["auroc"] for row in results[0].rows if not row["is_mean"]}
    assert labels == [f"{name}  {100 * auroc:.2f}" for name, auroc in singles.items()]


def test_several_results_want_one_set(results: list[StoredResult]) -> None:
    (axes,) = plots.roc(results, "mnist").axes
    assert len(axes.get_legend().get_texts()) == len(results) >= 2
    with pytest.raises(OptionError, match="name the OOD set"):
        plots.roc(results)
    with pytest.raises(OptionError, match="no scores of 'svhn', but cifar100"):
        plots.roc(results, "svhn")


def test_the_threshold_keeps_the_share_of_id(results: list[StoredResult]) -> None:
    from oodbench.results import scores

    (axes,) = plots.histogram(results[0], tpr=0.9).axes
    (line,) = [line for line in axes.get_lines() if len(set(line.get_xdata())) == 1]  # type: ignore[arg-type]
    path = results[0].scores_path
    assert path is not None
    ids = scores.read(path)["id"]
    assert (ids <= float(np.ravel(line.get_xdata())[0])).mean() == pytest.approx(0.9, abs=1e-3)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == f"cifar10 ({len(ids):,})"


def test_scores_that_were_not_kept_are_said(results: list[StoredResult]) -> None:
    bare = dataclasses.replace(results[0], scores=None)
    with pytest.raises(OODBenchError, match="no scores of single images"):
        plots.histogram(bare)
    with pytest.raises(OODBenchError, match="no scores of single images"):
        plots.roc([bare])


def test_constant_scores_are_drawn(results: list[StoredResult], monkeypatch: Any) -> None:
    monkeypatch.setattr(plots, "_scores_of", lambda _: {"cifar10": np.ones(5), "x": np.ones(4)})
    plots.histogram(results[0])


@pytest.mark.parametrize("suffix", plots.SUFFIXES)
def test_a_picture_is_what_its_name_says_and_the_same_twice(
    suffix: str, results: list[StoredResult], tmp_path: Path
) -> None:
    paths = [plots.save(plots.roc([results[0]]), tmp_path / f"{n}{suffix}") for n in (1, 2)]
    first, second = (path.read_bytes() for path in paths)
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert first.startswith(starts[suffix])
    if suffix != ".svg":  # whose identifiers are drawn anew
        assert first == second


def test_other_endings_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\.png, \.svg, \.pdf, not 'x\.gif'"):
        plots.check_path(tmp_path / "x.gif")


def test_near_far_needs_two_groups() -> None:
    benchmark = oodbench.get_benchmark("cifar10")
    rows = oodbench.ResultStore(ROOT).rows("cifar10")
    from oodbench.results.arranged import sections

    part = sections(benchmark, rows)[0]
    (axes,) = plots.near_far(benchmark, part).axes
    assert "near AUROC" in axes.get_xlabel()
    detectors = {(row["detector"], row["method"], row["backbone"]) for row in part}
    drawn = [line for line in axes.get_lines() if len(np.ravel(line.get_xdata())) == 1]
    assert len(drawn) >= len(detectors)
    with pytest.raises(OptionError, match="needs those of two"):
        plots.near_far(benchmark, [row for row in part if row["group"] == "near"])


def test_names_that_would_cover_each_other_are_left_out() -> None:
    entry: Any = object()
    points = [(entry, 90.0, 90.0), (entry, 89.9, 90.0), (entry, 50.0, 50.0)]
    assert plots._apart(points) == [points[0], points[2]]


def run(*words: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("sys.argv", ["oodbench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = str(KEPT[0]).replace(".scores.safetensors", ".json")
    out = tmp_path / "made" / "h.png"
    assert run("plot", "histogram", result, "--out", str(out), monkeypatch=monkeypatch) == 0
    assert Image.open(out).size[0] > 500
    words = ("plot", "near-far", "cifar10", "--out", str(tmp_path / "n.pdf"))
    assert run(*words, "--leaderboards", str(ROOT), monkeypatch=monkeypatch) == 0
    assert (
        run("plot", "roc", result, "--out", str(tmp_path / "r.gif"), monkeypatch=monkeypatch) == 2
    )
    assert "a picture ends in" in capsys.readouterr().err
    missing = run("plot", "roc", "nothing.json", "--out", str(out), monkeypatch=monkeypatch)
    assert missing == 2
    assert "there is no result nothing.json" in capsys.readouterr().err
