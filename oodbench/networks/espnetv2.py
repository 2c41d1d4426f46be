"""ESPNetv2, a small network of pixels (Mehta et al. 2019).

Paper: S. Mehta, M. Rastegari, L. Shapiro, H. Hajishirzi, "ESPNetv2: A Light-weight, Power
Efficient, and General Purpose Convolutional Neural Network", CVPR 2019. arXiv:1811.11431
Code:  sacmehta/EdgeNets (MIT), whose parts' names are kept, so that its state dicts load; with them
it gives the logits of theirs, bit for bit

The encoder's blocks reduce, split into depthwise convolutions of growing dilation whose outputs are
added up one after the other, and merge. The decoder pools in five sizes at each resolution. Where
paper and code differ, the code is followed: it is what the published weights were trained with.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = {
    0.5: (16, 32, 64, 128),
    1.0: (32, 64, 128, 256),
    1.5: (32, 96, 192, 384),
    2.0: (32, 128, 256, 512),
}
"""Channels at a half, a quarter, an eighth and a sixteenth of the size, by the network's scale."""

BRANCHES = 4
SIZES = (2.0, 1.5, 1.0, 0.5, 0.1)
"""Those that the decoder looks at a map in, as shares of its own."""


def _named(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def _conv(a: int, b: int, k: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = (k - 1) // 2 * dilation
    return nn.Conv2d(a, b, k, stride, padding, dilation, groups, bias=False)


def _active(a: int, b: int, k: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, batch normalisation and PReLU, as the encoder names them."""
    conv = _conv(a, b, k, stride, groups)
    return _named(conv=conv, bn=nn.BatchNorm2d(b), act=nn.PReLU(b))


def _normalised(channels: int) -> nn.Sequential:
    """Batch normalisation and PReLU, as the decoder names them."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))


def _decoding(a: int, b: int, k: int, groups: int = 1) -> nn.Sequential:
    """A convolution, batch normalisation and PReLU, as the decoder names them."""
    return _named(cbr=nn.Sequential(_conv(a, b, k, groups=groups), *_normalised(b)))


class Pyramid(nn.Module):
    """EESP: the block of the encoder, with four depthwise convolutions in parallel.

    Args:
        inside: channels that come in.
        out: channels that go out.
        widest: the largest kernel that a dilation may make; wider ones are 3 x 3.
        halves: whether the size becomes half, in a :class:`Halving`.
    """

    def __init__(self, inside: int, out: int, widest: int, halves: bool = False) -> None:
        super().__init__()
        n = out // BRANCHES
        self.halves = halves
        self.proj_1x1 = _active(inside, n, 1, groups=BRANCHES)
        kernels = sorted(k if k <= widest else 3 for k in range(3, 3 + 2 * BRANCHES, 2))
        self.spp_dw = nn.ModuleList(
            _named(conv=_conv(n, n, 3, 2 if halves else 1, n, (k - 1) // 2)) for k in kernels
        )
        self.conv_1x1_exp = _named(conv=_conv(out, out, 1, groups=BRANCHES), bn=nn.BatchNorm2d(out))
        self.br_after_cat = _named(bn=nn.BatchNorm2d(out), act=nn.PReLU(out))
        self.module_act = nn.PReLU(out)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inside, h, w] -> [B, out, h, w]``, or half the size."""
        reduced = self.proj_1x1(x)
        parts = [self.spp_dw[0](reduced)]
        for branch in list(self.spp_dw)[1:]:
            parts.append(branch(reduced) + parts[-1])
        merged: Tensor = self.conv_1x1_exp(self.br_after_cat(torch.cat(parts, dim=1)))
        if self.halves:
            return merged
        out: Tensor = self.module_act(merged + x if merged.shape == x.shape else merged)
        return out


class Halving(nn.Module):
    """Half the size: a mean, a :class:`Pyramid` beside it, and the image, shrunk, added to both."""

    def __init__(self, inside: int, out: int, widest: int) -> None:
        super().__init__()
        self.eesp = Pyramid(inside, out - inside, widest, halves=True)
        self.inp_reinf = nn.Sequential(
            _active(3, 3, 3), _named(conv=_conv(3, out, 1), bn=nn.BatchNorm2d(out))
        )
        self.act = nn.PReLU(out)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """``[B, inside, h, w]`` and ``[B, 3, H, W]`` to ``[B, out, h / 2, w / 2]``."""
        both = torch.cat([_halved(x), self.eesp(x)], dim=1)
        while image.shape[2] > both.shape[2]:
            image = _halved(image)
        out: Tensor = self.act(both + self.inp_reinf(image))
        return out


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=2, padding=1)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


class Encoder(nn.Module):
    """Maps of a half, a quarter, an eighth and a sixteenth of the size."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        a, b, c, d = widths
        self.level1 = _active(3, a, 3, stride=2)
        self.level2_0 = Halving(a, b, 13)
        self.level3_0 = Halving(b, c, 11)
        self.level3 = nn.ModuleList(Pyramid(c, c, 9) for _ in range(3))
        self.level4_0 = Halving(c, d, 9)
        self.level4 = nn.ModuleList(Pyramid(d, d, 7) for _ in range(7))

    def forward(self, image: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` to four maps, the largest first."""
        maps = [self.level1(image)]
        maps.append(self.level2_0(maps[-1], image))
        for first, more in ((self.level3_0, self.level3), (self.level4_0, self.level4)):
            x = first(maps[-1], image)
            for block in more:
                x = block(x)
            maps.append(x)
        return maps


class PyramidPool(nn.Module):
    """The block of the decoder: depthwise convolutions of a map in five sizes, merged.

    Args:
        inside: channels that come in.
        width: channels in each size.
        out: channels that go out.
        is_last: whether logits go out, with a bias and without an activation.
    """

    def __init__(self, inside: int, width: int, out: int, is_last: bool = False) -> None:
        super().__init__()
        self.projection_layer = _decoding(inside, width, 1)
        self.stages = nn.ModuleList(_conv(width, width, 3, groups=width) for _ in SIZES)
        whole = width * len(SIZES)
        self.merge_layer = nn.Sequential(
            _named(br=_normalised(whole)),
            nn.ChannelShuffle(len(SIZES)),
            _decoding(whole, width, 3, groups=width),
            nn.Conv2d(width, out, 1, bias=is_last),
        )
        self.br = nn.Identity() if is_last else _named(br=_normalised(out))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inside, h, w] -> [B, out, h, w]``."""
        x = self.projection_layer(x)
        own = (x.shape[2], x.shape[3])
        parts = []
        for share, stage in zip(SIZES, self.stages, strict=True):
            size = (max(5, math.ceil(own[0] * share)), max(5, math.ceil(own[1] * share)))
            if share < 1:
                part = _resized(stage(F.adaptive_avg_pool2d(x, size)), own)
            elif share > 1:
                part = F.adaptive_avg_pool2d(stage(_resized(x, size)), own)
            else:
                part = stage(x)
            parts.append(part)
        out: Tensor = self.br(self.merge_layer(torch.cat(parts, dim=1)))
        return out


class Weighted(nn.Module):
    """A map of the encoder for the decoder, each channel times a weight made of all means."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.wt_layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), _conv(inside, out, 1), nn.Sigmoid())
        self.expansion_layer = _decoding(inside, out, 3, groups=math.gcd(inside, out))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inside, h, w] -> [B, out, h, w]``."""
        out: Tensor = self.expansion_layer(x) * self.wt_layer(x)
        return out


class ESPNetv2(nn.Module):
    """ESPNetv2: logits of each pixel.

    Args:
        num_classes: C.
        scale: of the encoder's channels; a key of ``WIDTHS``.
        width: of the decoder's channels: 16 for Cityscapes.
    """

    def __init__(self, num_classes: int, scale: float = 2.0, width: int = 16) -> None:
        super().__init__()
        a, b, c, d = WIDTHS[scale]
        first, second, third = 4 * width, 3 * width, 2 * width
        pooled = min(num_classes // 2, width)
        self.base_net = Encoder((a, b, c, d))
        self.bu_dec_l1 = PyramidPool(d, pooled, first)
        self.bu_dec_l2 = PyramidPool(first, pooled, second)
        self.bu_dec_l3 = PyramidPool(second, pooled, third)
        self.bu_dec_l4 = PyramidPool(third, pooled, num_classes, is_last=True)
        self.merge_enc_dec_l2 = Weighted(c, first)
        self.merge_enc_dec_l3 = Weighted(b, second)
        self.merge_enc_dec_l4 = Weighted(a, third)
        self.bu_br_l2 = _normalised(first)
        self.bu_br_l3 = _normalised(second)
        self.bu_br_l4 = _normalised(third)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W] -> [B, C, H, W]``; H and W are multiples of 16."""
        half, quarter, eighth, sixteenth = self.base_net(images)
        x = self.bu_dec_l1(sixteenth)
        x = self.bu_dec_l2(self.bu_br_l2(self.merge_enc_dec_l2(eighth) + _doubled(x)))
        x = self.bu_dec_l3(self.bu_br_l3(self.merge_enc_dec_l3(quarter) + _doubled(x)))
        x = self.bu_dec_l4(self.bu_br_l4(self.merge_enc_dec_l4(half) + _doubled(x)))
        return _resized(x, images.shape[2:])


def _doubled(x: Tensor) -> Tensor:
    return _resized(x, [2 * side for side in x.shape[2:]])
