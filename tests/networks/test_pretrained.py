"""Pre-trained encoders: against timm's networks, transforms and converters, and real weights."""

from __future__ import annotations

import importlib.util
import re
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
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import Tensor

from oodbench.caching.fingerprint import cache_key, weights_digest
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess, content_key
from oodbench.errors import CheckpointError, OODBenchError, OptionError, UnknownNameError
from oodbench.networks.backbones import create_backbone
from oodbench.networks.checkpoints import read_checkpoint
from oodbench.networks.headed import load_classifier
from oodbench.networks.pretrained import (
    PACKAGED,
    PretrainedEncoder,
    _preprocess_of,
    create_pretrained,
)
from tests.conftest import SHARED
from tests.helpers.attempts import Server

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
            image = encoder.own_preprocess(Image.open(archive.open(name)))
            logits = encoder(image[None]) @ state["_fc.weight"].T + state["_fc.bias"]
            right.append(name.split("/")[-2].startswith(ids[int(logits.argmax())]))
    assert len(right) == 60
    assert sum(right) >= 42


def test_a_package_that_is_missing_or_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OODBenchError, match=rf"{PACKAGED[LITE].package}.*'oodbench\[pretrained\]'"):
        create_pretrained(LITE)
    spec = ModuleSpec("changed", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    path = tmp_path / PACKAGED[LITE].file
    for _ in ("no file", "another file"):
        with pytest.raises(CheckpointError, match=f"{path} is not the file that"):
            create_pretrained(LITE)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"another")


# Preprocessing


# cropped after a bicubic and a bilinear filter; squashed to the size, and to 10/9 of it
PREPROCESSED = """resnet10t.c3_in1k vit_tiny_patch16_224.augreg_in21k_ft_in1k resnet18.tv_in1k
vit_so400m_patch14_siglip_378.webli_ft_in1k dm_nfnet_f0.dm_in1k tf_efficientnet_lite0.in1k"""


@pytest.mark.parametrize("name", PREPROCESSED.split())
@pytest.mark.parametrize("size", [None, 96])
def test_preprocessing_is_timms(name: str, size: int | None) -> None:
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    found = _preprocess_of(name, config, size)
    if size is not None:
        config["input_size"] = (3, size, size)
    theirs = timm.data.create_transform(**config, is_training=False)
    for image in (PHOTOGRAPH, PHOTOGRAPH.transpose(Image.Transpose.ROTATE_90)):
        torch.testing.assert_close(found(image), theirs(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"input_size": (3, 224, 192)}, {"crop_mode": "border"}, {"crop_pct": 1.15}]
)  # the last is volo_d4_448's: a crop of more than there is
def test_preprocessing_that_cannot_be_had_names_the_backbone(change: dict[str, Any]) -> None:
    config = timm.data.resolve_data_config({"crop_pct": 0.9}) | change
    with pytest.raises(OptionError, match=r"fancy.*Choose another backbone"):
        _preprocess_of("fancy", config, None)


def test_keys_from_before_there_was_another_filter_are_kept() -> None:
    later = ("flip", "interpolation", "native")
    old = {key: v for key, v in asdict(PLAIN).items() if key not in later}
    assert content_key(PLAIN) == old
    bicubic = replace(PLAIN, interpolation="bicubic")
    assert content_key(bicubic) == old | {"interpolation": "bicubic"}
    assert content_key(replace(PLAIN, pre_size=40)) == old | {"pre_size": 40}


def test_values_that_make_no_sense() -> None:
    with pytest.raises(OptionError, match=r"of 32 pixels cannot be cropped .* pre_size=31"):
        replace(PLAIN, pre_size=31)
    with pytest.raises(OptionError, match="'bilinear' or 'bicubic', not 'nearest'"):
        replace(PLAIN, interpolation="nearest")  # type: ignore[arg-type]


# Features


@pytest.mark.parametrize(
    "told",
    [
        "resnet10t [B,C,H,W] 64",
        "test_resnet [B,C,H,W] 64",  # the one that resizes with a bilinear filter
        "convnext_atto [B,C,H,W] 64",
        "tf_efficientnet_lite0 [B,C,H,W] 64",
        "repvit_m1 [B,C,H,W] 64",  # its classifier is more than a linear layer
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
    config = timm.data.resolve_model_data_config(model)
    assert encoder.own_preprocess == _preprocess_of(name, config, None)
    images = torch.randn(1, 3, int(size), int(size))
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


# Checkpoints, names and sizes

# networks, entry of the file, prefixes of the encoder's names and its twin's, and other names
FAMILIES = """
MoCo v3; test_vit; state_dict; base_encoder. momentum_encoder.; base_encoder.head.0.bias predictor.b
MoCo v3; test_resnet; state_dict; base_encoder. momentum_encoder.; base_encoder.fc.0.bias
MoCo v2; test_resnet; state_dict; encoder_q. encoder_k.; encoder_q.fc.2.bias queue
DINO; test_vit test_resnet; ; backbone.; head.mlp.0.weight head.last_layer.weight_g
DINOv2; test_vit; ; ; mask_token
MAE; test_vit; model; ; mask_token decoder_pos_embed decoder_embed.bias decoder_blocks.0.norm1.bias
OpenCLIP; test_vit; ; visual.trunk.; logit_scale text.token_embedding.weight
CLIP; vit_xsmall_patch16_clip_224; ; visual.; logit_scale token_embedding.weight
"""
CLIP = """patch_embed.proj=conv1 pos_embed=positional_embedding cls_token=class_embedding
visual.norm.=visual.ln_post. norm_pre=ln_pre .norm=.ln_ blocks=transformer.resblocks
attn.qkv.=attn.in_proj_ attn.proj=attn.out_proj mlp.fc1=mlp.c_fc mlp.fc2=mlp.c_proj"""


def renamed(state: State, family: str) -> Any:
    _, _, entry, prefixes, more = family.split("; ")
    body = {key: value for key, value in state.items() if not key.startswith(("head.", "fc."))}
    twins = list(enumerate(prefixes.split(" ")))  # the second has other weights
    named = {prefix + key: v + twin for twin, prefix in twins for key, v in body.items()}
    if family.startswith("CLIP"):
        for ours, theirs in (names.split("=") for names in CLIP.split()):
            named = {key.replace(ours, theirs): v.squeeze() for key, v in named.items()}
        named["visual.proj"] = state["head.weight"].T
    named |= {key: torch.zeros(3) for key in more.split()}
    if entry == "state_dict":
        named = {f"module.{key}": value for key, value in named.items()}
    return {entry: named, "epoch": 300} if entry else named


@pytest.mark.parametrize("family", FAMILIES.strip().splitlines())
def test_names_of_other_code_mean_the_same_network(family: str, pair: Pair) -> None:
    for name in family.split("; ")[1].split():
        encoder, model = pair(name, lambda state: renamed(state, family))
        images = torch.randn(2, *model.pretrained_cfg["input_size"])
        assert torch.equal(encoder(images), model(images))


@pytest.mark.parametrize(
    "case",
    [
        f"{RESNET} <- {VIT} as module.net.: missing: conv1.*unexpected: net.cls_token",
        f"{VIT} <- {RESNET} as : missing: cls_token.*unexpected: conv1",
        f"{RESNET} <- {VIT} as : missing: conv1.*unexpected: cls_token",
        f"{RESNET} <- {VIT} as base_encoder.: read as one of MoCo v3; missing: conv1",
        "resnet18 <- resnet10t as : missing: .*unexpected: conv1.0.weight",
        r"convnext_atto <- convnext_femto as : of another shape: .*\d\] instead of \[",
    ],
)
def test_names_that_fit_no_table(case: str, weights: Path) -> None:
    name, other, prefix, told = re.split(" <- | as |: ", case, maxsplit=3)
    torch.save({prefix + key: v for key, v in made(other).state_dict().items()}, weights)
    with pytest.raises(CheckpointError, match=f"{weights} match no table for {name} .*{told}"):
        create_pretrained(name, checkpoint=weights)


def test_a_file_that_is_not_there_or_carries_code(weights: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no checkpoint file {weights}"):
        create_pretrained(VIT, checkpoint=weights)

    class Code:
        def __reduce__(self) -> Any:
            return Path.touch, (Path("ran"),)

    torch.save({"model": Code()}, weights)
    with pytest.raises(CheckpointError, match="would run code"):
        create_pretrained(VIT, checkpoint=weights)
    assert not Path("ran").exists()


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


def test_own_networks_need_a_checkpoint_and_take_its_statistics(weights: Path) -> None:
    with pytest.raises(OptionError, match=r"'resnet20' is not pre-trained.*`checkpoint=FILE`"):
        create_pretrained("resnet20", preprocess=PLAIN)
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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OODBenchError, match=rf"{name}.*`checkpoint=FILE`") as caught:
        create_pretrained(name)  # the last has no weights anywhere
    message = str(caught.value)
    assert "\n" not in message
    assert (LITE in message) == (name in LITE), "weights that need no hub are named"


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
    with pytest.raises(OptionError, match="convnext_atto cannot take images of 16 x 16"):
        encoder.outputs(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("name", "size"), [(VIT, 100), (TINY, 100), ("test_maxvit", 100), (VIT, 0)]
)  # no whole number of patches (timm passes over the last rows and columns in TINY) or windows
def test_a_size_that_a_network_cannot_have(name: str, size: int, pair: Pair) -> None:
    with pytest.raises(OptionError, match=name):
        pair(name, input_size=size)[0].outputs(torch.zeros(1, 3, size, size))


def test_an_own_network_takes_statistics_of_its_file_and_another_size(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    said = {"mean": "0.1,0.2,0.3", "std": "0.4,0.5,0.6"}
    save_file(create_backbone("resnet20", 3).state_dict(), path, metadata=said)
    encoder = create_pretrained("resnet20", checkpoint=path, preprocess=PLAIN, input_size=48)
    found = encoder.own_preprocess
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (found.size, found.pre_size) == (48, None)
    assert encoder(torch.zeros(2, 3, 48, 48)).shape == (2, 64)
    with pytest.raises(OptionError, match="resnet20 brings no preprocessing of its own"):
        create_pretrained("resnet20", checkpoint=path)


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (
            AssertionError("a window of 7\nx"),
            OptionError,
            r"images of 100 pixels \(a window of 7\)",
        ),
        (TypeError("no argument depth"), OODBenchError, r"not make .* \(no argument depth\)"),
        (RuntimeError("too large"), OODBenchError, r"timm could not make .* \(too large\)"),
    ],
)
def test_a_network_that_timm_cannot_make(
    error: Exception, kind: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(kind, match=told):
        create_pretrained("convnext_atto", checkpoint="x", input_size=100)


def test_weights_of_the_hub_are_those_that_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's are there when they are asked for; what is made before has none."""
    make, asked = timm.create_model, []

    def create(name: str, pretrained: bool, **options: Any) -> Any:
        asked.append(pretrained)
        model = make(name, **options)
        torch.nn.init.constant_(model.conv1[0].weight, float(pretrained))
        return model

    monkeypatch.setattr(timm, "create_model", create)
    encoder: Any = create_pretrained("test_resnet")
    assert asked == [False, True]
    assert (encoder.model.conv1[0].weight == 1).all()


def test_a_networks_own_error_is_no_matter_of_sizes(pair: Pair) -> None:
    encoder, _ = pair("convnext_atto")
    with pytest.raises(RuntimeError, match=r"dtype|type"):
        encoder.outputs(torch.zeros(1, 3, 64, 64, dtype=torch.float64))


# What caches know it by


def keys(encoder: PretrainedEncoder) -> list[str | None]:
    samples = ImageArrays("t", np.zeros((2, 8, 8, 3), np.uint8), [0, 1], ("a", "b"))
    key = cache_key(encoder, samples, encoder.own_preprocess, "32-true")
    return [weights_digest(encoder), key]


def keys_of(checkpoint: Path, **options: Any) -> list[str | None]:
    return keys(create_pretrained(VIT, checkpoint=checkpoint, **options))


def test_keys_are_those_of_another_process(
    server: Server, weights: Path, pair: Pair, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        f"import {__name__} as here\nprint(here.keys_of(Path(sys.argv[1])))"
    )
    expected = str(keys(pair(VIT)[0]))  # writes the weights
    assert server.prints(script, weights).strip() == expected


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
        found.append(keys_of(weights, **options))
    assert len({key for _, key in found}) == 4
    assert found[0][0] == found[3][0] != found[1][0]
