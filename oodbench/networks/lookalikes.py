"""Which backbone a state dict looks like, by its names and shapes."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from oodbench.errors import OptionError
from oodbench.registry import BACKBONES, backbone_kind

SECONDS = 6.0
"""How long is searched at most."""

_BASIC = "resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 resnext50_32x4d"
_VIT = "vit_{}_patch16_224 vit_{}_patch14_dinov2 vit_{}_patch32_224 vit_{}_patch8_224"
FAMILIES: tuple[tuple[str, str], ...] = (
    (r"layer4\.\d+\.conv\d\.weight", f"{_BASIC} resnet26 resnet14t resnet50d resnext101_32x8d"),
    (
        r"blocks\.\d+\.attn\.qkv\.weight",
        " ".join(_VIT.replace("{}", size) for size in ("tiny", "small", "base", "large"))
        + " deit_tiny_distilled_patch16_224 deit_base_distilled_patch16_224",
    ),
    (
        r"stages\.\d+\.blocks\.\d+\.conv_dw",
        "convnext_atto convnext_femto convnext_pico convnext_nano convnext_tiny convnext_small "
        "convnext_base convnext_large convnextv2_tiny convnextv2_base",
    ),
    (
        r"conv_stem\.weight",
        "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 "
        "mobilenetv2_100 mobilenetv3_small_100 mobilenetv3_large_100 mnasnet_100",
    ),
    (r"features\.denseblock1\.", "densenet121 densenet169 densenet201 densenet161"),
    (
        r"attn\.relative_position_bias_table",
        "swin_tiny_patch4_window7_224 swin_small_patch4_window7_224 swin_base_patch4_window7_224",
    ),
    (r"features\.0\.weight", "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn"),
    (
        r"(^|\.)stem\.(conv\.weight|bn)",
        "regnety_002 regnety_004 regnety_008 regnety_016 regnetx_002",
    ),
    (r"Mixed_5b\.", "inception_v3 inception_v4"),
)
"""timm's networks that checkpoints are of most often, by a name that their weights have."""

STRANGERS = (
    (r"block1\.layer\.0\.conv1", "a WideResNet as the OOD literature trains it"),
    (
        r"(^|\.)(vit|deit|beit|swin|convnext|resnet|dinov2)\.(embed|encoder|layernorm)",
        "Hugging Face's",
    ),
    (r"(^|\.)encoder\.layers\.encoder_layer_\d+", "torchvision's vision transformer"),
    (r"conv2_x\.|conv5_x\.", "a ResNet of weiaicunzai's CIFAR-100 code"),
    (r"visual\.(transformer|trunk)|text_model", "one of CLIP"),
)
"""Networks that no backbone is, by a name that their weights have."""


def looks_like(state: Mapping[str, Tensor], asked: str) -> str:
    """A sentence on which backbone a checkpoint is of; ``""`` if none is known that is like it.

    Args:
        state: its names and values, whatever their prefix.
        asked: the backbone that it does not fit, which is not named again.
    """
    if not state:
        return ""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    best, likeness = "", 0.0
    for name, known in _candidates(shapes):
        like = _likeness(shapes, known)
        if like > likeness + 1e-9:
            best, likeness = name, like
    if best and best != asked and likeness >= 0.9:
        return f"It looks like {best}."
    stranger = next((w for mark, w in STRANGERS if any(re.search(mark, k) for k in shapes)), "")
    if stranger:
        return f"Its names are those of {stranger}, which no backbone has: give the network itself."
    if best and best != asked and likeness >= 0.5:
        return f"It is most like {best} ({100 * likeness:.0f} % of its weights)."
    return ""


def _candidates(
    shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Backbones by name, with the names and shapes of their weights, until time is up."""
    end = time.monotonic() + SECONDS
    names = list(BACKBONES.names())
    names += [
        name
        for mark, family in FAMILIES
        if any(re.search(mark, key) for key in shapes)
        for name in family.split()
    ]
    for name in names:
        if time.monotonic() > end:
            return
        try:
            factory = BACKBONES.get(name) if name in BACKBONES else None
            known = _shapes(name, factory)
        except Exception:  # noqa: S112  # not of images, or not in this version of timm
            continue
        yield name, known


@functools.lru_cache(maxsize=256)
def _shapes(name: str, factory: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a backbone's weights; of timm's network if there is no factory."""
    with torch.device("meta"), _Unfilled():
        network = _made(name, factory)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


class _Unfilled(TorchFunctionMode):
    """Initial values are not made: on the meta device there are none, and asking takes longest."""

    FILLING = frozenset(
        {"uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"}
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        initial = getattr(func, "__module__", None) == "torch.nn.init"
        if initial or getattr(func, "__name__", None) in self.FILLING:
            tensor = args[0] if args else given.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **given)


def _made(name: str, factory: Any) -> torch.nn.Module:
    if factory is not None:
        kind = backbone_kind(factory)
        if kind.takes not in (None, "images") or kind.gives not in (None, "features"):
            raise OptionError(f"{name} is no backbone of a classifier of images.")
        network: torch.nn.Module = factory(channels=3)
        return network
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0)


def _likeness(shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, tuple[int, ...]]) -> float:
    """Share of the weights, of the larger of the two, that are the same in both."""
    known = {key: shape for key, shape in known.items() if shape}
    held = [key for key, shape in shapes.items() if shape]
    probe = next((k for k in known if k.endswith("weight")), next(iter(known), None))
    if probe is None:
        return 0.0
    prefixes = [k.removesuffix(probe) for k in held if k == probe or k.endswith(f".{probe}")]
    most = 0.0
    for prefix in prefixes[:4]:
        same = sum(shapes.get(prefix + key) == shape for key, shape in known.items())
        inside = sum(key.startswith(prefix) for key in held) - 2  # a head
        most = max(most, same / max(len(known), inside, 1))
    return most
