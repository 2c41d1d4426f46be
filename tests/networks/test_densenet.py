"""DenseNet-BC: the network of the paper, and of torchvision with the stem that CIFAR has."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from oodbench.networks.backbones import create_backbone
from oodbench.networks.densenet import DenseNetBC

torchvision = pytest.importorskip("torchvision")


def _torchvision_name(name: str) -> str:
    name = re.sub(
        r"block(\d)\.layer\.(\d+)\.",
        lambda m: f"features.denseblock{m[1]}.denselayer{int(m[2]) + 1}.",
        name,
    )
    if "denselayer" in name:
        return name.replace(".bn", ".norm")
    name = re.sub(r"^trans(\d)\.bn1", r"features.transition\1.norm", name)
    name = re.sub(r"^trans(\d)\.conv1", r"features.transition\1.conv", name)
    return re.sub(r"^conv1", "features.conv0", re.sub(r"^bn1", "features.norm5", name))


def test_equal_to_torchvisions_with_the_stem_of_cifar() -> None:
    torch.manual_seed(0)
    network = DenseNetBC().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # else all are one and the same
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    peer = torchvision.models.DenseNet(12, (16, 16, 16), 24, 4, num_classes=10)
    peer.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(peer.features, name, nn.Identity())
    state: dict[str, Tensor] = network.state_dict()
    missing, unknown = peer.load_state_dict(
        {_torchvision_name(name): value for name, value in state.items()}, strict=False
    )
    assert missing == ["classifier.weight", "classifier.bias"]
    assert unknown == []
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        ours = network(images)
        theirs = peer.eval().features(images).relu().mean(dim=(2, 3))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_as_large_as_the_paper_says() -> None:
    """Table 2 of Huang et al. 2017: 0.8 million parameters (L = 100, k = 12), ten classes."""
    network = create_backbone("densenet-bc-100")
    own = sum(p.numel() for p in network.parameters()) + 342 * 10 + 10
    assert own == 769_162
    assert network.num_features == 342
