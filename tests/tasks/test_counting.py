"""Scores of pixels as they are counted: OOD pixels against those of ID objects as well."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import oodbench
from oodbench import metrics as exact
from oodbench.data.samples import OOD
from oodbench.errors import OptionError
from oodbench.results import leaderboard
from oodbench.results.rows import METRICS
from oodbench.tasks.pixels import segment
from tests.helpers.pixels import CPU, GREY, Pixelwise, by_name, drawn, evaluate, run_evaluator, toy


@pytest.mark.parametrize("background", [("ground",), ("dark", "ground")])
def test_ood_pixels_against_those_of_id_objects(background: tuple[str, ...]) -> None:
    """Beside all pixels, from the same look at each image; rows, means, store and page agree."""
    plain = toy()
    benchmark = dataclasses.replace(plain, task_options={"background": background})
    names = benchmark.id.load("test").classes
    passes, results = run_evaluator(["msp", "abet"], Pixelwise(), benchmark)
    assert passes == 3 + 4 + 2, "each image is seen once"
    rows, without = by_name(results), by_name(evaluate(["msp", "abet"], plain))
    hidden = [names.index(name) for name in background]
    for (name, ood), row in rows.items():
        assert {m: row[m] for m in METRICS} == {m: without[name, ood][m] for m in METRICS}
        if row["is_mean"]:
            single = rows[name, row["ood_sets"][0]]
            for column in FIGURES_OF_OBJECTS:
                assert row[column] == single[column]
            continue
        samples = next(c.spec.load("test") for c in benchmark.ood if c.spec.name == ood)
        detector = oodbench.create_detector(name)
        ids_, oods = [], []
        for found in segment(Pixelwise(), samples, GREY, CPU):
            scores = found.score(detector)
            ids_.append(scores[(found.mask < OOD) & ~np.isin(found.mask, hidden)])
            oods.append(scores[found.mask == OOD])
        expected = exact.all_metrics(np.concatenate(ids_), np.concatenate(oods))
        for metric in ("auroc", "fpr95_id", "fpr95_ood"):
            assert row[f"{metric}_foreground"] == pytest.approx(expected[metric], abs=1e-12)
        assert row["n_id_foreground"] == len(np.concatenate(ids_)) < row["n_id"]
    page = leaderboard.render(benchmark, results)
    assert "### OOD pixels against ID objects" in page
    assert f"background ({', '.join(background)})" in page
    shown = f"{100 * rows['abet', 'near']['auroc_foreground']:.2f}"
    assert shown in page.split("### OOD pixels against ID objects")[1].split("###")[0]


FIGURES_OF_OBJECTS = (
    "auroc_foreground",
    "fpr95_id_foreground",
    "fpr95_ood_foreground",
    "n_id_foreground",
)


def test_an_auroc_against_objects_that_is_reversed_is_marked() -> None:
    benchmark = dataclasses.replace(toy(), task_options={"background": ("ground",)})
    results = evaluate("msp", benchmark)
    for row in results.rows:
        row["auroc_foreground"] = 0.39
    page = leaderboard.render(benchmark, results)
    part = page.split("### OOD pixels against ID objects")[1].split("###")[0]
    assert "39.00 ¶" in part
    assert "¶ AUROC below 40." in part


def test_no_figures_of_objects_where_there_is_no_background() -> None:
    results = evaluate("msp")
    assert all(row[column] is None for row in results for column in FIGURES_OF_OBJECTS)
    assert "ID objects" not in leaderboard.render(toy(), results)


def test_an_ood_set_without_id_objects_has_no_figures_of_them() -> None:
    """As the masks of an OOD set that tell OOD from the rest and nothing else."""
    benchmark = dataclasses.replace(
        toy(near=drawn("toy-near/test", values=(0, OOD), seed=1)),
        task_options={"background": ("ground",)},
    )
    rows = by_name(evaluate("msp", benchmark))
    for ood in ("toy-near", "near"):
        assert all(rows["msp", ood][column] is None for column in FIGURES_OF_OBJECTS)
    assert rows["msp", "toy-far"]["auroc_foreground"] is not None


def test_a_background_that_is_no_class_is_refused() -> None:
    benchmark = dataclasses.replace(toy(), task_options={"background": ("sky",)})
    with pytest.raises(OptionError, match="background 'sky' is no class of toy"):
        evaluate("msp", benchmark)


def test_scenes_tell_objects_from_background() -> None:
    benchmark = oodbench.get_benchmark("scenes", task="segmentation")
    assert benchmark.task_options["background"] == ("background",)
    samples = benchmark.id.load("test")
    assert samples.classes[0] == "background"
