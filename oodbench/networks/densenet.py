"""DenseNet-BC of Huang et al. 2017 for 32x32 images, which the OOD literature trains on CIFAR.

It is the "DenseNet" or "DenseNet-101" of ODIN, ReAct, DICE, KNN, LINe and ASH. The parameters are
named as in the weights that DICE publishes, so that those load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.networks.backbones import ConvNet
from oodbench.registry import register_backbone


class _Layer(nn.Module):
    """BN-ReLU-Conv(1x1)-BN-ReLU-Conv(3x3), whose ``growth`` maps are put behind its input's."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        between = 4 * growth
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, between, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(between)
        self.conv2 = nn.Conv2d(between, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(out)))], dim=1)


class _Block(nn.Module):
    """Layers, each of which sees the maps of all before it."""

    def __init__(self, inside: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(*(_Layer(inside + i * growth, growth) for i in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class _Transition(nn.Module):
    """BN-ReLU-Conv(1x1) to fewer maps, averaged to half the height and width."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNetBC(ConvNet):
    """Densely connected network with bottlenecks and compression (Huang et al. 2017, section 3).

    Three blocks of (L - 4) / 6 layers each; a transition keeps half of the maps, and twice the
    growth rate of maps go into the first block. Convolutions start as He et al. 2015 have it.

    Args:
        depth: L layers.
        growth: k, the maps that each layer adds.
        channels: input channels.
    """

    def __init__(self, depth: int = 100, growth: int = 12, channels: int = 3) -> None:
        super().__init__()
        layers, width = (depth - 4) // 6, 2 * growth
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        for number in (1, 2, 3):
            self.add_module(f"block{number}", _Block(width, growth, layers))
            width += layers * growth
            if number < 3:
                self.add_module(f"trans{number}", _Transition(width, width // 2))
                width //= 2
        self.bn1 = nn.BatchNorm2d(width)
        self.num_features = width
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features: ``[B, C, 32, 32] -> [B, num_features]``."""
        x = self.conv1(x)
        for name in ("block1", "trans1", "block2", "trans2", "block3"):
            x = self.get_submodule(name)(x)
        return F.relu(self.bn1(x)).mean(dim=(2, 3))


@register_backbone("densenet-bc-100", takes="images", gives="features", size=32)
def densenet_bc_100(channels: int = 3) -> DenseNetBC:
    """DenseNet-BC of 100 layers, growth 12, for 32x32 images (Huang et al. 2017): 342 features."""
    return DenseNetBC(100, 12, channels)
