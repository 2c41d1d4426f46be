"""What is evaluated where input is bad: two classes of insects, and a network for them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone

CLASSES = {"ant": 3, "bee": 3}
Words = list[str | Path]
State = dict[str, Tensor]


def state_dict(
    backbone: str = "resnet20", classes: int = 2, channels: int = 3
) -> dict[str, Tensor]:
    """Weights of a network, drawn at random."""
    torch.manual_seed(0)
    return HeadedBackbone(create_backbone(backbone, channels), classes).state_dict()


def replaced(words: Words, option: str, value: str | Path) -> Words:
    """The words with another value of an option."""
    at = words.index(option)
    return [*words[: at + 1], value, *words[at + 2 :]]
