"""Encoders of clips and spectrograms: shapes, channels, and what of them is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oodbench.detectors.multimodal_ce import MultimodalCE
from oodbench.errors import OptionError
from oodbench.networks.backbones import create_backbone
from oodbench.networks.clips import ClipEncoder, SpectrogramEncoder, small
from oodbench.networks.modalities import MultimodalEncoders, MultimodalRecipe


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d"])
@pytest.mark.parametrize("channels", [3, 2])
def test_clips_become_features(name: str, channels: int) -> None:
    encoder = ClipEncoder(name, channels).eval()
    frames = 16 if name == "s3d" else 4
    side = 224 if name == "s3d" else 32
    with torch.inference_mode():
        found = encoder(torch.randn(1, channels, frames, side, side))
    assert found.shape == (1, encoder.num_features)
    assert encoder.num_features == (1024 if name == "s3d" else 512)


def test_a_first_layer_for_flow_keeps_the_scale() -> None:
    torch.manual_seed(0)
    rgb = ClipEncoder("r3d_18")
    torch.manual_seed(0)
    flow = ClipEncoder("r3d_18", 2)
    weights = [
        next(m for m in encoder.modules() if isinstance(m, nn.Conv3d)).weight
        for encoder in (rgb, flow)
    ]
    assert weights[1].shape[1] == 2
    torch.testing.assert_close(weights[0].sum(dim=1), weights[1].sum(dim=1))


@pytest.mark.parametrize("name", ["r3d_18", "s3d", "mvit_v2_s"])
def test_all_but_the_last_stage_is_frozen(name: str) -> None:
    encoder = ClipEncoder(name)
    encoder.freeze()
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    stage = {"r3d_18": "layer4", "s3d": "features.15", "mvit_v2_s": "blocks.15"}[name]
    assert trained
    allowed = (f"network.{stage}.", "network.norm.")
    assert all(n.startswith(allowed) for n in trained), trained


def test_networks_of_several_modalities() -> None:
    channels = {"video": 3, "flow": 2, "audio": 1}
    found = create_backbone("clips-r3d-18", channels)
    assert isinstance(found, MultimodalEncoders)
    assert found.dims == dict.fromkeys(channels, 512)
    assert isinstance(found.encoders["audio"], SpectrogramEncoder)
    tiny = small(channels).eval()
    inputs = {
        "video": torch.randn(2, 3, 4, 16, 16),
        "flow": torch.randn(2, 2, 4, 16, 16),
        "audio": torch.randn(2, 1, 20, 30),
    }
    assert {k: tuple(v.shape) for k, v in tiny(inputs).items()} == dict.fromkeys(channels, (2, 64))


def test_a_frozen_method_trains_the_rest() -> None:
    method = MultimodalCE(small({"video": 3, "audio": 1}), 4, MultimodalRecipe(frozen=True))
    before = {name: value.clone() for name, value in method.named_parameters()}
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    images = {"video": torch.randn(4, 1, 3, 4, 16, 16), "audio": torch.randn(4, 1, 1, 20, 30)}
    method.loss(images, torch.arange(4))["loss"].backward()  # type: ignore[arg-type, no-untyped-call]
    optimizer.step()
    for name, value in method.named_parameters():
        assert torch.equal(value, before[name]) == (".early." in name), name


def test_encoders_that_cannot_be_frozen() -> None:
    plain = MultimodalEncoders({"video": nn.Flatten()}, {"video": 3})
    with pytest.raises(OptionError, match="encoder of video"):
        MultimodalCE(plain, 2, MultimodalRecipe(frozen=True))
    with pytest.raises(OptionError, match="no video network"):
        ClipEncoder("r4d")
    with pytest.raises(OptionError, match="no backbone of several modalities"):
        create_backbone("resnet18", {"video": 3})


def test_the_frozen_part_of_an_audio_encoder_keeps_its_statistics() -> None:
    encoder = SpectrogramEncoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.freeze()
    encoder.train()(torch.randn(2, 1, 64, 64))
    moved = {n for n, v in encoder.state_dict().items() if not torch.equal(v, before[n])}
    assert moved
    assert all(".layer4." in name for name in moved)
    assert not encoder.eval().network.layer4.training
    free = SpectrogramEncoder()
    free.train()(torch.randn(2, 1, 64, 64))
    assert not torch.equal(free.state_dict()["network.bn1.running_mean"], torch.zeros(64))
