"""The embedded default: its splits, its OOD sets, its preprocessing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench import get_benchmark
from oodbench.errors import OptionError
from tests.helpers.attempts import Server

# The embedded default


def test_digits_splits_are_stratified_disjoint_and_complete() -> None:
    from sklearn.datasets import load_digits

    digits = get_benchmark("digits")
    parts = {split: digits.id.load(split) for split in digits.id.splits}
    assert set(parts) == {"train", "val", "test"}
    known = load_digits().target < 6
    everything = load_digits().images[known]
    seen = np.concatenate([part.images for part in parts.values()])
    assert len(seen) == len(everything)
    # every image is in one split, once: as multisets they are the same
    scaled = np.rint(everything * 255 / 16).astype(np.uint8).reshape(len(seen), -1)
    assert np.array_equal(
        np.unique(seen.reshape(len(seen), -1), axis=0, return_counts=True)[1],
        np.unique(scaled, axis=0, return_counts=True)[1],
    )
    digests = [set(part.digests.tolist()) for part in parts.values()]
    assert sum(map(len, digests)) == len(set.union(*digests)), "splits share an image"
    whole = np.bincount(load_digits().target[known]) / known.sum()
    for split, part in parts.items():
        assert part.classes == ("0", "1", "2", "3", "4", "5")
        shares = np.bincount(part.labels, minlength=6) / len(part)
        assert np.abs(shares - whole).max() * len(part) <= 1.5, f"{split} is not stratified"


def test_digits_ood_sets() -> None:
    digits = get_benchmark("digits")
    assert [(chosen.spec.name, chosen.group) for chosen in digits.ood] == [
        ("digits-6-9", "near"),
        ("photo-patches", "far"),
    ]
    near = digits.near[0].load("test")
    assert near.classes == ("6", "7", "8", "9")
    assert len(near) == 1797 - sum(len(digits.id.load(split)) for split in digits.id.splits)
    known = np.concatenate([digits.id.load(split).digests for split in digits.id.splits])
    for ood in (near, digits.far[0].load("test")):
        assert ood[0].size == (8, 8)
        assert ood[0].mode == "L"
        assert not np.isin(ood.digests, known).any()
        assert np.bincount(ood.labels).min() > 100


def test_photograph_patches_are_area_means() -> None:
    from sklearn.datasets import load_sample_images

    far = get_benchmark("digits").far[0].load("test")
    assert far.classes == ("china", "flower")
    china = load_sample_images().images[0]
    grey = np.asarray(Image.fromarray(china).convert("L")).astype(float)
    mean = grey[:32, :32].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.abs(np.asarray(far[0]) - mean).max() < 1  # PIL rounds after each direction


def test_digits_are_the_same_in_every_process(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from oodbench import get_benchmark\n"
        "b = get_benchmark('digits')\n"
        "print(*(b.id.load(s).fingerprint for s in b.id.splits),"
        " *(o.spec.load('test').fingerprint for o in b.ood))"
    )
    told = server.prints(script).split()
    digits = get_benchmark("digits")
    here = [digits.id.load(split).fingerprint for split in digits.id.splits]
    here += [chosen.spec.load("test").fingerprint for chosen in digits.ood]
    assert told == here
    assert len(set(here)) == 5


def test_digits_preprocessing_is_that_of_its_training_set() -> None:
    digits = get_benchmark("digits")
    pixels = digits.id.load("train").images / 255
    assert digits.preprocess.mean[0] == pytest.approx(pixels.mean(), abs=2e-3)
    assert digits.preprocess.std[0] == pytest.approx(pixels.std(), abs=2e-3)
    assert not digits.preprocess.flip, "a mirrored digit is another sign"


def test_digits_has_no_other_split() -> None:
    with pytest.raises(OptionError, match=r"train, val, test.*'extra'"):
        get_benchmark("digits").id.load("extra")
