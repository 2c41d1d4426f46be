"""Where convolutions keep their weights channels_last, which is quicker, and where they must not.

A convolution whose weight is channels_last gives activations that are laid out so. Code that takes
the usual layout for granted (``x.view(len(x), -1)`` behind it) then fails, so it is left alone
unless every part of the network is of a library whose code is known to run either way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedParameter

_KNOWN = ("torch.nn.modules", "torchvision.models", "torchvision.ops", "timm", "oodbench")
"""Packages whose networks run on either layout."""


_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def prefer_channels_last(network: nn.Module, asked: bool | None = None) -> bool:
    """Put the weights of 2-D convolutions channels_last where all code of the network is known.

    Nothing but those weights changes, and of them only how they lie in memory: not their values,
    nor which parameters there are.

    Args:
        network: any.
        asked: True for networks of code that is not known, too; False for none.

    Returns:
        Whether the network now prefers images that are channels_last.
    """
    weights = [weight for module in network.modules() for weight in _weights(module)]
    if asked is False or not weights:
        return False
    if not (asked or all(map(_is_known, network.modules()))):
        return False
    for weight in weights:
        weight.data = weight.data.to(memory_format=torch.channels_last)
    return True


def laid_out(images: Any, channels_last: bool) -> Any:
    """A batch of images channels_last, or in the usual layout; other inputs as they are."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        return images
    return images.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def _weights(module: nn.Module) -> list[Tensor]:
    """The weight of a 2-D convolution, if it is a parameter and not computed."""
    weight = module._parameters.get("weight") if isinstance(module, _CONVOLUTIONS) else None
    is_made = weight is not None and not isinstance(weight, UninitializedParameter)
    return [weight] if is_made and weight.ndim == 4 else []  # type: ignore[union-attr, list-item]


def _is_known(module: nn.Module) -> bool:
    """Whether a module alone, not its parts, is a library's, and nobody looks into it."""
    cls = type(module)
    package = f"{cls.__module__}."
    return (
        any(package.startswith(f"{name}.") for name in _KNOWN)
        and not isinstance(module, fx.GraphModule)  # a library's class around anybody's code
        and "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )
