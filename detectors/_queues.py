"""The latest features of every class, which virtual outliers are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oodbench.errors import OptionError


class ClassQueues(nn.Module):
    """For each class the latest ``size`` features that were pushed.

    Args:
        num_classes: C.
        feature_dim: D.
        size: L, samples that a queue holds.

    Attributes:
        samples: ``[C, L, D]``, in each queue the newest last.
        counts: how much of it is filled, ``[C]``, from the end.

    Raises:
        OptionError: no room for a sample.
    """

    samples: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, feature_dim: int, size: int) -> None:
        super().__init__()
        if size < 1:
            raise OptionError(f"a queue holds at least 1 sample, not {size}.")
        self.register_buffer("samples", torch.zeros(num_classes, size, feature_dim))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def push(self, z: Tensor, labels: Tensor) -> None:
        """Features ``[N, D]`` enter the queues of their classes ``[N]``, in their order."""
        size = self.samples.shape[1]
        z = z.detach().to(self.samples)
        for c in labels.unique().tolist():
            own = z[labels == c][-size:]
            self.samples[c] = torch.cat([self.samples[c, len(own) :], own])
            self.counts[c] = min(int(self.counts[c]) + len(own), size)

    @property
    def full(self) -> bool:
        """Whether every class has as many samples as its queue holds."""
        return bool((self.counts == self.samples.shape[1]).all())
