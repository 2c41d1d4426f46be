"""Which layers of a network have feature maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import oodbench
from oodbench.detectors import _network
from oodbench.errors import MissingOutputError
from oodbench.networks.backbones import create_backbone
from oodbench.networks.classifier import Classifier
from oodbench.networks.headed import HeadedBackbone
from tests.helpers.scores import images, small_cnn


def _classifier(name: str) -> Classifier:
    timm = pytest.importorskip("timm")
    return Classifier(timm.create_model(name, pretrained=False, num_classes=10))


def test_last_maps_of_our_networks() -> None:
    find = lambda model, size, channels=3: _network.last_maps(
        model.eval(), torch.rand(2, channels, size, size), "test"
    )
    resnet = HeadedBackbone(create_backbone("resnet20"), 10)
    assert find(resnet, 32) == ("backbone.layer2", "backbone.layer3")
    digits = HeadedBackbone(create_backbone("digits-cnn", channels=1), 10)
    assert find(digits, 8, 1) == ("backbone.layers.5", "backbone.layers.8")
    stem = HeadedBackbone(create_backbone("resnet18-cifar"), 10)
    assert find(stem, 32) == ("backbone.layer3", "backbone.layer4")
    assert find(small_cnn().float(), 8) == ("stages.2", "stages.4")


def test_last_maps_of_other_classifiers() -> None:
    x = torch.rand(1, 3, 64, 64)
    found = _network.last_maps(_classifier("resnet18"), x, "test")
    assert found == ("model.layer3", "model.layer4")
    # torchvision's pools into a map of one pixel, which has no direction to remove
    from torchvision.models import resnet18

    found = _network.last_maps(Classifier(resnet18(num_classes=10)), x, "test")
    assert found == ("model.layer3", "model.layer4")
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    # one stage alone
    assert _network.last_maps(Classifier(plain), x, "test") == ("model.1",)


def test_a_network_of_tokens_has_no_maps() -> None:
    vit = _classifier("vit_tiny_patch16_224")
    message = r"rankfeat needs a network with feature maps \[C, H, W\].*option `layers`"
    with pytest.raises(MissingOutputError, match=message):
        oodbench.create_detector("rankfeat").score_batch(vit, torch.rand(2, 3, 224, 224))
    mlp = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 4)))
    with pytest.raises(MissingOutputError, match="rankfeat needs a network with feature maps"):
        oodbench.create_detector("rankfeat").score_batch(mlp, images().float())
    with pytest.raises(MissingOutputError, match="gram needs a network with feature maps"):
        oodbench.create_detector("gram").fit_batches(mlp, [(images().float(), torch.zeros(10))])
