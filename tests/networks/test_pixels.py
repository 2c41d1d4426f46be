"""Networks for pixels: their maps have the size that they promise."""

from __future__ import annotations

import pytest
import torch

from oodbench.errors import OptionError
from oodbench.networks.backbones import create_backbone


@pytest.mark.parametrize("size", [(64, 64), (13, 9), (1, 30)])
def test_small_network_keeps_the_size(size: tuple[int, int]) -> None:
    network = create_backbone("scenes-unet", 1).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 1, *size)).shape == (2, network.num_features, *size)


def test_torchvision_network_without_its_last_convolution() -> None:
    with pytest.raises(OptionError, match="RGB"):
        create_backbone("deeplabv3-resnet50", 1)
    network = create_backbone("fcn-resnet50", 3).eval()
    with torch.no_grad():
        maps = network(torch.randn(1, 3, 32, 40))
    assert maps.shape == (1, network.num_features, 4, 5)
    assert (maps >= 0).all(), "the last layer left is a ReLU"
