"""How weights and images lie in memory: quicker where that is safe, and never anybody's fault."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

import oodbench
from oodbench import Hardware
from oodbench.data.samples import Samples, image_folder
from oodbench.data.transforms import Preprocess
from oodbench.extract import extract
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from oodbench.networks.memory_format import prefer_channels_last
from tests.conftest import write_images

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
RGB = Preprocess(32, (0.5,) * 3, (0.25,) * 3)


def last(value: Tensor) -> bool:
    return value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()


class LeNet(nn.Module):
    """As many courses have it: ``view`` behind the convolutions."""

    def __init__(self, convolution: Callable[..., nn.Module] = nn.Conv2d) -> None:
        super().__init__()
        self.conv1, self.conv2 = convolution(3, 6, 5), convolution(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2 = nn.Linear(400, 84), nn.Linear(84, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())
        return self.fc2(self.fc1(x.view(-1, 400)).relu())


class Volumes(LeNet):
    """A convolution of three dimensions beside those of two."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.deep(x.view(len(x), 1, 3, 32, 32)).view_as(x))


class Tables(LeNet):
    """Parameters and buffers of four dimensions that are no convolution's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 3, 32, 32))
        self.register_buffer("position", torch.randn(1, 3, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.table.view(3, -1) + self.position.view(3, -1)  # type: ignore[operator, union-attr]
        return super().forward(x + flat.view(1, 3, 32, 32))


class Upwards(LeNet):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.up(x).view(len(x), 3, 64, 64)[:, :, ::2, ::2].contiguous())


class Shared(LeNet):
    """One weight in a convolution and, flat, in a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tied = nn.Conv2d(6, 16, 5)
        self.tied.weight = self.conv2.weight  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.tied.weight.view(16, -1).sum())


def parametrized() -> nn.Module:
    network = LeNet()
    parametrizations.spectral_norm(network.conv2)
    parametrizations.weight_norm(network.conv1)
    return network


STRANGERS: dict[str, Callable[[], nn.Module]] = {
    "view": LeNet,
    "3-D beside 2-D": Volumes,
    "tables": Tables,
    "transposed": Upwards,
    "shared": Shared,
    "parametrized": parametrized,
    "grouped": lambda: LeNet(lambda a, b, k: nn.Sequential(nn.Conv2d(a, b, k), nn.BatchNorm2d(b))),
    "bf16 inside": lambda: LeNet(
        lambda a, b, k: nn.Sequential(nn.Conv2d(a, b, k), _Cast(torch.bfloat16), _Cast())
    ),
}


class _Cast(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    root = tmp_path_factory.mktemp("photos")
    return image_folder("photos", write_images(root, {"a": 3, "b": 3}))


def seen(network: nn.Module, samples: Samples) -> tuple[Tensor, Tensor]:
    """Logits by extraction, and by the network in plain PyTorch."""
    found = extract(network, samples, RGB, hardware=CPU).logits
    with torch.inference_mode():
        return found, network(torch.stack([RGB(samples[i]) for i in range(len(samples))]))


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_strangers_network_runs_as_in_plain_pytorch(kind: str, photos: Samples) -> None:
    network = STRANGERS[kind]().eval()
    strides = {name: value.stride() for name, value in network.state_dict().items()}
    found, wanted = seen(network, photos)
    assert torch.equal(found, wanted)
    assert {name: value.stride() for name, value in network.state_dict().items()} == strides


def test_what_looks_into_a_librarys_network_is_left_alone(photos: Samples) -> None:
    """A hook, a forward of one's own or traced code sees activations laid out as it expects."""
    hooked = torchvision.models.resnet18(num_classes=4).eval()
    hooked.layer2.register_forward_hook(lambda _, args, out: out.view(-1).view_as(out))
    replaced = torchvision.models.resnet18(num_classes=4).eval()

    def forward(self: Any, x: Tensor) -> Tensor:
        maps = self.layer1(self.maxpool(self.bn1(self.conv1(x))))
        return self.fc(maps.view(len(x), -1)[:, :512])

    replaced.forward = types.MethodType(forward, replaced)
    traced = torch.fx.symbolic_trace(LeNet().eval())
    subclass = type("Mine", (torchvision.models.ResNet,), {})
    mine = subclass(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)
    for network in (hooked, replaced, traced, mine.eval()):
        found, wanted = seen(network, photos)
        assert torch.equal(found, wanted)
        assert not prefer_channels_last(network)


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("resnet20", 32, 3),
        ("resnet18-cifar", 32, 3),
        ("digits-cnn", 8, 1),
        ("resnet18", 64, 3),
        ("mobilenetv3_small_050", 64, 3),
        ("convnext_atto", 64, 3),
        ("levit_128s", 224, 3),
        ("ghostnet_050", 64, 3),
    ],
)
def test_known_networks_give_the_same_on_either_layout(name: str, size: int, channels: int) -> None:
    network = HeadedBackbone(create_backbone(name, channels), 4).eval()
    images = torch.randn(2, channels, size, size)
    with torch.inference_mode():
        before = network.outputs(images)
        assert prefer_channels_last(network)
        after = network.outputs(images.contiguous(memory_format=torch.channels_last))
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=1e-4, atol=1e-5)


def test_only_weights_of_convolutions_change() -> None:
    network = timm.create_model("levit_128s", num_classes=4)  # has tables of four dimensions
    network.extra = nn.Sequential(
        nn.ConvTranspose2d(2, 2, 3), nn.Conv3d(2, 2, 3), nn.Conv1d(2, 2, 3)
    )
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    weights = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, kinds)}
    before = {n: v.clone() for n, v in network.state_dict().items()}
    kept = dict(network.named_parameters())
    assert prefer_channels_last(network)
    for name, value in before.items():
        now = network.state_dict()[name]
        assert torch.equal(now, value)
        assert last(now) == (name in weights and min(value.shape[1:3]) > 1)
    assert all(kept[name] is value for name, value in network.named_parameters())


def test_layers_that_have_no_weights_of_their_own() -> None:
    """Lazy ones, and weights that are computed at each pass."""
    old = nn.Sequential(weight_norm(nn.Conv2d(3, 3, 3)))
    lazy = nn.Sequential(nn.LazyConv2d(3, 3), nn.Conv2d(3, 3, 3))
    for network in (old, lazy, parametrized()):
        assert not prefer_channels_last(network)


def test_training_a_registered_network_that_takes_the_layout_for_granted(
    tmp_path: Any, photos: Samples
) -> None:
    class Viewing(LeNet):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.num_features = 400
            self.fc1, self.fc2 = nn.Identity(), nn.Identity()

    oodbench.register_backbone("viewing")(Viewing)
    for split in ("train", "test"):
        write_images(tmp_path / "id" / split, {"a": 4, "b": 4}, seed=len(split))
    write_images(tmp_path / "ood", {"c": 4}, seed=9)
    results = oodbench.evaluate(
        id=f"folder:{tmp_path / 'id'}",
        ood=[f"folder:{tmp_path / 'ood'}"],
        detectors=["msp"],
        backbone="viewing",
        recipe_options={"epochs": 1, "batch_size": 4},
        hardware=CPU,
    )
    assert list(results)
