"""Encoders of clips and spectrograms, and networks of several modalities made of them.

``clips-<name>`` puts a torchvision video network on each visual modality (RGB, optical flow) and a
ResNet-18 on spectrograms, with random weights; ``clips-<name>-kinetics`` begins with weights that
were trained on Kinetics-400 (and, for spectrograms, ImageNet), which are downloaded once;
``clips-small`` has a few convolutions for each. For other mixtures:

    MultimodalClassifier({"video": ClipEncoder("r3d_18", weights="DEFAULT"), ...}, num_classes=25)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torchvision.models import video as zoo

from oodbench.errors import OODBenchError, OptionError
from oodbench.networks.backbones import create_backbone
from oodbench.networks.modalities import MultimodalEncoders
from oodbench.registry import register_backbone

NETWORKS = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s")
"""torchvision's video networks that can be encoders."""


class ClipEncoder(nn.Module):
    """A torchvision video network without its last layer.

    Args:
        name: one of ``NETWORKS``.
        channels: of the clips: 3 for RGB, 2 for optical flow. Where they are not 3, published
            weights of the first layer are replaced by their mean over the channels.
        weights: torchvision's name of published weights (``"DEFAULT"``), which it downloads.

    Raises:
        OptionError: no such network.
        OODBenchError: the weights cannot be downloaded.
    """

    def __init__(self, name: str, channels: int = 3, weights: str | None = None) -> None:
        super().__init__()
        if name not in NETWORKS:
            raise OptionError(f"{name!r} is no video network. There are {', '.join(NETWORKS)}.")
        self.name = name
        try:
            network = getattr(zoo, name)(weights=weights)
        except OSError as error:  # urllib's are such
            raise OODBenchError(
                f"the published weights of {name} cannot be downloaded ({error}). Put "
                "torchvision's file into the torch hub cache (TORCH_HOME/hub/checkpoints), or take "
                f"clips-{name.replace('_', '-')}, which begins at random."
            ) from error
        if name == "s3d":
            self.num_features = int(network.classifier[1].in_channels)
            network.classifier = nn.Identity()
        elif name.startswith("mvit"):
            self.num_features = int(network.head[1].in_features)
            network.head = nn.Identity()
        else:
            self.num_features = int(network.fc.in_features)
            network.fc = nn.Identity()
        if channels != 3:
            _take_channels(network, channels)
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        """``[B, channels, T, H, W] -> [B, num_features]``."""
        features: Tensor = self.network(clips)
        return features

    def freeze(self) -> None:
        """Leave the last stage alone to be trained, as MultiOOD does."""
        if self.name == "s3d":
            last: nn.Module = self.network.features[-1]
        elif self.name.startswith("mvit"):
            last = nn.ModuleList([self.network.blocks[-1], self.network.norm])
        else:
            last = self.network.layer4
        _freeze_all_but(self.network, last)


class SpectrogramEncoder(nn.Module):
    """A ResNet-18 of timm on spectrograms.

    Args:
        channels: of the spectrograms.
        pretrained: whether it begins with ImageNet's weights, which timm downloads.

    Raises:
        OODBenchError: the weights cannot be downloaded.
    """

    def __init__(self, channels: int = 1, pretrained: bool = False) -> None:
        super().__init__()
        network: Any = create_backbone("resnet18", channels, pretrained)
        self.network = network
        self.num_features = int(network.num_features)
        self.frozen = False

    def forward(self, spectrograms: Tensor) -> Tensor:
        """``[B, channels, mels, frames] -> [B, 512]``."""
        features: Tensor = self.network(spectrograms)
        return features

    def freeze(self) -> None:
        """Leave the last stage alone to be trained; the rest keeps its batch statistics, too."""
        _freeze_all_but(self.network, cast(nn.Module, self.network.layer4))
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode, which a frozen part does not enter."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
            self.network.layer4.train(mode)
        return self


def _take_channels(network: nn.Module, channels: int) -> None:
    """Give the first convolution other input channels."""
    name, first = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv3d))
    other = nn.Conv3d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    with torch.no_grad():
        # the sum over the channels keeps its size
        mean = first.weight.mean(dim=1, keepdim=True) * (3 / channels)
        other.weight.copy_(mean.expand_as(other.weight))
        if first.bias is not None and other.bias is not None:
            other.bias.copy_(first.bias)
    parent, _, attribute = name.rpartition(".")
    holder = network.get_submodule(parent)
    setattr(holder, attribute, other)


def _freeze_all_but(network: nn.Module, last: nn.Module) -> None:
    network.requires_grad_(False)
    last.requires_grad_(True)


class _Small(nn.Module):
    """Three convolutions that halve the picture, pooled to 64 features.

    Args:
        channels: of the input.
        heard: whether it is spectrograms ``[B, channels, mels, frames]``; else it is clips
            ``[B, channels, T, H, W]``, whose frames all stay.
    """

    def __init__(self, channels: int, heard: bool) -> None:
        super().__init__()
        self.num_features = 64
        layers: list[nn.Module] = []
        for inside, out in ((channels, 16), (16, 32), (32, 64)):
            layers += [
                nn.Conv2d(inside, out, 3, 2, 1, bias=False)
                if heard
                else nn.Conv3d(inside, out, 3, (1, 2, 2), 1, bias=False),
                nn.BatchNorm2d(out) if heard else nn.BatchNorm3d(out),
                nn.ReLU(inplace=True),
            ]
        self.early, self.last = nn.Sequential(*layers[:6]), nn.Sequential(*layers[6:])

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.last(self.early(x)).flatten(2).mean(dim=2)
        return pooled

    def freeze(self) -> None:
        _freeze_all_but(self, self.last)


def _is_heard(name: str) -> bool:
    return name == "audio"


def clip_encoders(
    name: str, channels: Mapping[str, int], pretrained: bool = False
) -> MultimodalEncoders:
    """A video network on each visual modality, a ResNet-18 on ``"audio"``."""
    weights = "DEFAULT" if pretrained else None
    return MultimodalEncoders(
        {
            modality: SpectrogramEncoder(count, pretrained)
            if _is_heard(modality)
            else ClipEncoder(name, count, weights)
            for modality, count in channels.items()
        }
    )


@dataclass(frozen=True)
class ClipBackbone:
    """A backbone of several modalities: a video network for each that is seen, a ResNet-18 else.

    Args:
        name: one of ``NETWORKS``.
        description: one line on it.
        pretrained: whether it begins with published weights, which are downloaded once.
    """

    name: str
    description: str
    pretrained: bool = False
    takes: ClassVar[str] = "modalities"
    gives: ClassVar[str] = "features"

    def __call__(self, channels: Mapping[str, int]) -> MultimodalEncoders:
        """The encoders, by modality."""
        return clip_encoders(self.name, channels, self.pretrained)


@register_backbone("clips-small", takes="modalities", gives="features")
def small(channels: Mapping[str, int]) -> MultimodalEncoders:
    """A few convolutions per modality, for tests of small clips on a CPU: 64 features each."""
    return MultimodalEncoders(
        {name: _Small(count, _is_heard(name)) for name, count in channels.items()}
    )


R3D_18 = ClipBackbone(
    "r3d_18", description="3D ResNet-18 (R3D, Tran et al. 2018) on clips, ResNet-18 on sound."
)
R3D_18_KINETICS = ClipBackbone(
    "r3d_18",
    description="3D ResNet-18 (R3D, Tran et al. 2018), pre-trained on Kinetics-400.",
    pretrained=True,
)
MC3_18 = ClipBackbone(
    "mc3_18",
    description="3D and 2D ResNet-18 (MC3, Tran et al. 2018) on clips, ResNet-18 on sound.",
)
MC3_18_KINETICS = ClipBackbone(
    "mc3_18",
    description="3D and 2D ResNet-18 (MC3, Tran et al. 2018), pre-trained on Kinetics-400.",
    pretrained=True,
)
R2PLUS1D_18 = ClipBackbone(
    "r2plus1d_18",
    description="(2+1)D ResNet-18 (Tran et al. 2018) on clips, ResNet-18 on sound.",
)
R2PLUS1D_18_KINETICS = ClipBackbone(
    "r2plus1d_18",
    description="(2+1)D ResNet-18 (Tran et al. 2018), pre-trained on Kinetics-400.",
    pretrained=True,
)
S3D = ClipBackbone(
    "s3d",
    description="S3D with separable convolutions (Xie et al. 2018) on clips, ResNet-18 on sound.",
)
S3D_KINETICS = ClipBackbone(
    "s3d",
    description="S3D with separable convolutions (Xie et al. 2018), pre-trained on Kinetics-400.",
    pretrained=True,
)
MVIT_V1_B = ClipBackbone(
    "mvit_v1_b",
    description="Multiscale transformer MViT-B (Fan et al. 2021) on clips, ResNet-18 on sound.",
)
MVIT_V1_B_KINETICS = ClipBackbone(
    "mvit_v1_b",
    description="Multiscale transformer MViT-B (Fan et al. 2021), pre-trained on Kinetics-400.",
    pretrained=True,
)
MVIT_V2_S = ClipBackbone(
    "mvit_v2_s",
    description="Multiscale transformer MViTv2-S (Li et al. 2022) on clips, ResNet-18 on sound.",
)
MVIT_V2_S_KINETICS = ClipBackbone(
    "mvit_v2_s",
    description="Multiscale transformer MViTv2-S (Li et al. 2022), pre-trained on Kinetics-400.",
    pretrained=True,
)
