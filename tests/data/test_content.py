"""What images show, whatever holds them, and whether it is what was published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from oodbench.data.content import Content, content_fingerprint
from oodbench.data.samples import ImageArrays, Subset, image_folder
from tests.helpers.datasets import images_of


def arrays(images: np.ndarray, labels: list[int]) -> ImageArrays:
    return ImageArrays("birds/test", images, labels, ["jay", "owl"])


def test_the_fingerprint_is_of_pixels_and_labels_in_any_order_and_layout(tmp_path: Path) -> None:
    images = images_of(4, (8, 8, 3))
    samples = arrays(images, [0, 0, 1, 1])
    known = content_fingerprint(samples)
    assert content_fingerprint(Subset(samples, [3, 0, 2, 1])) == known
    for i, name in enumerate(["jay", "jay", "owl", "owl"]):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(images[i]).save(tmp_path / name / f"{9 - i}.png")
    assert content_fingerprint(image_folder("birds/test", tmp_path)) == known
    assert content_fingerprint(arrays(images, [0, 1, 1, 1])) != known, "one label"
    changed = images.copy()
    changed[2, 4, 4, 1] ^= 1
    assert content_fingerprint(arrays(changed, [0, 0, 1, 1])) != known, "one value of one pixel"


def test_a_difference_is_told_with_numbers() -> None:
    images = images_of(4, (8, 8, 3))
    samples = arrays(images, [0, 0, 1, 1])
    content = Content(4, content_fingerprint(samples))
    assert content.difference(samples) is None
    assert Content(4).difference(samples) is None
    fewer = content.difference(Subset(samples, [0, 1, 3]))
    start = f"birds/test: 4 images expected with fingerprint {content.fingerprint[:12]}…, found 3."
    assert fewer.startswith(start)
    others = content.difference(arrays(images_of(4, (8, 8, 3), seed=1), [0, 0, 1, 1]))
    assert "found as many with" in others
    assert "in no table with those of that" in others
    assert Content(5).difference(samples).startswith("birds/test: 5 images expected, found 4.")
