"""A few small images in memory, and how a network sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oodbench import Hardware
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess

CPU = Hardware(accelerator="cpu", batch_size=8)
"""Few images go through a network at a time, so that a test has several batches of them."""
FAST = Hardware(accelerator="cpu", batch_size=128)
"""For tests that have hundreds of images, and ask nothing of batches."""

GREY = Preprocess(8, (0.5,), (0.25,), mode="L")

RGB = Preprocess(16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def arrays(n: int = 21, seed: int = 0, name: str = "toy/test") -> ImageArrays:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 8, 8), dtype=np.uint8)
    return ImageArrays(name, images, np.arange(n) % 3, ("a", "b", "c"))


def tensors(samples: Any, preprocess: Callable[[Image.Image], Tensor]) -> Tensor:
    return torch.stack([preprocess(samples[i]) for i in range(len(samples))])


def photograph(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise on them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-8, 9, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
