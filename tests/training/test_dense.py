"""Methods that learn from masks or boxes: what is said of random weights."""

from __future__ import annotations

import pytest

import oodbench
from oodbench.detectors.abet import AbeTMethod, AbeTSegmentation
from oodbench.detectors.ce_segmentation import CESegmentation
from tests.helpers.pixels import CPU


@pytest.mark.usefixtures("few_scenes")
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_published_recipe_from_random_weights_is_said(task: str) -> None:
    """The published networks start from ImageNet's weights or more; rows must not look alike."""
    benchmark = oodbench.get_benchmark("scenes", task=task)
    options = {"confidence": 0.01} if task == "detection" else {}  # it has hardly learned
    for recipe, is_said in (("published", True), ("quick", False)):
        results = oodbench.evaluate(
            benchmark=benchmark,
            task_options=options,
            detectors="msp",
            recipe=recipe,
            recipe_options={"epochs": 1, "warmup_epochs": 0},
            backbone=benchmark.backbone,
            hardware=CPU,
        )
        assert any("started from random weights" in text for text in results.warnings) == is_said
        for row in results:
            told = " ".join(row["notes"] or [])
            assert ("started from random weights" in told) == is_said


def test_weights_to_start_from_need_no_caveat() -> None:
    for method in (AbeTSegmentation, CESegmentation):
        assert len(method.caveats("published", None)) == 1
        assert method.caveats("published", "resnet.pth") == ()
        assert method.caveats("quick", None) == ()
    assert AbeTMethod.caveats("published", None) == (), "from random weights in the paper too"
