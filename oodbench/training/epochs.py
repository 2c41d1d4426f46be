"""What training sees: order and augmentation depend on (seed, epoch, index), and on nothing else.

Neither on the number of data workers, nor on when they ask for their samples, nor on whether the
run was interrupted: what was killed in the third epoch goes on with the order of the third.
"""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from oodbench.data.batched import BatchedSimCLR
from oodbench.data.samples import Samples
from oodbench.data.transforms import Augmentation, Preprocess
from oodbench.feeding import sent_by_augmentation
from oodbench.hardware import rank_and_world
from oodbench.training.dense import DenseMethod


class EpochSampler(Sampler[int]):
    """Samples in an order that depends on seed and epoch alone; each process takes its share.

    Yields ``epoch * n + index``, so that whoever reads the sample knows the epoch as well.

    Batch k of all processes together is batch k of one. An epoch's last, incomplete batch is shared
    evenly, without the few samples that would make the shares unequal; it is left out where a
    share would be a single sample, of which neither batch normalisation nor a contrast makes
    anything. What is left out differs from epoch to epoch.

    Args:
        n: samples.
        seed: of the order.
        batch_size: samples per step, over all processes.
        epoch: the first. Lightning tells a sampler its epochs (``set_epoch``), but it tells the
            first one of a run that goes on after the data workers have asked for their samples.
        drop_last: leave out the last, incomplete batch. A set smaller than one is used whole.
    """

    def __init__(
        self, n: int, seed: int, batch_size: int, epoch: int = 0, *, drop_last: bool = False
    ) -> None:
        self.n, self.seed, self.batch_size, self.epoch = n, seed, batch_size, epoch
        self.drop_last = drop_last

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        _, world = rank_and_world()
        return self._usable(world) // world

    def _usable(self, world: int) -> int:
        last = self.n % self.batch_size
        whole = self.n - last
        if whole and (self.drop_last or last < 2 * world):
            return whole - whole % world
        return self.n - self.n % world

    def __iter__(self) -> Iterator[int]:
        rank, world = rank_and_world()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.n, generator=generator)[: self._usable(world)]
        yield from (order[rank::world] + self.epoch * self.n).tolist()


class _Epochs(Dataset[Any]):
    """Samples by position ``epoch * n + index``, each with random numbers of its own."""

    def __init__(self, samples: Samples, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Any:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """A batch; the process's generators are afterwards as they were."""
        with _generators_kept():
            return [self._drawn(position) for position in positions]

    def _drawn(self, position: int) -> Any:
        # an augmentation should draw from ``rng``; for one that does not, all are seeded
        number = zlib.crc32(f"{self.seed}/{position}".encode())
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002
        torch.default_generator.manual_seed(number)
        rng = random.Random(f"{self.seed}/{position}")  # noqa: S311
        return self._example(position % len(self.samples), rng)

    def _example(self, index: int, rng: random.Random) -> Any:
        raise NotImplementedError


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    if get_worker_info() is not None:  # nothing else in a data worker draws
        yield
        return
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)


class Views(_Epochs):
    """Augmented views ``[V, ...]`` of each image, and its label.

    Args:
        samples: the images.
        augmentation: of each view.
        views: of an image.
        seed: of augmentation, and of which outliers come with an image.
        outliers: images that come with others; None for none.
        per_image: how many of them, a view each, behind the views of the image itself.
        as_bytes: whether views may be sent as bytes ``[V, H, W, C]``, to be normalised elsewhere.
    """

    def __init__(
        self,
        samples: Samples,
        augmentation: Augmentation,
        views: int,
        seed: int,
        outliers: Samples | None = None,
        per_image: int = 0,
        as_bytes: bool = False,
    ) -> None:
        super().__init__(samples, seed)
        self.augmentation, self.views = augmentation, views
        self.sent = sent_by_augmentation(augmentation) if as_bytes else None
        self.outliers, self.per_image = outliers, per_image

    def _example(self, index: int, rng: random.Random) -> tuple[Any, int]:
        image = self.samples[index]
        # bytes, where the method that asks for them normalises them
        augmentation = self.sent or self.augmentation
        views = [augmentation(image, rng) for _ in range(self.views)]
        if self.outliers is not None:
            drawn = [rng.randrange(len(self.outliers)) for _ in range(self.per_image)]
            views += [augmentation(self.outliers[position], rng) for position in drawn]
        return _stacked(views), int(self.samples.labels[index])


class BatchedViews(_Epochs):
    """Images of a batch as they are, what is to be done to them at the device, and their labels.

    Args:
        samples: the images.
        augmentation: draws, and is applied where the network runs.
    """

    def __init__(self, samples: Samples, augmentation: BatchedSimCLR) -> None:
        super().__init__(samples, augmentation.seed)
        self.augmentation = augmentation

    def __getitems__(self, positions: Sequence[int]) -> Any:
        """A whole batch, which needs no collating."""
        indices = [position % len(self.samples) for position in positions]
        images = [self.samples[index] for index in indices]
        labels = [int(self.samples.labels[index]) for index in indices]
        return self.augmentation.drawn(images, positions), torch.tensor(labels)


def as_it_is(batch: Any) -> Any:
    """What makes a batch of one that is one."""
    return batch


def _stacked(views: list[Any]) -> Any:
    """Views ``[V, ...]``, of each modality where there are several."""
    if isinstance(views[0], Mapping):
        return {name: torch.stack([view[name] for view in views]) for name in views[0]}
    return torch.stack(views)


class Examples(_Epochs):
    """Images with masks or boxes, augmented together."""

    def __init__(
        self, samples: Samples, method: DenseMethod, preprocess: Preprocess, seed: int
    ) -> None:
        super().__init__(samples, seed)
        self.target = method.target
        self.augmentation = method.joint_augmentation(preprocess)

    def _example(self, index: int, rng: random.Random) -> tuple[Tensor, Any]:
        target = self.target(self.samples, index)
        return self.augmentation(self.samples[index], target, rng)
