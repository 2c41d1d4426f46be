"""A network's preprocessing: who is believed, what is refused, and that rows say who said it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import oodbench
from oodbench import Preprocess
from oodbench.errors import CheckpointError, OptionError, UnknownNameError
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from oodbench.networks.inputs import (
    Said,
    of_metadata,
    of_processor,
    of_timm,
    of_torchvision,
    processor_of,
    said_by,
)
from oodbench.preprocessing import Asked, Chosen, choose, named
from oodbench.results.rows import row_id
from tests.conftest import write_images
from tests.helpers.cli import CLI

SHOWN = Preprocess(32, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Net(nn.Module):
    """Takes images of any size."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean(dim=(2, 3)))


def chosen(asked: Asked | None = None, network: nn.Module | None = None, **known: Any) -> Chosen:
    return choose(asked or Asked(), network or Net(), SHOWN, **known)


def test_of_a_given_network_nothing_is_assumed() -> None:
    with pytest.raises(OptionError) as caught:
        chosen()
    for part in ("Net", "size, mean and std", "input_size", 'preprocess="benchmark"', "32 x 32"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named() -> None:
    for asked, lacks in (
        (Asked(input_size=64), "mean and std are"),
        (Asked(mean=(0.5,) * 3), "size and std are"),
        (Asked(mean=(0.5,) * 3, std=(0.5,) * 3), "size is"),
    ):
        with pytest.raises(OptionError, match=f"their {lacks} not known"):
            chosen(asked)


def test_numbers_of_the_caller_are_enough() -> None:
    found = chosen(Asked(input_size=64, mean=[0.5] * 3, std=[0.25] * 3))
    assert found.preprocess == Preprocess(64, (0.5,) * 3, (0.25,) * 3)
    assert found.source == "the caller"


def test_a_network_that_is_trained_here_sees_what_the_benchmark_shows() -> None:
    found = chosen(is_given=False)
    assert (found.preprocess, found.source) == (SHOWN, "the benchmark")


def test_the_caller_goes_first_part_by_part() -> None:
    said = [Said("metadata", {"size": 48, "mean": IMAGENET[0], "std": IMAGENET[1]})]
    found = chosen(Asked(std=(0.5,) * 3), said=said)
    assert found.preprocess == Preprocess(48, IMAGENET[0], (0.5,) * 3)
    assert found.source == "std: the caller; size, mean: metadata" or found.source == (
        "size, mean: metadata; std: the caller"
    )


def test_the_first_of_several_that_know_it_is_believed() -> None:
    first = Said("metadata", {"mean": (0.1,) * 3, "std": (0.3,) * 3})
    second = Said("the backbone x", {"size": 32, "mean": (0.9,) * 3})
    found = chosen(said=[first, second])
    assert found.preprocess == Preprocess(32, (0.1,) * 3, (0.3,) * 3)
    assert found.source == "size: the backbone x; mean, std: metadata"


@pytest.mark.parametrize(
    ("crop", "resize", "pre_size"),
    [("0.875", "crop", 256), (256, "crop", 256), ("stretch", "stretch", None), (1, "crop", 224),
     ("centre", "centre", None)],
)  # fmt: skip
def test_crops(crop: Any, resize: str, pre_size: int | None) -> None:
    asked = Asked(input_size=224, mean=(0.5,) * 3, std=(0.5,) * 3, crop=crop)
    found: Any = chosen(asked).preprocess
    assert (found.size, found.resize, found.pre_size) == (224, resize, pre_size)


@pytest.mark.parametrize("crop", ["0", "-1", "100", "256.5", "much", "nan"])
def test_crops_that_are_none(crop: str) -> None:
    with pytest.raises(OptionError, match="crop"):
        chosen(Asked(input_size=224, mean=(0.5,) * 3, std=(0.5,) * 3, crop=crop))


def test_another_size_keeps_the_share_that_is_cropped() -> None:
    found: Any = chosen(Asked("imagenet", input_size=448)).preprocess
    assert (found.size, found.pre_size, found.resize) == (448, 512, "crop")


def test_names() -> None:
    assert chosen(Asked("benchmark")).preprocess == SHOWN
    imagenet: Any = chosen(Asked("imagenet")).preprocess
    assert imagenet == Preprocess(224, *IMAGENET, resize="crop", pre_size=256)
    cifar: Any = chosen(Asked("cifar10")).preprocess
    assert cifar == oodbench.get_benchmark("cifar10").preprocess
    digits: Any = chosen(Asked("digits")).preprocess
    assert (digits.size, digits.mode) == (8, "L")
    assert chosen(Asked("cifar10")).source == "the caller: cifar10"
    for wrong in ("imagnet", "torchvision", "torchvision:ResNet50_Weights.V9", "mnits", "timm"):
        with pytest.raises((UnknownNameError, OptionError)):
            named(wrong, Net(), SHOWN)
    with pytest.raises(UnknownNameError, match="Did you mean 'imagenet'"):
        named("imagnet", Net(), SHOWN)


@pytest.mark.parametrize(
    ("weights", "size", "pre_size"),
    [("ResNet50_Weights.IMAGENET1K_V1", 224, 256), ("ResNet50_Weights.IMAGENET1K_V2", 224, 232),
     ("EfficientNet_B3_Weights.IMAGENET1K_V1", 300, 320)],
)  # fmt: skip
def test_torchvisions_weights_make_the_same_images(
    weights: str, size: int, pre_size: int, tmp_path: Path
) -> None:
    found: Any = chosen(Asked(f"torchvision:{weights}")).preprocess
    assert (found.size, found.pre_size, found.resize) == (size, pre_size, "crop")
    assert weights in named(f"torchvision:{weights}", Net(), SHOWN).source
    from PIL import Image

    image = Image.open(next(write_images(tmp_path, {"a": 1}, size=400).rglob("*.png")))
    theirs = torchvision.models.get_weight(weights).transforms()(image)
    torch.testing.assert_close(found(image), theirs, atol=1e-5, rtol=0)


def test_transforms_of_torchvision_that_are_no_classifiers() -> None:
    with pytest.raises(OptionError, match="transforms"):
        of_torchvision(torchvision.transforms.ToTensor(), "theirs")


def test_a_timm_network_says_it_itself() -> None:
    network = timm.create_model("resnet10t.c3_in1k")
    found = chosen(network=network)
    config = timm.data.resolve_model_data_config(network)
    assert isinstance(found.preprocess, Preprocess)
    assert found.preprocess.size == config["input_size"][1]
    assert found.preprocess.mean == config["mean"]
    assert found.source == "timm: resnet10t.c3_in1k"
    assert not found.notes
    inside = nn.Sequential(network, nn.Identity())
    assert chosen(network=inside).preprocess == found.preprocess
    two = nn.ModuleList([network, timm.create_model("resnet10t")])
    assert not list(said_by(two))
    grey = timm.create_model("resnet10t", in_chans=1)
    assert not list(said_by(grey)), "the published weights are of colour images"


def test_published_weights_that_were_trained_further_are_doubted() -> None:
    found = chosen(network=timm.create_model("resnet10t", num_classes=7), classes=7)
    assert any("trained further" in note and "7" in note for note in found.notes)
    told = Asked("timm")
    assert not chosen(told, timm.create_model("resnet10t", num_classes=7), classes=7).notes


def test_a_network_that_normalises_images_itself_wants_its_size_alone() -> None:
    with pytest.raises(OptionError, match="size is not known"):
        chosen(normalises=lambda: True)
    found = chosen(Asked(input_size=8), normalises=lambda: True)
    assert isinstance(found.preprocess, Preprocess)
    assert found.preprocess.size == 8
    assert not found.is_normalised
    assert "normalises images itself" in found.source


def test_pixels_and_boxes_need_no_size() -> None:
    with pytest.raises(OptionError, match="mean and std are"):
        chosen(keeps_size=True)
    found = chosen(Asked(mean=(0.5,) * 3, std=(0.5,) * 3), keeps_size=True)
    assert found.source == "the caller"


def test_another_callable_is_taken_as_it_is() -> None:
    def theirs(image: Any) -> Any:
        return image

    assert chosen(Asked(theirs)) == Chosen(theirs, "the caller")
    with pytest.raises(OptionError, match="another callable"):
        chosen(Asked(theirs, mean=(0.5,)))


# --- Hugging Face ----------------------------------------------------------------------------

PROCESSORS: dict[str, tuple[dict[str, Any], Preprocess]] = {
    "ViT": (
        {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": [0.5] * 3,
         "image_std": [0.5] * 3, "do_normalize": True, "do_rescale": True},
        Preprocess(224, (0.5,) * 3, (0.5,) * 3, pre_size=224),
    ),
    "DeiT": (
        {"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224},
         "do_center_crop": True, "resample": 3, "image_mean": list(IMAGENET[0]),
         "image_std": list(IMAGENET[1])},
        Preprocess(224, *IMAGENET, pre_size=256, interpolation="bicubic"),
    ),
    "CLIP": (
        {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True, "resample": 3,
         "image_mean": [0.48, 0.45, 0.4], "image_std": [0.26] * 3},
        Preprocess(224, (0.48, 0.45, 0.4), (0.26,) * 3, resize="crop", pre_size=224,
                   interpolation="bicubic"),
    ),
    "ConvNeXt": (
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3,
         "image_mean": list(IMAGENET[0]), "image_std": list(IMAGENET[1])},
        Preprocess(224, *IMAGENET, resize="crop", pre_size=256, interpolation="bicubic"),
    ),
    "ConvNeXt at 384": (
        {"size": {"shortest_edge": 384}, "crop_pct": 1.0, "resample": 3,
         "image_mean": list(IMAGENET[0]), "image_std": list(IMAGENET[1])},
        Preprocess(384, *IMAGENET, pre_size=384, interpolation="bicubic"),
    ),
    "not normalised": (
        {"size": 96, "do_normalize": False},
        Preprocess(96, (0.0,) * 3, (1.0,) * 3, pre_size=96),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROCESSORS)
def test_image_processors(kind: str) -> None:
    config, expected = PROCESSORS[kind]
    said = of_processor(config, "theirs")
    assert chosen(said=[said]).preprocess == expected


def test_pixels_that_are_not_scaled() -> None:
    said = of_processor({"size": 8, "do_rescale": False, "image_mean": [127.5], "image_std": [51]},
                        "theirs")  # fmt: skip
    assert said.parts["mean"] == pytest.approx((0.5,))
    assert said.parts["std"] == pytest.approx((0.2,))


@pytest.mark.parametrize(
    "config",
    [{"size": {"height": 200, "width": 100}}, {"size": {"longest_edge": 9}}, {},
     {"size": 224, "resample": 0}, {"size": 224, "rescale_offset": True},
     {"size": 224, "do_resize": False}],
)  # fmt: skip
def test_image_processors_that_oodbench_has_not(config: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="Give your own"):
        of_processor(config, "theirs")


# --- checkpoints -----------------------------------------------------------------------------


def test_metadata() -> None:
    said = of_metadata({"mean": "0.1,0.2,0.3", "std": "0.5,0.5,0.5", "input_size": "64"}, "file")
    assert said is not None
    assert said.parts == {"mean": (0.1, 0.2, 0.3), "std": (0.5,) * 3, "size": 64}
    assert of_metadata({"arch": "x"}, "file") is None
    whole = {"preprocess": json.dumps({"size": 48, "mean": [0.5], "std": [1], "resize": "crop"})}
    said = of_metadata(whole, "file")
    assert said is not None
    assert said.parts == {"size": 48, "mean": (0.5,), "std": (1.0,), "resize": "crop"}
    for wrong in (
        {"mean": "grey"},
        {"input_size": "big"},
        {"preprocess": "{"},
        {"preprocess": "1"},
    ):
        with pytest.raises(CheckpointError, match="file"):
            of_metadata(wrong, "file")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        write_images(tmp_path / "id" / split, {"a": 3, "b": 3}, seed=len(split))
    write_images(tmp_path / "ood", {".": 3}, seed=9)
    return tmp_path


def words(folder: Path, checkpoint: Path, *more: Any) -> list[Any]:
    return ["eval", "--json", "--detector", "msp", "--id", f"folder:{folder / 'id'}",
            "--ood", f"folder:{folder / 'ood'}", "--backbone", "resnet20", "--checkpoint",
            checkpoint, "--accelerator", "cpu", *more]  # fmt: skip


def saved(path: Path, **metadata: str) -> Path:
    network = HeadedBackbone(create_backbone("resnet20"), 2)
    save_file(network.state_dict(), path, metadata=metadata or None)
    return path


def test_a_checkpoint_on_the_command_line(run: CLI, folder: Path) -> None:
    bare = saved(folder / "bare.safetensors")
    message = run.refuses(*words(folder, bare))
    assert "mean and std are not known" in message
    assert "--mean" in message
    assert "--preprocess cifar10" in message
    ran = run(*words(folder, bare, "--preprocess", "cifar10", "--input-size", "40"))
    assert ran.status == 0, ran.both
    row = json.loads(ran.out)["rows"][0]
    assert row["preprocess"]["size"] == 40
    assert row["preprocess_source"] == "size: the caller; mean, std: the caller: cifar10"
    told = saved(folder / "told.safetensors", mean="0.1,0.2,0.3", std="0.5,0.5,0.5")
    ran = run(*words(folder, told))
    assert ran.status == 0, ran.both
    row = json.loads(ran.out)["rows"][0]
    assert row["preprocess"]["mean"] == [0.1, 0.2, 0.3]
    assert row["preprocess_source"] == (
        "size: the backbone resnet20; mean, std: metadata of told.safetensors"
    )


def test_a_run_of_ones_own_tells_what_it_saw(run: CLI, folder: Path) -> None:
    ran = run("train", "--method", "ce", "--id", f"folder:{folder / 'id'}@24", "--recipe", "quick",
              "--epochs", "1", "--backbone", "resnet20", "--accelerator", "cpu")  # fmt: skip
    assert ran.status == 0, ran.both
    (file,) = Path(oodbench.files.cache_dir()).glob("runs/*/weights.safetensors")
    ran = run(*words(folder, file))
    assert ran.status == 0, ran.both
    row = json.loads(ran.out)["rows"][0]
    assert row["preprocess"]["size"] == 24
    assert row["preprocess_source"] == "metadata of weights.safetensors"


# --- rows and networks -----------------------------------------------------------------------


def evaluated(folder: Path, network: nn.Module, **options: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = oodbench.evaluate(
            network,
            f"folder:{folder / 'id'}",
            "msp",
            ood=f"folder:{folder / 'ood'}",
            hardware=oodbench.Hardware(accelerator="cpu", workers=0),
            **options,
        )
    return dict(found.rows[0])


def test_a_torchvision_network_is_refused_until_told(folder: Path) -> None:
    network = torchvision.models.resnet18(num_classes=2)
    with pytest.raises(OptionError, match="ResNet"):
        evaluated(folder, network)
    row = evaluated(folder, network, preprocess="torchvision:ResNet18_Weights.IMAGENET1K_V1",
                    input_size=64)  # fmt: skip
    assert (row["preprocess"]["size"], row["preprocess"]["pre_size"]) == (64, 73)


def test_who_said_it_is_no_part_of_a_rows_identity(folder: Path) -> None:
    network = Net()
    shown = Preprocess(32, *IMAGENET)
    first = evaluated(folder, network, preprocess=shown)
    second = evaluated(folder, network, preprocess="benchmark")
    assert first["preprocess"] == second["preprocess"]
    assert first["row_id"] == second["row_id"]
    assert first["preprocess_source"] != second["preprocess_source"]
    assert row_id({k: v for k, v in first.items() if k != "preprocess_source"}) == first["row_id"]


def test_a_network_trained_here_takes_no_other_preprocessing(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"`mean` is for a network that you give"):
        oodbench.evaluate(
            id=f"folder:{folder / 'id'}", ood=f"folder:{folder / 'ood'}", mean=(0.5,) * 3
        )


def test_shape_errors_are_one_line(folder: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    with pytest.raises(oodbench.errors.OODBenchError) as caught:
        evaluated(folder, network, preprocess=replace(SHOWN, size=32))
    assert "\n" not in str(caught.value)
    assert "3 x 32 x 32" in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"input_size": (3, 32, 64)}, {"crop_mode": "border"}, {"crop_pct": 1.1}]
)
def test_what_timm_does_and_oodbench_has_not_is_refused(change: dict[str, Any]) -> None:
    config = {
        "input_size": (3, 32, 32), "crop_mode": "center", "crop_pct": 0.875,
        "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic",
    }  # fmt: skip
    assert of_timm(config, "theirs").parts["pre_size"] == 36
    with pytest.raises(OptionError, match=r"fitted by .* \(theirs\); oodbench has squares"):
        of_timm(config | change, "theirs")


def test_image_processors_of_the_hub_are_those_of_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    cached: list[Any] = [None]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: cached[0])
    assert processor_of("somebody/vit-7") is None
    path = tmp_path / "cached.json"
    path.write_text(json.dumps({"size": 48, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}))
    cached[0] = str(path)
    found = processor_of("somebody/vit-7")
    assert found is not None
    assert (found.parts["size"], found.parts["mean"]) == (48, (0.1,) * 3)
    assert found.source == "image processor: vit-7"
    path.write_text("{")
    with pytest.raises(OptionError, match=r"cached\.json cannot be read"):
        processor_of("somebody/vit-7")


def test_a_network_of_a_folder_that_is_gone_says_nothing(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    network = Net()
    network.config = SimpleNamespace(_name_or_path=str(tmp_path / "gone"))  # type: ignore[assignment]
    assert list(said_by(network)) == []
