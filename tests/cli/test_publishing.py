"""``oodbench published``."""

from __future__ import annotations

import json

from tests.helpers.cli import CLI


def test_figures_of_a_detector(run: CLI) -> None:
    ran = run("published", "--id", "cifar10", "--detector", "knn")
    assert ran.status == 0
    assert "90.64" in ran.out
    assert "OpenOOD v1.5, unweighted mean" in ran.out
    found = json.loads(run("published", "--benchmark", "cifar100/palm", "--json").out)
    assert {figure["column"] for figure in found} == {"auroc", "fpr95_id"}
    assert all("ID positive" in figure["convention"] for figure in found)


def test_what_is_not_known_is_refused_with_what_was_meant(run: CLI) -> None:
    assert "Did you mean 'cifar10'" in run.refuses("published", "--id", "cifar1")
    assert "Did you mean 'knn'" in run.refuses("published", "--detector", "knnn")
    assert "published" in run("published", "--help").out
