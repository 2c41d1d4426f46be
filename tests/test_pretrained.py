"""Pre-trained encoders: against timm's networks, transforms and converters, and real weights."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchvision import transforms as tv

from oodbench.backbones import load_classifier, read_checkpoint
from oodbench.errors import CheckpointError, OODBenchError, OptionError, UnknownNameError
from oodbench.fingerprint import cache_key, weights_digest
from oodbench.pretrained import PACKAGED, PretrainedEncoder, _preprocess_of, create_pretrained
from oodbench.samples import ImageArrays
from oodbench.transforms import Preprocess, content_key

from .conftest import SHARED

LITE = "tf_efficientnet_lite0.pypi"
TINY, VIT, RESNET = "vit_tiny_patch16_224", "test_vit", "test_resnet"  # the last two see 160 px
PLAIN = Preprocess(32, (0.0,) * 3, (1.0,) * 3)
PHOTOGRAPH = Image.fromarray(load_sample_images().images[0])  # 640 x 427
State = dict[str, Tensor]
Pair = Callable[..., tuple[PretrainedEncoder, Any]]


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def made(name: str, seed: int = 0, **options: Any) -> Any:
    """A timm network of random weights, in which no layer does nothing."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **options).eval()
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not key.endswith("running_var"):
            value.add_(0.02 * torch.randn_like(value))
    return model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


@pytest.fixture
def pair(weights: Path) -> Pair:
    """An encoder from a file that has a classifier too, and timm's network of the same weights."""

    def make(name: str, rename: Callable[[State], Any] = dict, **options: Any) -> Any:
        model = made(name, num_classes=7)
        torch.save(rename(model.state_dict()), weights)
        model.reset_classifier(0)
        return create_pretrained(name, checkpoint=weights, **options), model

    return make


# The weights of a package


def test_all_tensors_of_a_package_arrive_in_order() -> None:
    found = create_pretrained(LITE).model.state_dict()
    published, _ = read_checkpoint(PACKAGED[LITE].path(LITE))
    expected = [value for key, value in published.items() if not key.startswith("_fc.")]
    assert len(found) == len(expected) == len(published) - 2
    assert all(map(torch.equal, found.values(), expected))


def test_a_package_classifies_photographs() -> None:
    if not (SHARED / "data" / "imagenet500.zip").is_file():
        pytest.skip("the folder with real data is not at hand")
    ids = timm.data.ImageNetInfo("imagenet-1k").label_names()
    encoder, (state, _) = create_pretrained(LITE), read_checkpoint(PACKAGED[LITE].path(LITE))
    right = []
    with zipfile.ZipFile(SHARED / "data" / "imagenet500.zip") as archive:
        for name in sorted(archive.namelist())[::8][:60]:
            image = encoder.own_preprocess(Image.open(io.BytesIO(archive.read(name))))
            logits = encoder(image[None]) @ state["_fc.weight"].T + state["_fc.bias"]
            right.append(name.split("/")[-2].startswith(ids[int(logits.argmax())]))
    assert len(right) == 60
    assert sum(right) >= 42


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OODBenchError, match=r"pip install 'oodbench\[pretrained\]'") as caught:
        create_pretrained(LITE)
    assert PACKAGED[LITE].package in str(caught.value)


def test_a_package_that_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModuleSpec("changed", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    path = tmp_path / PACKAGED[LITE].file
    for _ in ("no file", "another file"):
        with pytest.raises(CheckpointError, match=re.escape(f"{path} is not the file that")):
            create_pretrained(LITE)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"another")


# Preprocessing


@pytest.mark.parametrize("size", [None, 96])
@pytest.mark.parametrize(
    "told",
    [
        "center bicubic resnet10t.c3_in1k",
        "center bilinear resnet18.tv_in1k",
        "center bicubic tf_efficientnet_lite0.in1k",
        "center bicubic vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "squash bicubic vit_so400m_patch14_siglip_378.webli_ft_in1k",
        "squash bicubic dm_nfnet_f0.dm_in1k",  # and the central 90 %
    ],
)
def test_preprocessing_is_timms(told: str, size: int | None) -> None:
    name = told.split()[2]
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert told.startswith(f"{config['crop_mode']} {config['interpolation']} ")
    found = _preprocess_of(name, config, size)
    if size is not None:
        config["input_size"] = (3, size, size)
    theirs = timm.data.create_transform(**config, is_training=False)
    for image in (PHOTOGRAPH, PHOTOGRAPH.transpose(Image.Transpose.ROTATE_90)):
        torch.testing.assert_close(found(image), theirs(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet10t", RESNET, TINY])
def test_an_encoder_brings_its_preprocessing(name: str, pair: Pair) -> None:
    encoder, model = pair(name)
    config = timm.data.resolve_model_data_config(model)
    theirs = timm.data.create_transform(**config, is_training=False)(PHOTOGRAPH)
    torch.testing.assert_close(encoder.own_preprocess(PHOTOGRAPH), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"input_size": (3, 224, 192)}, {"crop_mode": "border"}, {"crop_pct": 1.15}]
)  # the last is volo_d4_448's: a crop of more than there is
def test_preprocessing_that_cannot_be_had_names_the_backbone(change: dict[str, Any]) -> None:
    config = timm.data.resolve_data_config({"crop_pct": 0.9}) | change
    with pytest.raises(OptionError, match=r"fancy.*Choose another backbone"):
        _preprocess_of("fancy", config, None)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("pre_size", [32, 41])
def test_stretch_is_resize_and_central_crop(interpolation: Any, pre_size: int) -> None:
    resize = tv.Resize((pre_size, pre_size), tv.InterpolationMode(interpolation))
    theirs = tv.CenterCrop(32)(resize(PHOTOGRAPH))
    ours = replace(PLAIN, pre_size=pre_size, interpolation=interpolation).fit_image(PHOTOGRAPH)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_keys_from_before_there_was_another_filter_are_kept() -> None:
    old = {key: v for key, v in asdict(PLAIN).items() if key not in ("flip", "interpolation")}
    assert content_key(PLAIN) == old
    bicubic = replace(PLAIN, interpolation="bicubic")
    assert content_key(bicubic) == old | {"interpolation": "bicubic"}
    assert content_key(replace(PLAIN, pre_size=40)) == old | {"pre_size": 40}


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_values_that_make_no_sense(resize: Any) -> None:
    with pytest.raises(OptionError, match=r"of 32 pixels cannot be cropped .* pre_size=31"):
        replace(PLAIN, resize=resize, pre_size=31)
    with pytest.raises(OptionError, match="'bilinear' or 'bicubic', not 'nearest'"):
        replace(PLAIN, resize=resize, interpolation="nearest")  # type: ignore[arg-type]


# Features


@pytest.mark.parametrize(
    "told",
    [
        "resnet10t [B,C,H,W] 64",
        "convnext_atto [B,C,H,W] 64",
        "tf_efficientnet_lite0 [B,C,H,W] 64",
        "swin_tiny_patch4_window7_224 [B,H,W,C] 224",
        "vit_tiny_patch16_224 tokens 224",
        "test_vit2 tokens 160",  # a register, no class token
        "test_vit3 tokens 160",  # pooled by attention
        "deit_tiny_distilled_patch16_224 tokens 224",  # two tokens that are no patch
    ],
)
def test_features_are_timms(told: str, pair: Pair) -> None:
    name, layout, size = told.split()
    encoder, model = pair(name)
    images = torch.randn(2, 3, int(size), int(size))
    prefix = model.num_prefix_tokens if layout == "tokens" else 0
    positions = {"[B,C,H,W]": (2, 3), "[B,H,W,C]": (1, 2), "tokens": (1,)}[layout]
    seen: State = {}
    for layer in encoder.stages:
        model.get_submodule(layer).register_forward_hook(
            lambda _, __, out, key=f"features/{layer}": seen.update({key: out})
        )
    expected = {"features": model(images)}
    expected |= {key: out[:, prefix:].mean(positions) for key, out in seen.items()}
    if prefix:
        tokens = model.forward_features(images)  # [B, prefix + patches, D]
        expected["features/patches"] = tokens[:, prefix:].mean(dim=1)
        if model.cls_token is not None:
            expected["features/cls"] = tokens[:, 0]
    found = encoder.outputs(images)
    assert len(seen) == 3
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-5, atol=1e-5), key
    assert torch.equal(encoder(images), found["features"])
    assert encoder.num_features == found["features"].shape[1]


def test_registers_are_neither_class_nor_patch() -> None:
    model = VisionTransformer(32, 8, embed_dim=24, depth=4, num_heads=2, reg_tokens=3)
    model.reset_classifier(0)
    images = torch.randn(2, 3, 32, 32)
    found = PretrainedEncoder("tiny", model.eval(), PLAIN).outputs(images)
    tokens = model.forward_features(images)  # [B, 1 + 3 + 16, D]
    assert torch.equal(found["features/cls"], tokens[:, 0])
    assert torch.equal(found["features/patches"], tokens[:, 4:].mean(dim=1))


@pytest.mark.parametrize("name", ["efficientvim_m1", "crossvit_tiny_240", "hiera_tiny_224"])
def test_unusual_networks_give_timms_features_too(name: str) -> None:
    # which give a list, have two branches, and stop at the last inner layer unless told otherwise
    model = made(name, num_classes=0)
    images = torch.randn(1, *model.pretrained_cfg["input_size"])
    found = PretrainedEncoder(name, model, replace(PLAIN, size=images.shape[-1])).outputs(images)
    assert torch.allclose(found["features"], model(images), rtol=1e-5, atol=1e-5)


def test_as_many_layers_as_asked_for_and_never_the_last(pair: Pair) -> None:
    for layers, given in ((0, 0), (1, 1), (3, 3), (99, 5)):  # of six blocks
        found = pair(VIT, layers=layers)[0].outputs(torch.zeros(1, 3, 160, 160))
        assert sum("blocks." in key for key in found) == len(found) - 3 == given
        assert "features/blocks.5" not in found
    with pytest.raises(OptionError, match="layers must not be negative, but is -1"):
        pair(VIT, layers=-1)


# Checkpoints

# entry of the file, prefix of the encoder's names, and some others that are in it
FAMILIES = """
MoCo v3; state_dict; module.base_encoder.; module.base_encoder.fc.0.weight module.predictor.1.bias
MoCo v3; state_dict; module.base_encoder.; module.base_encoder.head.0.bias module.momentum_encoder.b
MoCo v2; state_dict; module.encoder_q.; module.encoder_q.fc.2.bias module.encoder_k.b module.queue
DINO; ; backbone.; head.mlp.0.weight head.last_layer.weight_g
DINOv2; ; ; mask_token
MAE; model; ; mask_token decoder_pos_embed decoder_embed.bias decoder_blocks.0.norm1.weight
OpenCLIP; ; visual.trunk.; logit_scale text.token_embedding.weight
CLIP; ; visual.; logit_scale token_embedding.weight
"""
CLIP = """patch_embed.proj=conv1 pos_embed=positional_embedding cls_token=class_embedding
visual.norm.=visual.ln_post. norm_pre=ln_pre .norm=.ln_ blocks=transformer.resblocks
attn.qkv.=attn.in_proj_ attn.proj=attn.out_proj mlp.fc1=mlp.c_fc mlp.fc2=mlp.c_proj"""


def renamed(state: State, family: str) -> Any:
    _, entry, prefix, more = family.split("; ")
    body = {key: value for key, value in state.items() if not key.startswith(("head.", "fc."))}
    named = {prefix + key: value for key, value in body.items()}
    if family.startswith("CLIP"):
        for ours, theirs in (names.split("=") for names in CLIP.split()):
            named = {key.replace(ours, theirs): value for key, value in named.items()}
        for key in ("visual.class_embedding", "visual.positional_embedding"):
            named[key] = named[key].squeeze()
        named["visual.proj"] = state["head.weight"].T
    named |= {key: torch.zeros(3) for key in more.split()}
    return {entry: named, "epoch": 300} if entry else named


@pytest.mark.parametrize("family", FAMILIES.strip().splitlines())
def test_names_of_other_code_mean_the_same_network(family: str, pair: Pair) -> None:
    names = {"CLIP": ["vit_xsmall_patch16_clip_224"], "MoCo v2": [RESNET]}
    names |= {"MoCo v3": [VIT, RESNET], "DINO": [VIT, RESNET]}
    for name in names.get(family.split(";")[0], [VIT]):
        encoder, model = pair(name, lambda state: renamed(state, family))
        images = torch.randn(2, *model.pretrained_cfg["input_size"])
        assert torch.equal(encoder(images), model(images))


def test_classifiers_of_more_than_a_linear_layer_are_left_out(pair: Pair) -> None:
    encoder, model = pair("efficientvit_m0")
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(encoder(images), model(images))


def refused(name: str, checkpoint: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        create_pretrained(name, checkpoint=checkpoint)
    return str(caught.value)


@pytest.mark.parametrize(
    "case",
    [
        f"{VIT} <- {VIT} as module.net.: missing: cls_token.*unexpected: net.cls_token",
        f"{VIT} <- {RESNET} as : missing: cls_token.*unexpected: conv1",
        f"{RESNET} <- {VIT} as : missing: conv1.*unexpected: cls_token",
        f"{RESNET} <- {VIT} as base_encoder.: read as one of MoCo v3; missing: conv1",
        "resnet18 <- resnet10t as : missing: .*unexpected: conv1.0.weight",
        r"resnet34 <- resnet50 as : of another shape: .*\d\] instead of \[",
    ],
)
def test_names_that_fit_no_table(case: str, weights: Path) -> None:
    name, other, prefix, told = re.split(" <- | as |: ", case, maxsplit=3)
    torch.save({prefix + key: v for key, v in made(other).state_dict().items()}, weights)
    message = refused(name, weights)
    assert f"the names in {weights} match no table for {name}" in message
    assert re.search(told, message), message


class _Code:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_code_in_a_checkpoint_is_not_run(weights: Path) -> None:
    torch.save({"model": _Code()}, weights)
    assert "would run code" in refused(VIT, weights)
    assert not Path("ran").exists()


def test_no_such_file(weights: Path) -> None:
    assert f"no checkpoint file {weights}" in refused(VIT, weights)


# Names


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet1O", "no backbone named 'resnet1O'. Did you mean .*'resnet1"),
        (f"{TINY}.dinoo", f"Those that there are: .*{TINY}.augreg_in21k"),
        ("tf_efficientnet_lite0.pipy", "Did you mean 'tf_efficientnet_lite0.pypi'"),
    ],
)
def test_an_unknown_name(name: str, told: str) -> None:
    with pytest.raises(UnknownNameError, match=told):
        create_pretrained(name)


def test_own_networks_need_a_checkpoint() -> None:
    with pytest.raises(OptionError, match=r"'resnet20' is not pre-trained.*--checkpoint FILE"):
        create_pretrained("resnet20", preprocess=PLAIN)


def test_own_networks_take_statistics_from_their_checkpoint(weights: Path) -> None:
    path = SHARED / "models" / "cifar10_resnet20.safetensors"
    if not path.is_file():
        pytest.skip("the folder with the real network is not at hand")
    torch.save(read_checkpoint(path)[0], weights)  # without metadata
    classifier: Any = load_classifier("resnet20", path, 10)[0]
    images = torch.randn(2, 3, 32, 32)
    own = replace(PLAIN, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    for file, preprocess in ((path, own), (weights, PLAIN)):
        encoder = create_pretrained("resnet20", checkpoint=file, preprocess=PLAIN)
        assert encoder.own_preprocess == preprocess
        assert torch.equal(encoder(images), classifier.outputs(images)["features"])


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "dpn48b"])
def test_no_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OODBenchError, match=rf"{name}.*--checkpoint FILE") as caught:
        create_pretrained(name)  # the last has no weights anywhere
    message = str(caught.value)
    assert "\n" not in message
    assert (LITE in message) == (name in LITE), "weights that need no hub are named"


# Sizes


def test_input_size_makes_a_vision_transformer_of_another_size(pair: Pair) -> None:
    encoder, model = pair(TINY, input_size=128)
    model.set_input_size(128)  # timm's own resampling of the positions
    images = torch.randn(2, 3, 128, 128)
    assert torch.allclose(encoder(images), model(images), rtol=1e-5, atol=1e-5)
    assert encoder.own_preprocess.size == 128
    with pytest.raises(OptionError, match="128 x 128 pixels, not 32 x 32"):
        encoder.outputs(torch.zeros(1, 3, 32, 32))


def test_input_size_of_a_network_of_convolutions_is_that_of_its_images(pair: Pair) -> None:
    encoder, model = pair("convnext_atto", input_size=64)
    images = encoder.own_preprocess(PHOTOGRAPH)[None]
    assert images.shape == (1, 3, 64, 64)
    assert torch.equal(encoder(images), model(images))
    with pytest.raises(OptionError, match=r"convnext_atto cannot take images of 16 x 16 .* 64\."):
        encoder.outputs(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("name", "size"), [(VIT, 100), (TINY, 100), ("test_maxvit", 100), (VIT, 0)]
)  # no whole number of patches (timm passes over the last rows and columns in TINY) or windows
def test_a_size_that_a_network_cannot_have(name: str, size: int, pair: Pair) -> None:
    with pytest.raises(OptionError, match=name):
        pair(name, input_size=size)[0].outputs(torch.zeros(1, 3, size, size))


# What caches know it by


def keys(encoder: PretrainedEncoder) -> list[str | None]:
    samples = ImageArrays("t", np.zeros((2, 8, 8, 3), np.uint8), [0, 1], ("a", "b"))
    key = cache_key(encoder, samples, encoder.own_preprocess, "32-true")
    return [weights_digest(encoder), key]


def test_keys_are_those_of_another_process(weights: Path, pair: Pair) -> None:
    script = (
        "import sys; from tests.test_pretrained import VIT, create_pretrained, keys;"
        "print(*keys(create_pretrained(VIT, checkpoint=sys.argv[1])))"
    )
    expected = keys(pair(VIT)[0])
    env = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    other = subprocess.check_output(
        [sys.executable, "-c", script, str(weights)], text=True, env=env, timeout=120
    )
    assert other.split() == expected


@pytest.mark.parametrize("name", [VIT, RESNET, "convit_tiny", "efficientformerv2_s0"])
def test_use_leaves_the_keys_as_they_were(name: str, pair: Pair) -> None:
    encoder, model = pair(name)  # the last two make tables at the first image
    before = keys(encoder)
    encoder.outputs(torch.zeros(1, *model.pretrained_cfg["input_size"]))
    assert keys(encoder) == before


def test_another_checkpoint_or_setting_has_another_key(weights: Path) -> None:
    found = []
    for seed, options in ((0, {}), (1, {}), (0, {"input_size": 128}), (0, {"layers": 0})):
        torch.save(made(VIT, seed).state_dict(), weights)
        found.append(keys(create_pretrained(VIT, checkpoint=weights, **options)))
    assert len({key for _, key in found}) == 4
    assert found[0][0] == found[3][0] != found[1][0]
