"""Predictions of modalities, and the distances between them as loops over their definitions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

F64 = torch.float64


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=F64)


def random_logits(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=F64)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return e / e.sum()


def slow_distance(p: np.ndarray, q: np.ndarray, kind: str) -> float:
    """Each definition, row by row."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if kind == "hellinger":
            roots = [np.sqrt(np.maximum(row, 1e-6)) for row in (a, b)]
            total += np.sqrt(np.sum((roots[0] - roots[1]) ** 2)) / np.sqrt(2)
        elif kind == "l1":
            total += np.mean(np.abs(a - b))
        elif kind == "l2":
            total += np.mean((a - b) ** 2)
        else:
            total += min(float(np.linalg.norm(a - other)) for other in q) / 2
            total += min(float(np.linalg.norm(b - other)) for other in p) / 2
    return float(total / len(p))


def extreme_logits(dtype: torch.dtype) -> Tensor:
    """Of three modalities, three samples and four classes, near the ends of half precision."""
    video = torch.tensor([[3e4, -3e4, 0, 1], [0, 0, 0, 0], [-3e4, 0, 3e4, 0]], dtype=dtype)
    return torch.stack([video, video.flip(1), video]).requires_grad_()
