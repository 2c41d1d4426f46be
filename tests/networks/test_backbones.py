"""Backbones by name: known without imports, and refused in words where another kind is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import oodbench
from oodbench.errors import OptionError, PluginError, UnknownNameError
from oodbench.networks.backbones import (
    backbone_names,
    create_backbone,
    is_registered,
    starting_backbone,
)
from oodbench.networks.pretrained import create_pretrained
from oodbench.registry import BACKBONES, METHODS
from tests.helpers.attempts import Server


@pytest.fixture
def registered() -> Iterator[list[str]]:
    """Names to forget after the test."""
    names: list[str] = []
    yield names
    for name in names:
        BACKBONES.unregister(name)


def test_a_new_process_knows_them_without_imports(server: Server) -> None:
    """The names, and networks of every room, of which nothing was imported before."""
    code = (
        "import sys\n"
        "torch = sys.modules.pop('torch')\n"
        "import oodbench\n"
        "names = oodbench.list_backbones()\n"
        "assert 'torch' not in sys.modules\n"
        "sys.modules['torch'] = torch\n"
        "from oodbench.networks.backbones import create_backbone\n"
        "assert 'oodbench.networks.clips' not in sys.modules\n"
        "create_backbone('scenes-unet', 1)\n"
        "create_backbone('scenes-frcnn', 1)\n"
        "create_backbone('clips-small', {'video': 3, 'audio': 1})\n"
        "create_backbone('avdigits-cnn', {'image': 1})\n"
        "create_backbone('resnet20', 1)\n"
        "print(*names)\n"
    )
    ran = server.imports(code)
    assert ran.status == 0, ran.both
    assert ran.out.split() == oodbench.list_backbones()


@pytest.mark.parametrize("name", oodbench.list_backbones())
def test_each_says_what_it_takes_and_gives(name: str) -> None:
    factory = BACKBONES.get(name)
    assert factory.takes in ("images", "modalities")  # type: ignore[attr-defined]
    assert factory.gives  # type: ignore[attr-defined]
    summary = BACKBONES.summary(name)
    assert summary.endswith(".")
    assert len(summary) <= 100


@pytest.mark.parametrize(
    "name", [n for n in oodbench.list_backbones() if not n.endswith("-kinetics")]
)
def test_each_is_made(name: str) -> None:
    factory: Any = BACKBONES.get(name)
    channels = 3 if factory.takes == "images" else {"video": 3, "audio": 1}
    with torch.device("meta"):
        assert isinstance(create_backbone(name, channels, gives=factory.gives), nn.Module)


def test_descriptions_stand_alone() -> None:
    lines = [BACKBONES.summary(name) for name in oodbench.list_backbones()]
    assert len(set(lines)) == len(lines)


# Unknown names


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("scenes-unett", "scenes-unet"),
        ("resnet02", "resnet20"),
        ("Resnet20", "resnet20"),
        ("clips-smal", "clips-small"),
        ("scenes", "scenes-unet"),
        ("deeplabv3_resnet50", "deeplabv3-resnet50"),
        ("seresnet5", "seresnet50"),  # of timm's, where none of ours is nearer
        ("vit_smal_patch16_224", "vit_small_patch16_224"),
    ],
)
def test_the_nearest_name_is_suggested_first(typed: str, first: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        create_backbone(typed)
    assert f"{typed!r}. Did you mean {first!r}" in str(error.value)
    with pytest.raises(UnknownNameError, match=f"Did you mean '{first}'"):
        create_pretrained(typed)


def test_nothing_near_is_no_suggestion() -> None:
    with pytest.raises(UnknownNameError) as error:
        create_backbone("qqqqqqqqqqqq")
    assert "Did you mean" not in str(error.value)
    assert "oodbench list backbones" in str(error.value)
    assert "timm.list_models()" in str(error.value)


# Another kind than is wanted


@pytest.mark.parametrize("name", ["clips-small", "avdigits-cnn", "clips-s3d-kinetics"])
def test_one_of_several_modalities_for_images(name: str) -> None:
    with pytest.raises(OptionError, match=f"'{name}' is a backbone of several modalities") as error:
        create_backbone(name, 3)
    assert "resnet20" in str(error.value)
    assert "any of timm's" in str(error.value)


@pytest.mark.parametrize("name", ["resnet20", "scenes-unet", "resnet18"])
def test_one_of_images_for_several_modalities(name: str) -> None:
    channels = {"video": 3, "audio": 1}
    with pytest.raises(OptionError, match="no backbone of several modalities") as error:
        create_backbone(name, channels)
    assert "(video, audio)" in str(error.value)
    assert "avdigits-cnn" in str(error.value)
    assert "timm" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "backbone", "own", "wanted", "other"),
    [
        ("ce", "scenes-unet", "feature maps", "features", "resnet20"),
        ("ce", "scenes-frcnn", "boxes", "features", "resnet20"),
        ("ce-segmentation", "resnet20", "features", "feature maps", "scenes-unet"),
        ("ce-segmentation", "resnet18", "features", "feature maps", "scenes-unet"),
        ("ce-segmentation", "scenes-frcnn", "boxes", "feature maps", "scenes-unet"),
        ("ce-detection", "scenes-unet", "feature maps", "boxes", "scenes-frcnn"),
    ],
)
def test_a_method_refuses_what_it_cannot_train(
    method: str, backbone: str, own: str, wanted: str, other: str
) -> None:
    cls = METHODS.get(method)
    with pytest.raises(OptionError) as error:
        starting_backbone(backbone, 3, gives=cls.backbone_gives)
    told = str(error.value)
    assert f"the backbone {backbone!r} gives {own}, but {wanted} are needed" in told
    assert other in told
    assert "oodbench.register_backbone" in told
    assert len(told) < 300, "the names of all of them are for `oodbench list backbones`"


def test_a_frozen_network_of_pixels_is_refused_as_a_classifier(tmp_path: Any) -> None:
    preprocess = oodbench.Preprocess(32, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(OptionError, match="'scenes-unet' gives feature maps"):
        create_pretrained("scenes-unet", checkpoint=tmp_path / "w.pt", preprocess=preprocess)


# Those of others


class Plain(nn.Module):
    """What anybody writes."""

    num_features = 8

    def __init__(self, channels: Any = 3) -> None:
        super().__init__()
        self.channels = channels


def test_one_that_declares_nothing_is_taken_at_its_word(registered: list[str]) -> None:
    assert oodbench.register_backbone("plain-one")(Plain) is Plain
    registered.append("plain-one")
    assert create_backbone("plain-one", 5, gives="features").channels == 5
    assert create_backbone("plain-one", {"a": 1}, gives="boxes").channels == {"a": 1}
    assert "plain-one" in backbone_names()
    assert "plain-one" not in backbone_names("images")


def test_one_that_declares_a_word_of_its_own(registered: list[str]) -> None:
    def quarters(channels: int) -> Plain:
        return Plain(channels)

    oodbench.register_backbone("quarters", takes="images", gives="quarters")(quarters)
    registered.append("quarters")
    assert backbone_names(gives="quarters") == ["quarters"]
    assert create_backbone("quarters", 1, gives="quarters").channels == 1
    with pytest.raises(OptionError, match="'quarters' gives quarters, but features are needed"):
        create_backbone("quarters", 1, gives="features")
    with pytest.raises(OptionError, match="Choose one of quarters, or register"):
        create_backbone("resnet20", 1, gives="quarters")
    with pytest.raises(OptionError, match="There is none so far, or register"):
        create_backbone("resnet20", 1, gives="halves")


def test_an_argument_after_a_colon_is_the_factorys(registered: list[str]) -> None:
    def sized(size: str, channels: int) -> Plain:
        network = Plain(channels)
        network.num_features = int(size)
        return network

    oodbench.register_backbone("sized")(sized)
    registered.append("sized")
    assert is_registered("sized:12")
    assert create_backbone("sized:12", 1).num_features == 12
    assert not is_registered("unsized:12")
    with pytest.raises(UnknownNameError, match="'unsized:12'"):
        create_backbone("unsized:12", 1)


def test_an_alias_makes_the_same_network() -> None:
    BACKBONES.alias("resnet-twenty", "resnet20")
    try:
        assert type(create_backbone("resnet-twenty")) is type(create_backbone("resnet20"))
        assert "resnet-twenty" not in oodbench.list_backbones()
    finally:
        BACKBONES.unregister("resnet-twenty")


def test_a_damaged_package_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    get = BACKBONES.get

    def fail(name: str) -> Any:
        if name == "resnet32":
            raise PluginError("damaged")
        return get(name)

    monkeypatch.setattr(BACKBONES, "get", fail)
    assert "resnet32" not in backbone_names("images", "features")
    assert "resnet20" in backbone_names("images", "features")
