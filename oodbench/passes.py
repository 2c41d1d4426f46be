"""A network's pass over samples: whole shards, each process its share, into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, Sampler

from oodbench.caching.unfinished import Unfinished
from oodbench.data.samples import Samples
from oodbench.data.transforms import Transform
from oodbench.errors import BadScoresError
from oodbench.hardware import rank_and_world
from oodbench.networks.door import (
    explained,
    fed,
    kept,
    kept_head,
)
from oodbench.networks.heads import checked_head
from oodbench.networks.memory_format import prefer_channels_last
from oodbench.networks.models import (
    outputs_of,
    sample_column_of,
    withheld_by,
)
from oodbench.networks.rows import rows_of

PIECE = 2**19
"""Pixels that a CPU takes at a time, over all images of a piece: 10 of 224 x 224, 512 of 32 x 32.

Larger activations leave the caches, and the memory for them is mapped and returned at each layer.
"""


class Preprocessed(Dataset[tuple[Any, int]]):
    """Samples as a network sees them, each with its position.

    Args:
        samples: the samples.
        preprocess: from sample to input.
    """

    def __init__(self, samples: Samples, preprocess: Transform) -> None:
        self.samples = samples
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.preprocess(self.samples[index]), index


class Shards(Sampler[list[int]]):
    """Whole shards, this process's share of them."""

    def __init__(self, n: int, size: int, shards: Sequence[int]) -> None:
        self.n, self.size, self.shards = n, size, list(shards)

    def _own(self) -> list[int]:
        rank, world = rank_and_world()
        return self.shards[rank::world]

    def __iter__(self) -> Iterator[list[int]]:
        for shard in self._own():
            yield list(range(shard * self.size, min((shard + 1) * self.size, self.n)))

    def __len__(self) -> int:
        return len(self._own())


class Pass(pl.LightningModule):
    """A network that sees samples once, and a store that keeps what it says.

    Args:
        network: has ``outputs`` and ``head``.
        store: where its outputs go.
        who: what messages call the samples.

    Attributes:
        count: how many samples this process has seen.
    """

    def __init__(self, network: nn.Module, store: Unfinished, who: str) -> None:
        super().__init__()
        self.network = network
        self.store = store
        self.who = who
        self.count = 0
        self.channels_last = False
        # with fewer shards than processes, some have nothing to do
        self.allow_zero_length_dataloader_with_multiple_devices = True

        self.owner = sample_column_of(network)

    def on_predict_start(self) -> None:
        """Have convolutions keep their weights as they run quickest."""
        # a network of images in their own sizes copies them into batches of the usual layout
        self.channels_last = self.owner is None and prefer_channels_last(self.network)

    def predict_step(self, batch: tuple[Any, Tensor]) -> None:
        """Write one shard.

        Raises:
            BadScoresError: outputs that are NaN or infinite.
        """
        images, rows = batch
        network = self.network
        outputs = self._rows_of(images, rows)
        of = rows if self.owner is None else outputs[self.owner]
        for name, value in outputs.items():
            if not value.isfinite().all():
                bad = (~value.isfinite()).flatten(1).any(dim=1).nonzero()[0]
                raise BadScoresError(
                    f"the network gives {name} that are NaN or infinite on {self.who} (first at "
                    f"index {int(of[bad])}). Has its training diverged? Train again with a "
                    "smaller learning rate (`lr`), or check the checkpoint."
                )
        head, notes = checked_head(network, outputs)
        notes = {**notes, **withheld_by(network)}
        self.store.write(rows.cpu().numpy(), outputs, kept_head(head), notes)
        self.count += len(rows)

    def _rows_of(self, images: Any, rows: Tensor) -> dict[str, Tensor]:
        """The network's outputs of a batch; an error of its own gets the samples' name."""
        network = self.network
        if self.owner is not None:
            try:
                return rows_of(network, images, rows.tolist(), self.owner)
            except BadScoresError as error:
                raise BadScoresError(f"on {self.who}: {error}") from error
        if self.channels_last and isinstance(images, Tensor) and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with explained(network, images):
            return _in_pieces(
                lambda piece: kept(network, outputs_of(network)(piece), len(tree_leaves(piece)[0])),
                fed(network, images),
            )


def apart(batch: Sequence[tuple[Any, int]]) -> tuple[list[Any], Tensor]:
    """Samples that are not joined, since they need not be of one size, and their positions."""
    return [sample for sample, _ in batch], torch.tensor([row for _, row in batch])


def _in_pieces(outputs: Callable[[Any], dict[str, Tensor]], images: Any) -> dict[str, Tensor]:
    """What a network says of a batch, which a CPU sees in pieces of ``PIECE`` pixels."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.device.type != "cpu":
        return outputs(images)
    size = max(1, PIECE // (images.shape[2] * images.shape[3]))
    if len(images) <= size:
        return outputs(images)
    parts = [outputs(piece) for piece in images.split(size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
