"""The latest features of every class, which virtual outliers are made of."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from oodbench.errors import OptionError
from oodbench.method import Method


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


def of_all_processes(method: Method, h: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``[B, ...]`` and labels ``[B]`` of all processes, in the order of one process.

    No gradients pass. Processes take samples in turn, so theirs are interleaved.
    """
    if method.trainer.world_size == 1:
        return h, labels
    everyone = cast(Tensor, method.all_gather(h.detach().contiguous()))
    return everyone.transpose(0, 1).flatten(0, 1), cast(
        Tensor, method.all_gather(labels)
    ).T.flatten()


def shared_mean(of_id: Tensor, of_outliers: Tensor, processes: int) -> Tensor:
    """The mean over ID samples ``[N]`` of all processes and outliers ``[M]`` that all have alike.

    Processes average their gradients, so each gives its ID samples the weight of all.
    """
    total = processes * of_id.sum() + of_outliers.sum()
    return total / (processes * len(of_id) + len(of_outliers))
