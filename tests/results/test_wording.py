"""What pages say in words."""

from __future__ import annotations

import pytest

from oodbench.benchmark import get_benchmark
from oodbench.results.wording import input_to

VALUE = {"size": 64, "mode": "L", "resize": "stretch"}


@pytest.mark.parametrize(
    ("id_set", "task", "words"),
    [
        ("scenes", "segmentation", "L, each image in its own size"),
        ("scenes", "detection", "L, each image in its own size"),
        ("digits", None, "L, 64 px (stretch)"),
    ],
)
def test_images_that_no_task_resizes_are_not_said_to_be(
    id_set: str, task: str | None, words: str
) -> None:
    assert input_to(get_benchmark(id_set, task=task), VALUE) == words
