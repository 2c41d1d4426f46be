"""Backbones of images: networks from images to penultimate features, by name.

The CIFAR ResNets 20 to 56 of He et al. 2016 (option-A shortcuts), the CIFAR ResNets 18 and 34 with
a 3x3 stem that the OOD literature trains, a small net for 8x8 digits, and any timm name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import (
    CheckpointError,
    OODBenchError,
    OptionError,
    PluginError,
    UnknownNameError,
    did_you_mean,
)
from oodbench.networks.checkpoints import read_checkpoint
from oodbench.networks.lookalikes import looks_like
from oodbench.networks.states import misfit, parts_of
from oodbench.registry import BACKBONES, backbone_kind, register_backbone


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016), which a subclass defines."""

    shortcut: Callable[[Tensor], Tensor]

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class _OptionABlock(_BasicBlock):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__(inside, out, stride)
        self.stride = stride
        self.pad = (out - inside) // 2

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and not self.pad:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))


class ConvNet(nn.Module):
    """A small network of convolutions, which start as He et al. 2015 have it."""

    def reset_parameters(self, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
        """Normal weights of variance 2 / fan-out, or 2 / fan-in, in all convolutions."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # that has no values
                nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")


class CIFARResNet(ConvNet):
    """ResNet for 32x32 images with parameter-free shortcuts (He et al. 2016, section 4.2).

    Shortcuts of option A: subsample by two and pad the new channels with zeros, half on each side.

    Args:
        depth: 6n + 2 layers.
        channels: input channels.
    """

    def __init__(self, depth: int, channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.num_features = 64
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.reset_parameters()

    @staticmethod
    def _stage(inside: int, out: int, blocks: int, stride: int) -> nn.Sequential:
        first = _OptionABlock(inside, out, stride)
        return nn.Sequential(first, *(_OptionABlock(out, out, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features: ``[B, C, 32, 32] -> [B, 64]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        maps: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return maps.mean(dim=(2, 3))


class _ProjectionBlock(_BasicBlock):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__(inside, out, stride)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )


class StemResNet(ConvNet):
    """ResNet-18 or 34 whose stem is one 3x3 convolution without pooling, for 32x32 images.

    Args:
        blocks: basic blocks of the four stages.
        channels: input channels.
    """

    def __init__(self, blocks: tuple[int, int, int, int], channels: int = 3) -> None:
        super().__init__()
        self.num_features = 512
        self.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for stage, (inside, out, count) in enumerate(
            zip(widths[:-1], widths[1:], blocks, strict=True), start=1
        ):
            first = _ProjectionBlock(inside, out, 1 if stage == 1 else 2)
            rest = (_ProjectionBlock(out, out, 1) for _ in range(count - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features: ``[B, C, H, W] -> [B, 512]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.mean(dim=(2, 3))


@register_backbone("resnet20", takes="images", gives="features", size=32)
def resnet20(channels: int = 3) -> CIFARResNet:
    """ResNet-20 for 32x32 images with option-A shortcuts (He et al. 2016): 64 features."""
    return CIFARResNet(20, channels)


@register_backbone("resnet32", takes="images", gives="features", size=32)
def resnet32(channels: int = 3) -> CIFARResNet:
    """ResNet-32 for 32x32 images with option-A shortcuts (He et al. 2016): 64 features."""
    return CIFARResNet(32, channels)


@register_backbone("resnet44", takes="images", gives="features", size=32)
def resnet44(channels: int = 3) -> CIFARResNet:
    """ResNet-44 for 32x32 images with option-A shortcuts (He et al. 2016): 64 features."""
    return CIFARResNet(44, channels)


@register_backbone("resnet56", takes="images", gives="features", size=32)
def resnet56(channels: int = 3) -> CIFARResNet:
    """ResNet-56 for 32x32 images with option-A shortcuts (He et al. 2016): 64 features."""
    return CIFARResNet(56, channels)


@register_backbone("resnet18-cifar", takes="images", gives="features", size=32)
def resnet18_cifar(channels: int = 3) -> StemResNet:
    """ResNet-18 with a 3x3 stem and no pooling after it, for 32x32 images: 512 features."""
    return StemResNet((2, 2, 2, 2), channels)


@register_backbone("resnet34-cifar", takes="images", gives="features", size=32)
def resnet34_cifar(channels: int = 3) -> StemResNet:
    """ResNet-34 with a 3x3 stem and no pooling after it, for 32x32 images: 512 features."""
    return StemResNet((3, 4, 6, 3), channels)


class DigitsCNN(ConvNet):
    """Three convolutions for 8x8 images, pooled to 256 features."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.num_features = 256
        layers: list[nn.Module] = []
        for inside, out, stride in ((channels, 32, 1), (32, 64, 2), (64, 256, 2)):
            layers += [
                nn.Conv2d(inside, out, 3, stride, 1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features: ``[B, C, 8, 8] -> [B, 256]``."""
        maps: Tensor = self.layers(x)
        return maps.mean(dim=(2, 3))


@register_backbone("digits-cnn", takes="images", gives="features", size=8)
def digits_cnn(channels: int = 1) -> DigitsCNN:
    """Three convolutions for 8x8 images of digits: 256 features."""
    return DigitsCNN(channels)


def is_registered(name: str) -> bool:
    """Whether a backbone's name, or what stands before its colon, is in the registry."""
    return name.partition(":")[0] in BACKBONES


def backbone_names(takes: str | None = None, gives: str | None = None) -> list[str]:
    """Names of registered backbones that are known to take, and to give, what is asked for.

    Args:
        takes: ``"images"`` or ``"modalities"``; None for all.
        gives: ``"features"``, or what else a method reads; None for all.
    """
    names = []
    for name in BACKBONES.names():
        with contextlib.suppress(PluginError):  # a damaged package hides no other's backbones
            kind = backbone_kind(BACKBONES.get(name))
            if takes in (None, kind.takes) and gives in (None, kind.gives):
                names.append(name)
    return names


def create_backbone(
    name: str,
    channels: int | Mapping[str, int] = 3,
    pretrained: bool = False,
    gives: str | None = None,
) -> nn.Module:
    """A backbone by name, ours or timm's (``timm.create_model(name, num_classes=0)``).

    Args:
        name: of the network; ``name:argument`` hands the argument to the registered factory.
        channels: of its input; by modality for one that takes several.
        pretrained: whether timm loads published weights.
        gives: what it has to give, such as ``"features"``; None for anything.

    Raises:
        UnknownNameError: the name is neither registered nor timm's.
        OptionError: a network of images for samples of several modalities, or the reverse; or one
            that gives something else.
    """
    check_backbone(name, channels, gives)
    if is_registered(name):
        head, colon, argument = name.partition(":")
        network: nn.Module = BACKBONES.get(head)(*[argument] * len(colon), channels=channels)
        return network
    import timm

    try:
        encoder = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels)
    except (OSError, RuntimeError) as error:
        raise OODBenchError(
            f"timm could not make {name!r} ({error}). "
            "If it tried to download weights, give a local file with `checkpoint`."
        ) from error
    encoder.num_features = feature_width(encoder)  # type: ignore[assignment]
    return encoder


def check_backbone(
    name: str, channels: int | Mapping[str, int] = 3, gives: str | None = None
) -> None:
    """Check, without making it, that there is a backbone of that name for such inputs.

    Args:
        name: see :func:`create_backbone`, as the others.
        channels: of its input; by modality for one that takes several.
        gives: what it has to give; None for anything.

    Raises:
        UnknownNameError: the name is neither registered nor timm's.
        OptionError: a network of images for samples of several modalities, or the reverse; or one
            that gives something else.
    """
    if is_registered(name):
        kind = backbone_kind(BACKBONES.get(name.partition(":")[0]))
        _check_kind(name, channels, gives, kind.takes, kind.gives)
        return
    import timm

    if not timm.is_model(name):
        guess = did_you_mean(name, timm.list_models(), preferred=BACKBONES.names())
        raise UnknownNameError(
            f"no backbone named {name!r}.{guess} See `oodbench list backbones`; or give any name "
            "of timm.list_models()."
        )
    _check_kind(name, channels, gives, "images", "features")


def _check_kind(
    name: str,
    channels: int | Mapping[str, int],
    gives: str | None,
    own_takes: str | None,
    own_gives: str | None,
) -> None:
    """Refuse a backbone that is known to take or to give something else than is asked for.

    Raises:
        OptionError: it does; names those that would do.
    """
    takes = "images" if isinstance(channels, int) else "modalities"
    if gives is not None and own_gives not in (None, gives):
        problem = f"the backbone {name!r} gives {own_gives}, but {gives} are needed here."
    elif own_takes in (None, takes):
        return
    elif isinstance(channels, int):
        problem = (
            f"{name!r} is a backbone of several modalities, but it is asked to take images of "
            f"{channels} channel(s)."
        )
    else:
        problem = f"{name!r} is no backbone of several modalities ({', '.join(channels)})."
    fitting = backbone_names(takes, gives or "features")
    others = f"Choose one of {_some(fitting)}" if fitting else "There is none so far"
    if takes == "images" and gives in (None, "features"):
        others += ", or any of timm's"
    if takes == "modalities":
        others += ", make one of oodbench.networks.modalities.MultimodalEncoders"
    raise OptionError(f"{problem} {others}, or register yours with oodbench.register_backbone.")


def _some(names: Sequence[str], most: int = 6) -> str:
    """Names for a message: the first ones, and where the others are listed."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} … (see `oodbench list backbones`)"


def feature_width(network: nn.Module) -> int:
    """How wide a network's pooled features are.

    timm's ``num_features`` is the width of the last feature maps; in MobileNetV3, GhostNet, VGG and
    others a layer between pooling and classifier has another, its ``head_hidden_size``.
    """
    width: Any = getattr(network, "head_hidden_size", None) or network.num_features
    return int(width)


def starting_backbone(
    name: str,
    channels: int | Mapping[str, int],
    checkpoint: str | Path | None = None,
    gives: str | None = None,
) -> nn.Module:
    """The network that training starts from: random weights, or those of a checkpoint.

    Args:
        name: of the backbone.
        channels: of its input; by modality for one that takes several.
        checkpoint: weights to start from; a classifier's head in it is left out.
        gives: what it has to give; see :func:`create_backbone`.

    Raises:
        CheckpointError: the checkpoint lacks weights of the backbone.
        OptionError: the backbone is one of other inputs, or gives something else.
    """
    backbone = create_backbone(name, channels, gives=gives)
    if checkpoint is not None:
        state, _ = read_checkpoint(checkpoint)
        parts = parts_of(state, backbone.state_dict())
        if not parts:
            reason = misfit(state, backbone.state_dict())
            raise CheckpointError(
                f"{checkpoint} does not fit {name}; {reason}. {looks_like(state, name)}".strip()
            )
        backbone.load_state_dict(parts[0].state, strict=False)
    return backbone
