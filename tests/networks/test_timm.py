"""Every family of timm: trained, from a checkpoint as timm saves it, and given as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from timm.models._registry import _module_to_models
from torch import Tensor, nn

import oodbench
from oodbench.data.transforms import Preprocess
from oodbench.detectors.ce import CrossEntropy
from oodbench.extract import as_network
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import load_classifier
from oodbench.networks.memory_format import prefer_channels_last
from oodbench.networks.pretrained import feature_width
from tests.conftest import write_images

CLASSES = 4

FAMILIES = tuple(
    """
    beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny
    convmixer_768_32 test_convnext cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s
    cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small
    efficientformer_l1 efficientformerv2_s0 test_efficientnet efficientvim_m1 efficientvit_b0
    efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf
    gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224
    sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto ens_adv_inception_resnet_v2
    adv_inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0 test_mambaout
    test_coatnet poolformerv2_s12 gmlp_ti16_224 lcnet_035 mobilenetv5_base mobilevit_xxs
    mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge jx_nest_tiny nextvit_small
    test_nfnet pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002
    repghostnet_050 repvit_m1 res2next50 resnest14d test_resnet resnetv2_18 rexnet_100
    selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
    swin_tiny_patch4_window7_224 swinv2_tiny_window16_256 swinv2_cr_tiny_224 tiny_vit_5m_224
    tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny test_vit
    vit_tiny_r_s16_p8_224 test_vit_relpos samvit_base_patch16_224 vitamin_small_224 volo_d1_224
    ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p8_224
    """.split()
)
"""The smallest network of each of timm's modules."""

TOO_LARGE = {"deepseek_vit": "its smallest network has 412 M parameters at 546 pixels"}
"""Modules that are left out, and why."""

QUICK = (
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "ghostnet_050",
    "swin_tiny_patch4_window7_224",
    "test_convnext",
    "test_vit",
    "test_efficientnet",
    "deit_tiny_distilled_patch16_224",
    "levit_128s",
    "test_coatnet",
    "repvit_m0_9",
    "shvit_s1",
    "dla46x_c",
)


def made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with a head, images that it takes, as small as may be, and its logits."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=CLASSES).eval()
    own = network.pretrained_cfg["input_size"][-1]
    for size in [own] if network.pretrained_cfg.get("fixed_input_size") else [64, 128, own]:
        images = torch.randn(2, 3, size, size)
        try:
            with torch.no_grad():
                return network, images, network(images)
        except (AssertionError, RuntimeError):
            if size == own:
                raise
    raise AssertionError(name)


def tried(name: str, tmp_path: Path) -> None:
    """Asserts that a network works in all three ways."""
    network, images, wanted = made(name)
    near = {"rtol": 1e-3, "atol": 1e-4}

    torch.save(network.state_dict(), tmp_path / "weights.pt")
    loaded, _ = load_classifier(name, tmp_path / "weights.pt", CLASSES)
    with torch.no_grad():
        torch.testing.assert_close(loaded.outputs(images)["logits"], wanted, **near)
    del loaded

    given = as_network(network)
    with torch.no_grad():
        said = given.outputs(images)
        torch.testing.assert_close(said["logits"], wanted, **near)
        if prefer_channels_last(given):
            last = given.outputs(images.contiguous(memory_format=torch.channels_last))
            torch.testing.assert_close(last["logits"], wanted, rtol=1e-3, atol=1e-3)
    if (head := given.head()) is not None:
        torch.testing.assert_close(head(said["features"]), wanted, rtol=1e-2, atol=1e-3)
    del given, network

    backbone = create_backbone(name).eval()
    with torch.no_grad():
        assert backbone(images).shape == (2, backbone.num_features)
    assert feature_width(backbone) == backbone.num_features
    method = CrossEntropy(backbone, CLASSES, CrossEntropy.recipes["quick"]).train()
    loss = method.loss(images[:, None], torch.tensor([0, 1]))["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


@pytest.mark.parametrize("name", QUICK)
def test_some_families(name: str, tmp_path: Path) -> None:
    tried(name, tmp_path)


@pytest.mark.parametrize("name", ["shvit_s1", "repvit_m0_9", "ghostnet_050"])
def test_an_evaluation_of_a_checkpoint(name: str, tmp_path: Path) -> None:
    network = timm.create_model(name, num_classes=2)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    for split in ("train", "test"):
        write_images(tmp_path / "id" / split, {"a": 3, "b": 3}, size=64, seed=len(split))
    write_images(tmp_path / "ood", {"c": 3}, size=64, seed=9)
    results = oodbench.evaluate(
        id=f"folder:{tmp_path / 'id'}",
        ood=[f"folder:{tmp_path / 'ood'}"],
        detectors=["msp", "energy"],
        backbone=name,
        checkpoint=tmp_path / "weights.pt",
        preprocess=Preprocess(64, (0.5,) * 3, (0.25,) * 3),
        hardware=oodbench.Hardware(accelerator="cpu", devices="1", workers=0),
    )
    assert not results.failures
    assert {row["n_id"] for row in results} == {6}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tmp_path: Path) -> None:
    tried(name, tmp_path)


@pytest.mark.slow
def test_no_family_is_left_out() -> None:
    family = {name: module for module, names in _module_to_models.items() for name in names}
    tried_ones = {family[name] for name in FAMILIES}
    assert tried_ones | set(TOO_LARGE) >= set(_module_to_models)
