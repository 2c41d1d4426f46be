"""Each check of backbones can fail: a broken backbone for each."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.testing import backbone_checks


class Sound(nn.Module):
    """A convolution and a mean."""

    num_features = 4

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.conv(images).mean(dim=(2, 3))
        return features


class Undocumented(Sound):
    __doc__ = None


class Pictures(Sound):
    """Takes pictures."""

    takes = "pictures"


class Modalities(Sound):
    """Says that it takes modalities."""

    takes = "modalities"


class Fixed(Sound):
    """Takes one channel alone."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(1)


class NoChannels(Sound):
    """Is not asked for channels."""

    def __init__(self) -> None:
        super().__init__(3)


class Narrow(Sound):
    """Says another width."""

    num_features = 7


class Maps(Sound):
    """Does not pool."""

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


class Infinite(Sound):
    """Divides by zero."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 0


class Double(Sound):
    """Gives float64."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).double()


class Centred(Sound):
    """Depends on the batch."""

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features - features.mean(dim=0)


class Dropping(Sound):
    """Drops in evaluation mode, too."""

    def forward(self, images: Tensor) -> Tensor:
        return F.dropout(super().forward(images))


class Counting(Sound):
    """Counts its calls in a buffer."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(channels)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(images)


class InPlace(Sound):
    """Changes the images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mul_(2))


class Detached(Sound):
    """Has a first layer that learns nothing."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(channels)
        self.last = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(super().forward(images).detach())


class Entropy(Sound):
    """Draws its weights from the system's randomness."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(channels)
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "little"))
        nn.init.normal_(self.conv.weight, generator=generator)


class Hidden(Sound):
    """Keeps what it drew where no state is saved."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(channels)
        self.shift = torch.randn(4)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.shift


class Pair(nn.Module):
    """Takes two modalities."""

    num_features = 8
    takes = "modalities"

    def __init__(self, channels: dict[str, int]) -> None:
        super().__init__()
        self.sides = nn.ModuleDict({name: Sound(n) for name, n in channels.items()})

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: side(inputs[name]) for name, side in self.sides.items()}


BROKEN: dict[str, tuple[Callable[..., Any], ...]] = {
    "check_described": (Undocumented,),
    "check_declared": (Pictures,),
    "check_channels": (Fixed, NoChannels),
    "check_width": (Narrow, Maps),
    "check_finite": (Infinite, Double),
    "check_batch_size": (Centred,),
    "check_deterministic": (Dropping, Counting),
    "check_inputs_untouched": (InPlace,),
    "check_gradients": (Detached,),
    "check_same_seed": (Entropy,),
    "check_state_dict": (Hidden,),
}
CHECKS = {check.__name__: check for check in backbone_checks()}


def test_there_is_a_broken_one_for_each_check() -> None:
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_checks_can_fail(name: str) -> None:
    for broken in BROKEN[name]:
        with pytest.raises(AssertionError, match=broken.__name__):
            CHECKS[name](broken)


@pytest.mark.parametrize("name", CHECKS)
def test_sound_ones_pass(name: str) -> None:
    CHECKS[name](Sound)
    CHECKS[name](Pair, {"left": torch.ones(2, 1, 8, 8), "right": torch.rand(2, 3, 8, 8)})


def test_modalities_need_inputs() -> None:
    with pytest.raises(AssertionError, match="give the check their tensors"):
        CHECKS["check_width"](Modalities)
