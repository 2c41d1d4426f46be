"""What tests of training methods share: untrained networks, batches, unit vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench import Hardware
from oodbench.method import Method
from tests.helpers.distributed import Plain

CPU = Hardware(accelerator="cpu", workers=0)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def untrained(cls: type[Method], recipe: Any, classes: int = 3) -> Any:
    return cls(Plain(), classes, recipe)


def batch(n: int = 12, views: int = 1, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, views, 1, 8, 8, generator=generator), torch.arange(n) % classes
