"""Samples of several modalities, scored jointly or by one of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import oodbench
from oodbench import Benchmark, Outputs, metrics
from oodbench.errors import MissingOutputError, OptionError
from oodbench.extract import extract
from oodbench.results import leaderboard
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.vectors import CPU, JOINT_ALONE, NAMES, PREPROCESS


def test_ce_is_that_of_several_modalities(toy: Benchmark) -> None:
    assert plan(toy, "ce").method == "multimodal-ce"


def test_an_evaluation(toy: Benchmark, tmp_path: Path) -> None:
    options = {"epochs": 8, "batch_size": 32, "lr": 0.01}
    common: dict[str, Any] = {
        "benchmark": toy,
        "method": "multimodal-ce",
        "recipe": "quick",
        "recipe_options": options,
        "hardware": CPU,
        "leaderboards": tmp_path,
    }
    detectors = ["msp", "knn", "vim", "react", "modality-discrepancy"]
    with pytest.raises(OptionError, match=r"odin looks into a .* several modalities"):
        oodbench.evaluate(detectors=[*detectors, "odin"], **common)
    ensemble = oodbench.create_detector("ensemble", members=("msp", "modality-discrepancy"))
    knn = oodbench.create_detector("knn", k=5)
    fused = oodbench.evaluate(detectors=[*detectors, ensemble, knn], **common)
    assert not fused.failures
    method = train(plan(toy, "multimodal-ce", recipe="quick", overrides=options), CPU)
    seen = [extract(method, s.load("test"), PREPROCESS, hardware=CPU) for s in (toy.id, toy.far[0])]
    auroc = {row["detector"]: row["auroc"] for row in fused if not row["is_mean"]}
    # what nobody sees in one modality alone: both are sure, of different classes
    assert auroc["modality-discrepancy"] > 0.99
    for name, column in (("left", "logits/left"), (None, "logits")):
        one = oodbench.evaluate(detectors=["msp", "vim"], modality=name, **common)
        by_hand = [Outputs(logits=o.extra.get(column, o.logits)) for o in seen]
        msp = oodbench.create_detector("msp")
        expected = metrics.auroc(*(msp.score(o).numpy() for o in by_hand))
        row = next(r for r in one if r["detector"] == "msp")
        assert row["auroc"] == pytest.approx(expected)
        assert row["modality"] == name
    page = leaderboard.page(toy, tmp_path, whole=True)
    assert "| msp (left) |" in page
    assert "| msp |" in page
    with pytest.raises(OptionError, match="has left, right, fused, not 'audio'"):
        oodbench.evaluate(detectors="msp", modality="audio", **common)
    with pytest.raises(OptionError, match="task classification of digits has no option 'modality'"):
        oodbench.evaluate(id="digits", detectors="msp", modality="audio")


def test_what_needs_them_is_told_who_trains_them(toy: Benchmark) -> None:
    common: dict[str, Any] = {
        "benchmark": toy,
        "method": "multimodal-ce",
        "recipe": "quick",
        "recipe_options": JOINT_ALONE,
        "hardware": CPU,
    }
    told = r"joint prediction alone.*withheld.*single=true or .*recipe=quick.*method=a2d"
    ensemble = oodbench.create_detector("ensemble", members=("msp", "modality-discrepancy"))
    found = oodbench.evaluate(detectors=["msp", "modality-discrepancy", ensemble], **common)
    assert {row["detector"] for row in found} == {"msp"}
    assert set(found.failures) == {"modality-discrepancy", "ensemble"}
    for reason in found.failures.values():
        assert re.search(told, reason)
    for modality in NAMES:
        for detector in ("msp", "vim"):
            with pytest.raises(MissingOutputError, match=f"{modality}' alone: .*{told}"):
                oodbench.evaluate(detectors=detector, modality=modality, **common)
    with pytest.raises(MissingOutputError, match=told):
        oodbench.evaluate(detectors="modality-discrepancy", **common)
    method = train(plan(toy, "multimodal-ce", recipe="quick", overrides=JOINT_ALONE), CPU)
    for _ in range(2):  # extracted, and from the cache
        outputs = extract(method, toy.id.load("test"), PREPROCESS, hardware=CPU)
        with pytest.raises(MissingOutputError, match=told):
            oodbench.create_detector("modality-discrepancy").score(outputs)
