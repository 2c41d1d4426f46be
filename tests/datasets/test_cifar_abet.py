"""AbeT's CIFAR protocol: OOD images are cut at the size that they have, from its own splits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from torchvision import transforms as tv

from oodbench import Preprocess, get_benchmark
from oodbench.data.samples import image_folder
from oodbench.errors import DataError, MissingDataError, OptionError

BENCHMARKS = ("cifar10/abet", "cifar100/abet")


def data() -> Path:
    return Path(os.environ["OODBENCH_DATA"])


def save(path: Path, width: int, height: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40))
def test_the_centre_is_torchvisions_center_crop(width: int, height: int, size: int) -> None:
    """Of odd and even sides, and black beyond the edges of a smaller image."""
    pixels = np.random.default_rng(width).integers(1, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    preprocess = Preprocess(size, (0.5,) * 3, (0.5,) * 3, resize="centre")
    expected = tv.CenterCrop((size, size))(image)
    assert np.array_equal(np.asarray(preprocess.fit_image(image)), np.asarray(expected))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_inputs_are_those_of_the_authors_code(name: str) -> None:
    benchmark = get_benchmark(benchmark=name)
    mean, std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    theirs = tv.Compose(
        [
            tv.CenterCrop((32, 32)),
            tv.ToTensor(),
            tv.Normalize([m / 255 for m in mean], [s / 255 for s in std]),
        ]
    )
    for size in ((32, 32), (256, 341), (300, 400)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        image = Image.fromarray(pixels)
        torch.testing.assert_close(benchmark.preprocess(image), theirs(image))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_sets_and_ranking(name: str) -> None:
    benchmark = get_benchmark(benchmark=name)
    assert benchmark.id.name == name.partition("/")[0]
    assert [c.spec.name for c in benchmark.ood] == [
        "svhn-train", "lsun-256", "places365", "textures-train1",
    ]  # fmt: skip
    assert {c.group for c in benchmark.ood} == {"far"}
    protocol = benchmark.protocol
    assert (protocol.rank_by, protocol.rank_group, protocol.fpr) == ("fpr95_id", "far", "fpr95_id")


def load(name: str) -> Any:
    benchmark = get_benchmark(benchmark="cifar10/abet")
    spec = next(c.spec for c in benchmark.ood if c.spec.name == name)
    return spec.load("test")


def test_svhn_is_its_training_split() -> None:
    for i in range(3):
        save(data() / "svhn" / "train" / "1" / f"{i}.png", 32, 32, i)
    save(data() / "svhn" / "test" / "1" / "9.png", 32, 32, 9)
    found = load("svhn-train")
    assert len(found) == 3
    assert found.name == "svhn-train/test"


def test_an_svhn_download_is_verified() -> None:
    data().mkdir(parents=True, exist_ok=True)
    savemat(data() / "train_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [2]]})
    with pytest.raises(DataError, match="incomplete or changed"):
        load("svhn-train")


@pytest.mark.parametrize("layout", ["dtd/dtd", "dtd", "textures"])
def test_textures_are_those_of_the_first_training_split(layout: str) -> None:
    root = data() / layout
    for i, kind in enumerate(("banded", "dotted", "woven")):
        for j in range(4):
            save(root / "images" / kind / f"{kind}_{j:04}.jpg", 60, 50 + j, 4 * i + j)
    wanted = ["dotted/dotted_0001.jpg", "banded/banded_0003.jpg", "banded/banded_0000.jpg"]
    (root / "labels").mkdir()
    (root / "labels" / "train1.txt").write_text("\n".join(wanted) + "\n", encoding="utf-8")
    found = load("textures-train1")
    assert [Path(path).as_posix() for path in found.paths] == wanted
    assert found.labels.tolist() == [1, 0, 0]
    with Image.open(root / "images" / wanted[0]) as image:
        assert np.array_equal(np.asarray(found[0]), np.asarray(image))
    (root / "images" / wanted[1]).unlink()
    with pytest.raises(DataError, match="names 1 images that are not in"):
        load("textures-train1")


def test_textures_without_their_split_are_not_taken_whole() -> None:
    """The other 3,760 images would be other data under the same name."""
    save(data() / "dtd" / "images" / "banded" / "banded_0000.jpg", 60, 60)
    with pytest.raises(MissingDataError, match=r"labels/train1\.txt"):
        load("textures-train1")


def test_lsun_is_not_that_of_odins_authors() -> None:
    """``lsun-c`` is of 32-pixel crops; a 64th of a 256-pixel image is something else."""
    save(data() / "LSUN" / "test" / "0.png", 36, 36)
    save(data() / "lsun-c" / "0.png", 32, 32)
    with pytest.raises(MissingDataError, match="lsun-256"):
        load("lsun-256")
    save(data() / "lsun-256" / "0.png", 341, 256)
    assert len(load("lsun-256")) == 1


def test_a_pre_size_or_another_word_is_refused() -> None:
    with pytest.raises(OptionError, match="has no meaning"):
        Preprocess(32, (0.5,), (0.5,), "L", resize="centre", pre_size=40)
    with pytest.raises(OptionError, match="'stretch', 'crop' or 'centre', not 'center'"):
        Preprocess(32, (0.5,), (0.5,), "L", resize="center")  # type: ignore[arg-type]


def test_real_textures_lose_all_but_their_middle(shared_data: Path) -> None:
    """Photographs of 160 pixels on the short side: a twenty-fifth at most, as it is."""
    preprocess = get_benchmark(benchmark="cifar100/abet").preprocess
    samples = image_folder("textures10", shared_data / "textures10" / "test")
    for i in range(0, len(samples), 40):
        image = samples[i].convert("RGB")
        assert min(image.size) == 160
        fitted = np.asarray(preprocess.fit_image(image))
        left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
        assert np.array_equal(fitted, np.asarray(image)[top : top + 32, left : left + 32])
