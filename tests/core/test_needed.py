"""Which splits an evaluation reads, and getting those that are not here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from oodbench import Benchmark, Detector, Outputs, Preprocess, files
from oodbench.contenders import Networks
from oodbench.download.described import Download, RemoteFile
from oodbench.download.wanted import Wanted, lacking
from oodbench.errors import DownloadError
from oodbench.needed import download, needed, obtainable
from tests.helpers.datasets import spec
from tests.helpers.downloads import NAMES, birds, birds_of, packed, tree
from tests.helpers.publisher import publishing, status

BIRDS = packed(*NAMES)
TOY = Benchmark(
    "toy",
    replace(spec("toy"), splits=("train", "val", "test")),
    (spec("n1"), spec("n2")),
    (spec("f1"),),
    Preprocess(32, (0.5,) * 3, (0.5,) * 3),
    validation=(spec("chosen"),),
)
MINE = Networks(model=nn.Identity())


@dataclass
class Plain(Detector):
    """Learns nothing."""

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.max(1).values


@dataclass
class Learning(Detector):
    """Learns from the split that it is told."""

    fit_split: str = "train"

    def fit(self, train: Outputs) -> Learning:
        return self

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.max(1).values


def read(*detectors: Detector, networks: Networks | None = MINE, **words) -> list[str]:
    wanted = needed(TOY, detectors, networks, **words)
    return [f"{one.name}/{split}" for one in wanted for split in one.splits]


OOD = ["n1/test", "n2/test", "f1/test"]


def test_a_network_that_is_given_takes_test_splits_only() -> None:
    assert read(Plain()) == ["toy/test", *OOD]


def test_a_network_that_is_trained_takes_the_training_split() -> None:
    assert read(Plain(), networks=None) == ["toy/train", "toy/test", *OOD]
    trained_here = Networks(backbone="resnet20")
    assert read(Plain(), networks=trained_here) == ["toy/train", "toy/test", *OOD]


def test_what_a_detector_learns_from() -> None:
    assert read(Learning()) == ["toy/train", "toy/test", *OOD]
    assert read(Plain(), Learning("val")) == ["toy/val", "toy/test", *OOD]


def test_hyper_parameters_are_chosen_on_sets_of_their_own() -> None:
    assert read(Plain(), tune=True) == ["toy/train", "toy/val", "toy/test", *OOD, "chosen/test"]
    assert read(Plain(), tune=True, test=False) == ["toy/train", "toy/val", "chosen/test"]


def test_ood_sets_that_are_chosen() -> None:
    assert read(Plain(), ood="n2") == ["toy/test", "n2/test"]
    assert read(Plain(), ood=["f1", "near=n1"]) == ["toy/test", "f1/test", "n1/test"]
    assert read(networks=None, test=False) == ["toy/train"]


def test_what_can_be_obtained() -> None:
    """Neither what is here, nor what nobody knows where to get, nor what only a person can."""
    source = Download("birds", (RemoteFile("https://a.org/birds.zip"),))
    by_hand = Download("birds", (RemoteFile(name="birds.zip"),))
    here = replace(spec("here"), downloads=(source,))
    sets = [here, birds_of(), birds_of(by_hand), birds_of(source)]
    found = obtainable([Wanted(one, ("test",)) for one in sets])
    assert [(one.name, one.splits, one.fetched) for one in found] == [
        ("birds", ("test",), (source,))
    ]


@pytest.fixture
def data() -> Path:
    return files.data_dir()


def test_what_is_not_here_is_got(data: Path) -> None:
    told: list[str] = []
    with publishing() as publisher:
        one = birds(publisher.put("/birds.zip", BIRDS), BIRDS)
        download(lacking([Wanted(one, ("test",))]), told.append)
        assert tree(data) == sorted(NAMES)
        download(lacking([Wanted(one, ("test",))]), told.append)
        assert len(publisher.asked) == 1


def test_nothing_to_get_makes_nothing(data: Path) -> None:
    download([], pytest.fail)
    assert not data.exists()


def test_what_cannot_be_got_is_said(data: Path) -> None:
    with publishing() as publisher:
        one = birds(publisher.put("/birds.zip", b"", status(404)), BIRDS)
        with pytest.raises(DownloadError, match="404"):
            download(lacking([Wanted(one, ("test",))]), lambda _: None)
    assert not (data / "birds").exists()
