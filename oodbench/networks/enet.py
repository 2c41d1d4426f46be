"""ENet, a small network of pixels (Paszke et al. 2016), and one that sees images in one size.

Paper: A. Paszke, A. Chaurasia, S. Kim, E. Culurciello, "ENet: A Deep Neural Network Architecture
for Real-Time Semantic Segmentation", 2016. arXiv:1606.02147

Parts are named as in davidtvs/PyTorch-ENet, so that state dicts of it load; written from the paper,
but for what such state dicts hold: no biases, an activation behind the last convolution of a
bottleneck's extension, ReLU in the decoder.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.data.transforms import Preprocess


def _act(relu: bool) -> nn.Module:
    return nn.ReLU() if relu else nn.PReLU()


def _conv(a: int, b: int, k: int | tuple[int, int], relu: bool, **more: object) -> list[nn.Module]:
    """A convolution, batch normalisation and activation."""
    return [nn.Conv2d(a, b, k, bias=False, **more), nn.BatchNorm2d(b), _act(relu)]  # type: ignore[arg-type]


class Initial(nn.Module):
    """3 channels to 16 in half the size: 13 of a convolution, 3 of max-pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.main_branch = nn.Conv2d(3, 13, 3, stride=2, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(16)
        self.out_activation = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W] -> [B, 16, H / 2, W / 2]``."""
        both = torch.cat([self.main_branch(x), F.max_pool2d(x, 3, stride=2, padding=1)], dim=1)
        out: Tensor = self.out_activation(self.batch_norm(both))
        return out


class Regular(nn.Module):
    """A bottleneck of one size: a 3x3, dilated, or 5x1 and 1x5 convolution on a quarter."""

    def __init__(
        self,
        width: int,
        dilation: int = 1,
        asymmetric: bool = False,
        dropout: float = 0.1,
        relu: bool = False,
    ) -> None:
        super().__init__()
        a = width // 4
        self.ext_conv1 = nn.Sequential(*_conv(width, a, 1, relu))
        if asymmetric:
            middle = _conv(a, a, (5, 1), relu, padding=(2, 0))
            middle += _conv(a, a, (1, 5), relu, padding=(0, 2))
        else:
            middle = _conv(a, a, 3, relu, padding=dilation, dilation=dilation)
        self.ext_conv2 = nn.Sequential(*middle)
        self.ext_conv3 = nn.Sequential(*_conv(a, width, 1, relu))
        self.ext_regul = nn.Dropout2d(dropout)
        self.out_activation = _act(relu)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, D, h, w]``, the same shape."""
        extension = self.ext_regul(self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))
        out: Tensor = self.out_activation(x + extension)
        return out


class Down(nn.Module):
    """A bottleneck to half the size, which says where the maxima were."""

    def __init__(self, inside: int, out: int, dropout: float) -> None:
        super().__init__()
        a = inside // 4
        self.ext_conv1 = nn.Sequential(*_conv(inside, a, 2, False, stride=2))
        self.ext_conv2 = nn.Sequential(*_conv(a, a, 3, False, padding=1))
        self.ext_conv3 = nn.Sequential(*_conv(a, out, 1, False))
        self.ext_regul = nn.Dropout2d(dropout)
        self.out_activation = nn.PReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, D, h, w]`` to ``[B, out, h / 2, w / 2]`` and the indices of the maxima."""
        main, indices = F.max_pool2d(x, 2, stride=2, return_indices=True)
        extension = self.ext_regul(self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))
        padded = F.pad(main, (0, 0, 0, 0, 0, extension.shape[1] - main.shape[1]))
        return self.out_activation(padded + extension), indices


class Up(nn.Module):
    """A bottleneck to twice the size, with the maxima put where they were."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        a = inside // 4
        self.main_conv1 = nn.Sequential(*_conv(inside, out, 1, True)[:2])
        self.ext_conv1 = nn.Sequential(*_conv(inside, a, 1, True))
        self.ext_tconv1 = nn.ConvTranspose2d(a, a, 2, stride=2, bias=False)
        self.ext_tconv1_bnorm = nn.BatchNorm2d(a)
        self.ext_conv2 = nn.Sequential(*_conv(a, out, 1, True)[:2])
        self.ext_regul = nn.Dropout2d(0.1)

    def forward(self, x: Tensor, indices: Tensor, size: torch.Size) -> Tensor:
        """``[B, D, h, w]`` to ``[B, out, H, W]``, the size before the maxima were taken."""
        main = F.max_unpool2d(self.main_conv1(x), indices, (2, 2), output_size=list(size[2:]))
        extension = self.ext_tconv1(self.ext_conv1(x), output_size=list(size[2:]))
        extension = self.ext_conv2(self.ext_tconv1_bnorm(extension).relu())
        out: Tensor = (main + self.ext_regul(extension)).relu()
        return out


_MIDDLE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("regular{}_{}", {}),
    ("dilated{}_{}", {"dilation": 2}),
    ("asymmetric{}_{}", {"asymmetric": True}),
    ("dilated{}_{}", {"dilation": 4}),
    ("regular{}_{}", {}),
    ("dilated{}_{}", {"dilation": 8}),
    ("asymmetric{}_{}", {"asymmetric": True}),
    ("dilated{}_{}", {"dilation": 16}),
)


class ENet(nn.Module):
    """ENet: logits of each pixel.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.initial_block = Initial()
        self.downsample1_0 = Down(16, 64, 0.01)
        self.first = [f"regular1_{i}" for i in range(1, 5)]
        for name in self.first:
            self.add_module(name, Regular(64, dropout=0.01))
        self.downsample2_0 = Down(64, 128, 0.1)
        self.middle: list[str] = []
        for stage, start in ((2, 1), (3, 0)):
            for i, (pattern, options) in enumerate(_MIDDLE):
                self.middle.append(pattern.format(stage, start + i))
                self.add_module(self.middle[-1], Regular(128, **options))
        self.upsample4_0 = Up(128, 64)
        self.regular4_1 = Regular(64, relu=True)
        self.regular4_2 = Regular(64, relu=True)
        self.upsample5_0 = Up(64, 16)
        self.regular5_1 = Regular(16, relu=True)
        self.transposed_conv = nn.ConvTranspose2d(
            16, num_classes, 3, stride=2, padding=1, bias=False
        )

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W] -> [B, C, H, W]``; H and W are multiples of 8."""
        x = self.initial_block(images)
        size1 = x.shape
        x, indices1 = self.downsample1_0(x)
        for name in self.first:
            x = self.get_submodule(name)(x)
        size2 = x.shape
        x, indices2 = self.downsample2_0(x)
        for name in self.middle:
            x = self.get_submodule(name)(x)
        x = self.regular4_2(self.regular4_1(self.upsample4_0(x, indices2, size2)))
        x = self.regular5_1(self.upsample5_0(x, indices1, size1))
        return cast(Tensor, self.transposed_conv(x, output_size=list(images.shape[2:])))


class Resized(nn.Module):
    """A network of pixels that sees images in one size, whatever theirs is.

    Args:
        model: ``[B, 3, H, W]`` to logits ``[B, C, H, W]``.
        size: the height and width that it sees.
        classes: how many of the logits are classes; those behind them are left out.
        own_preprocess: what it was trained to see, but for the size.
    """

    def __init__(
        self, model: nn.Module, size: tuple[int, int], classes: int, own_preprocess: Preprocess
    ) -> None:
        super().__init__()
        self.model = model
        self.size = size
        self.classes = classes
        self.own_preprocess = own_preprocess

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C, h, w]`` in the size that the network sees."""
        if tuple(images.shape[2:]) != self.size:
            images = F.interpolate(
                images, self.size, mode="bilinear", antialias=True, align_corners=False
            )
        logits: Tensor = self.model(images)
        return logits[:, : self.classes]
