"""The zoo: networks by name, whose weights are those that the index names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import oodbench
from oodbench import Preprocess, files, zoo
from oodbench.caching.fingerprint import weights_digest
from oodbench.data.transforms import content_key
from oodbench.errors import CheckpointError, OODBenchError, UnknownNameError
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from tests.conftest import REPOSITORY

SEES = Preprocess(32, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an index of one given network."""
    torch.manual_seed(0)
    network = HeadedBackbone(create_backbone("resnet20"), 10)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    released = zoo.Released(
        name="cifar10/resnet20/ce/seed0",
        sha256=files.sha256(tmp_path / "weights.safetensors"),
        weights=weights_digest(network),
        method="ce",
        backbone="resnet20",
        id="cifar10",
        classes=10,
        licence="MIT",
        preprocess=content_key(SEES),
        file="weights.safetensors",
    )
    zoo.write(tmp_path / zoo.INDEX, [released])
    monkeypatch.setenv("OODBENCH_ZOO", str(tmp_path))
    return tmp_path


def edited(folder: Path, **changes: object) -> None:
    path = folder / zoo.INDEX
    content = json.loads(path.read_text())
    content["networks"]["cifar10/resnet20/ce/seed0"].update(changes)
    path.write_text(json.dumps(content))


def test_a_network_by_its_name(folder: Path) -> None:
    network = oodbench.load_network("cifar10/resnet20/ce/seed0")
    assert not network.training
    assert network.own_preprocess == SEES
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    released = zoo.index()["cifar10/resnet20/ce/seed0"]
    assert zoo.with_weights(released.weights) == released
    assert zoo.with_weights("0" * 64) is None


def test_the_nearest_name_is_told(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="cifar10/resnet20/ce/seed0"):
        oodbench.load_network("cifar10/resnet20/ce/seed1")


def test_a_changed_file_is_refused(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match="its sha256 is another"):
        oodbench.load_network("cifar10/resnet20/ce/seed0")


def test_a_file_of_other_weights_is_refused(folder: Path) -> None:
    edited(folder, weights="0" * 64)
    with pytest.raises(CheckpointError, match="not those that its index names"):
        oodbench.load_network("cifar10/resnet20/ce/seed0")


def test_weights_that_are_elsewhere(folder: Path) -> None:
    (folder / "weights.safetensors").rename(folder / "moved")
    with pytest.raises(OODBenchError, match=r"are not here.*OODBENCH_ZOO"):
        oodbench.load_network("cifar10/resnet20/ce/seed0")
    kept = files.cache_dir() / "networks"
    kept.mkdir(parents=True)
    sha256 = zoo.index()["cifar10/resnet20/ce/seed0"].sha256
    (folder / "moved").rename(kept / f"{sha256}.safetensors")
    assert oodbench.load_network("cifar10/resnet20/ce/seed0") is not None


@pytest.mark.parametrize("name", ["../weights.safetensors", "/weights.safetensors", "a\\b"])
def test_no_file_outside_of_the_folder(name: str, folder: Path) -> None:
    edited(folder, file=name)
    with pytest.raises(OODBenchError, match="outside of its folder"):
        zoo.index()


@pytest.mark.parametrize("text", ["", "[]", '{"networks": {"a": {}}}', '{"networks": [1]}'])
def test_what_is_no_index(text: str, folder: Path) -> None:
    (folder / zoo.INDEX).write_text(text)
    with pytest.raises(OODBenchError, match="no index of networks"):
        zoo.index()


def test_what_a_newer_version_adds_is_left_alone(folder: Path) -> None:
    edited(folder, colour="blue")
    assert zoo.index()["cifar10/resnet20/ce/seed0"].licence == "MIT"


def test_the_committed_networks_are_whole() -> None:
    networks = zoo.read(REPOSITORY / "leaderboards" / "networks" / zoo.INDEX)
    assert networks
    for name, one in networks.items():
        assert one.licence, name
        assert one.is_here or one.url, name
        assert name.split("/")[0] == one.id
        if one.file is not None:
            assert files.sha256(one.place / one.file) == one.sha256, name
