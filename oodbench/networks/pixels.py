"""Networks that give a class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation as zoo

from oodbench.errors import OptionError
from oodbench.networks.models import GivesSmallMaps, outputs_of
from oodbench.registry import register_backbone

MAPS = "feature maps"
"""What backbones of segmentation give, and its methods train on."""

PIXELS_AT_ONCE = 2**18
"""Pixels of images of one size that go through a network together: 64 images of 64 x 64."""


def _block(inside: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inside, out):
        layers += [
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class SceneUNet(nn.Module):
    """A small U-Net (Ronneberger et al. 2015) with 32 features per pixel, for small scenes."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.num_features = 32
        widths = (16, 32, 64, 64)
        self.down = nn.ModuleList(
            _block(a, b) for a, b in zip((channels, *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList([_block(64 + 64, 64), _block(64 + 32, 32), _block(32 + 16, 32)])

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, 32, H, W]``."""
        kept = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            kept.append(x)
        kept.pop()
        for block in self.up:
            skip = kept.pop()
            x = F.interpolate(x, skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return x


class TorchvisionSegmentation(nn.Module):
    """A torchvision segmentation network without its last convolution.

    Args:
        name: ``"deeplabv3_resnet50"``, ``"deeplabv3_resnet101"``, ``"fcn_resnet50"`` …
        channels: input channels; 3.
    """

    def __init__(self, name: str, channels: int = 3) -> None:
        super().__init__()
        if channels != 3:
            raise OptionError(f"{name} takes RGB images, not images of {channels} channels.")
        network = getattr(zoo, name)(weights=None, weights_backbone=None, aux_loss=False)
        *head, last = network.classifier
        self.encoder, self.decoder = network.backbone, nn.Sequential(*head)
        self.num_features = int(last.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W] -> [B, D, H / 8, W / 8]``."""
        features: Tensor = self.decoder(self.encoder(x)["out"])
        return features


@register_backbone("scenes-unet", takes="images", gives=MAPS)
def scenes_unet(channels: int = 1) -> SceneUNet:
    """A small U-Net (Ronneberger et al. 2015) for small scenes: 32 features per pixel."""
    return SceneUNet(channels)


@register_backbone("deeplabv3-resnet50", takes="images", gives=MAPS)
def deeplabv3_resnet50(channels: int = 3) -> TorchvisionSegmentation:
    """DeepLabV3 with a ResNet-50 (Chen et al. 2017): 256 features per pixel."""
    return TorchvisionSegmentation("deeplabv3_resnet50", channels)


@register_backbone("deeplabv3-resnet101", takes="images", gives=MAPS)
def deeplabv3_resnet101(channels: int = 3) -> TorchvisionSegmentation:
    """DeepLabV3 with a ResNet-101 (Chen et al. 2017): 256 features per pixel."""
    return TorchvisionSegmentation("deeplabv3_resnet101", channels)


@register_backbone("fcn-resnet50", takes="images", gives=MAPS)
def fcn_resnet50(channels: int = 3) -> TorchvisionSegmentation:
    """FCN with a ResNet-50 (Long et al. 2015): 512 features per pixel."""
    return TorchvisionSegmentation("fcn_resnet50", channels)


@register_backbone("fcn-resnet101", takes="images", gives=MAPS)
def fcn_resnet101(channels: int = 3) -> TorchvisionSegmentation:
    """FCN with a ResNet-101 (Long et al. 2015): 512 features per pixel."""
    return TorchvisionSegmentation("fcn_resnet101", channels)


class PixelNetwork(nn.Module):
    """Anybody's segmentation network, by its logits alone.

    Args:
        model: from ``[B, channels, H, W]`` to logits ``[B, C, h, w]``, or to a mapping that has
            them as ``"out"``, as torchvision's networks do.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``logits [B, C, H, W]``, enlarged bilinearly where the network's are smaller.

        Raises:
            OptionError: the model gives something else.
        """
        return enlarged(self.small_maps(images), images.shape[-2:])

    def small_maps(self, images: Tensor) -> dict[str, Tensor]:
        """``logits [B, C, h, w]`` as the model gives them.

        Raises:
            OptionError: the model gives something else.
        """
        logits = self.model(images)
        logits = logits["out"] if isinstance(logits, Mapping) and "out" in logits else logits
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise OptionError(
                f"{type(self.model).__name__} gives no logits [B, C, H, W], but segmentation needs "
                "a class for each pixel. Give a segmentation network."
            )
        return {"logits": logits.float()}

    def head(self) -> None:
        """None: there is no linear layer from features to logits."""


class PixelReader(nn.Module):
    """A network of pixels, as its outputs are kept: one row per pixel of its maps.

    Maps that are smaller than the image are kept as they are; :func:`enlarged` makes of them what
    the network's ``outputs`` gives. Where its maps differ in size, they are enlarged before.

    Args:
        network: ``outputs`` gives ``logits [B, C, H, W]`` and further maps, ``[B, H, W]`` or
            ``[B, D, H, W]``.
    """

    sample_column = "image"
    pixels_at_once = PIXELS_AT_ONCE

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The maps' pixels, by image and then line by line.

        ``image`` is the position in the batch, ``line`` that of the line in the map.
        """
        maps = self._maps(images)
        batch, _, height, width = maps["logits"].shape
        rows = {
            name: (value.permute(0, 2, 3, 1).flatten(0, 2) if value.ndim == 4 else value.flatten())
            for name, value in maps.items()
        }
        images_ = torch.arange(batch, dtype=torch.int32, device=images.device)
        lines = torch.arange(height, dtype=torch.int16, device=images.device)
        return {
            **{name: v.float() if v.is_floating_point() else v for name, v in rows.items()},
            "image": images_.repeat_interleave(height * width),
            "line": lines.repeat_interleave(width).repeat(batch),
        }

    def _maps(self, images: Tensor) -> dict[str, Tensor]:
        if not isinstance(self.model, GivesSmallMaps):
            return outputs_of(self.model)(images)
        maps = self.model.small_maps(images)
        sizes = {value.shape[-2:] for value in maps.values()}
        return maps if len(sizes) == 1 else enlarged(maps, images.shape[-2:])

    def head(self) -> None:
        """None: what stands before the logits is not kept."""


def enlarged(maps: Mapping[str, Tensor], size: Sequence[int]) -> dict[str, Tensor]:
    """Maps ``[B, D, h, w]`` or ``[B, h, w]`` in another size ``(H, W)``, bilinearly, in float32.

    Those that have the size already stay as they are.
    """
    whole = {}
    for name, value in maps.items():
        channels = value if value.ndim == 4 else value[:, None]
        if tuple(value.shape[-2:]) != tuple(size):
            channels = F.interpolate(
                channels.float(), tuple(size), mode="bilinear", align_corners=False
            )
        whole[name] = channels if value.ndim == 4 else channels[:, 0]
    return whole
