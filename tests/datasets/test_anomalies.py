"""Real street scenes with anomalies: both layouts in miniature, what counts, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import oodbench
from oodbench import get_benchmark
from oodbench.data.samples import OOD, VOID
from oodbench.dataset import resolve_dataset
from oodbench.datasets.anomalies import enet, espnetv2
from oodbench.errors import CheckpointError, DataError, MissingDataError, OptionError
from oodbench.networks.enet import ENet
from oodbench.networks.espnetv2 import ESPNetv2

SIZE = (16, 24)

NAMES = {
    "roadanomaly": ("RoadAnomaly", 60, ".jpg", 2),
    "fishyscapes/laf": ("FS_LostFound_full", 100, ".png", 1),
    "fishyscapes/static": ("fs_static", 30, ".jpg", 1),
    "smiyc/anomaly21": ("RoadAnomaly21", 10, ".png", 1),
    "smiyc/obstacle21": ("RoadObsticle21", 30, ".webp", 1),
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path))
    return tmp_path


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)


def write_mask(path: Path, *values: int) -> None:
    """Equal columns of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.repeat(np.array(values, np.uint8), SIZE[1] // len(values))
    Image.fromarray(np.tile(mask, (SIZE[0], 1))).save(path)


def gathered(root: Path, name: str) -> Path:
    folder, n, end, anomaly = NAMES[name]
    place = root / "Validation_Dataset" / folder
    for i in range(n):
        write(place / "images" / f"{i}{end}", i)
        write_mask(place / "labels_masks" / f"{i}.png", 0, anomaly, 255)
    return place


def sample(root: Path) -> None:
    for i in range(8):
        stem = f"aachen_{i:06}_000019"
        write(root / "cityscapes-sample/train_img" / f"{stem}_leftImg8bit.png", 1000 + i)
        write_mask(root / "cityscapes-sample/train_label" / f"{stem}_gtFine_labelIds.png", 7, 23, 0)


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_in_the_layout_without_names(data: Path, name: str) -> None:
    gathered(data, name)
    benchmark = get_benchmark(benchmark=name)
    assert benchmark.task == "segmentation"
    assert benchmark.protocol.fpr == "fpr95_ood"
    (scenes,) = benchmark.near
    loaded: Any = scenes.load("test")
    assert len(loaded) == NAMES[name][1]
    assert np.unique(loaded.mask(0)).tolist() == sorted([0, OOD, VOID])
    assert (loaded.mask(0)[:, 8:16] == OOD).all()


@pytest.mark.parametrize(
    ("name", "folder", "n"),
    [
        ("smiyc-anomaly21", "dataset_AnomalyTrack", 10),
        ("smiyc-obstacle21", "dataset_ObstacleTrack", 30),
    ],
)
def test_the_publishers_layout_goes_first(data: Path, name: str, folder: str, n: int) -> None:
    for i in range(n):
        write(data / folder / f"images/validation{i:04}.webp", i)
        write_mask(data / folder / f"labels_masks/validation{i:04}_labels_semantic.png", 0, 1)
    loaded: Any = resolve_dataset(name).load("test")
    assert len(loaded) == n
    assert "validation0003" in loaded.mask_name(3)


def test_what_is_wrong_is_said(data: Path) -> None:
    spec = resolve_dataset("smiyc-anomaly21")
    with pytest.raises(MissingDataError, match=r"segmentmeifyoucan\.com"):
        spec.load("test")
    with pytest.raises(OptionError, match="split test"):
        spec.load("train")
    place = gathered(data, "smiyc/anomaly21")
    (place / "labels_masks/3.png").unlink()
    with pytest.raises(DataError, match="have no mask"):
        spec.load("test")
    (place / "images/3.png").unlink()
    with pytest.raises(DataError, match="is 10 images"):
        spec.load("test")


class Colours(nn.Module):
    """Logits of 19 classes from three colours."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 19, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(images)
        return logits


def colours() -> Colours:
    return Colours()


def test_a_network_that_is_given_by_its_name(data: Path) -> None:
    sample(data)
    gathered(data, "smiyc/anomaly21")
    rows = oodbench.evaluate(
        benchmark="smiyc/anomaly21",
        detectors=["msp", "energy"],
        network="tests.datasets.test_anomalies:colours",
        preprocess="benchmark",
    ).to_pandas()
    row = rows[(rows["detector"] == "msp") & (rows["ood"] == "smiyc-anomaly21")].iloc[0]
    assert (row["n_ood"], row["n_id"]) == (10 * 16 * 8, 10 * 16 * 8)  # void is left out
    assert 0 <= row["auroc"] <= 1
    assert 0 <= row["id_miou"] <= 1


@pytest.mark.parametrize(
    ("given", "network", "file", "source"),
    [
        (enet, ENet, "enet/model_best.pth", "yurnero14/Anomaly-Segmentation"),
        (
            espnetv2,
            ESPNetv2,
            "espnetv2/espnetv2_s_2.0_city_1024x512.pth",
            "sacmehta/EdgeNets",
        ),
    ],
)
def test_weights_are_found_in_the_data_folder(
    given: Callable[[], nn.Module],
    network: Callable[[int], nn.Module],
    file: str,
    source: str,
    data: Path,
) -> None:
    with pytest.raises(MissingDataError, match=source):
        given()
    (data / file).parent.mkdir()
    state = network(20).state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, data / file)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert given()(images).shape == (1, 19, 512, 1024)
    torch.save(network(3).state_dict(), data / file)
    with pytest.raises(CheckpointError, match="does not fit"):
        given()
