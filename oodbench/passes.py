"""A network's pass over samples: whole shards, each process its share, into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, Sampler

from oodbench.caching.unfinished import Unfinished
from oodbench.data.samples import Samples
from oodbench.data.transforms import Transform
from oodbench.errors import BadScoresError, OODBenchError, StorageError
from oodbench.feeding import Arrival, sent_by, to_device
from oodbench.hardware import Hardware, rank_and_world
from oodbench.networks.classifier import Classifier
from oodbench.networks.compiled import check_compiler, compiled_outputs
from oodbench.networks.door import (
    explained,
    fed,
    kept,
    kept_head,
)
from oodbench.networks.heads import Doubt, doubt_of
from oodbench.networks.memory_format import laid_out, prefer_channels_last
from oodbench.networks.models import (
    head_notes_of,
    outputs_of,
    sample_column_of,
    withheld_by,
)
from oodbench.networks.rows import rows_of
from oodbench.outputs import Head
from oodbench.runtime.loading import Loader

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


@dataclass
class _Shard:
    """What a network said of some samples, on its way to memory that the CPU reads.

    Args:
        rows: positions of the samples, on the CPU.
        outputs: named tensors.
        head: of the network, where it is one.
        notes: what is to be said of outputs that are not there.
        doubt: about the head, on these samples; its number is on its way like the outputs.
        arrives: what CUDA has done by then; None of outputs that are there.
    """

    rows: Tensor
    outputs: dict[str, Tensor]
    head: Head | None
    notes: dict[str, str]
    doubt: Doubt | None = None
    arrives: torch.cuda.Event | None = None

    def leave(self) -> _Shard:
        """The same, with its outputs on their way: of CUDA, without waiting for them.

        To wait in each step would leave the device without work while the shard is written.
        """
        is_cuda = any(value.is_cuda for value in self.outputs.values())
        move = _on_its_way if is_cuda else Tensor.cpu
        on_way = {name: move(value) for name, value in self.outputs.items()}
        doubt = None if self.doubt is None else replace(self.doubt, gap=move(self.doubt.gap))
        event = None
        if is_cuda:
            event = torch.cuda.Event()
            event.record()
        return replace(self, outputs=on_way, doubt=doubt, arrives=event)

    def arrived(self) -> dict[str, Tensor]:
        """The outputs, once they are there."""
        if self.arrives is not None:
            self.arrives.synchronize()
        return self.outputs


def _on_its_way(value: Tensor) -> Tensor:
    """Pinned memory that a tensor of CUDA is being copied to."""
    pinned = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
    return pinned.copy_(value, non_blocking=True)


class Pass(pl.LightningModule):
    """A network that sees samples once, and a store that keeps what it says.

    Args:
        network: has ``outputs`` and ``head``.
        store: where its outputs go.
        who: what messages call the samples.
        preprocess: whose normalisation is left to the device.
        hardware: how it runs.

    Attributes:
        count: how many samples this process has seen.
    """

    def __init__(
        self,
        network: nn.Module,
        store: Unfinished,
        who: str,
        preprocess: Transform,
        hardware: Hardware,
    ) -> None:
        super().__init__()
        self.network = network
        self.arrival = Arrival(preprocess)
        self.machine = hardware
        self.store = store
        self.who = who
        self.count = 0
        self.channels_last = False
        # with fewer shards than processes, some have nothing to do
        self.allow_zero_length_dataloader_with_multiple_devices = True

        self.owner = sample_column_of(network)
        self._waiting: _Shard | None = None
        self._outputs: Callable[[Any], dict[str, Tensor]] | None = None

    def transfer_batch_to_device(
        self, batch: tuple[Any, Tensor], device: torch.device, dataloader_idx: int
    ) -> tuple[Any, Tensor]:
        """Move the samples; their positions are read here, where they would have to come back."""
        images, rows = batch
        return self.arrival(to_device(images, device)), rows

    def on_predict_start(self) -> None:
        """Have convolutions keep their weights as they run quickest.

        Raises:
            OptionError: networks are to be compiled, and cannot be.
        """
        # a network of images in their own sizes copies them into batches of the usual layout
        asked = self.machine.channels_last
        self.channels_last = self.owner is None and prefer_channels_last(self.network, asked)
        if self.machine.compile:
            check_compiler(self.device.type)

    def predict_step(self, batch: tuple[Any, Tensor]) -> None:
        """Write one shard.

        Raises:
            BadScoresError: outputs that are NaN or infinite.
        """
        images, rows = batch
        network = self.network
        outputs = self._rows_of(images, rows)
        if isinstance(network, Classifier):  # what it has checked itself waits for the outputs
            head, doubt = None, network.postponed()
        else:
            head, doubt = doubt_of(network, outputs)
        notes = {**(head_notes_of(network) or {}), **withheld_by(network)}
        shard = _Shard(rows, outputs, head, notes, doubt)
        before, self._waiting = self._waiting, shard.leave()
        if before is not None:
            self._write(before)
        if self._waiting.arrives is None:
            self.finish()

    def on_predict_end(self) -> None:
        """Write the last shard."""
        self.finish()

    def finish(self) -> None:
        """Write the shard that is still on its way from the device, if there is one."""
        last, self._waiting = self._waiting, None
        if last is not None:
            self._write(last)

    def _write(self, shard: _Shard) -> None:
        outputs, rows = shard.arrived(), shard.rows
        of = rows if self.owner is None else outputs[self.owner]
        for name, value in outputs.items():
            # a sum that is finite has finite terms, and is quicker than a look at each
            if not value.is_floating_point() or value.sum().isfinite():
                continue
            if not value.isfinite().all():
                bad = (~value.isfinite()).flatten(1).any(dim=1).nonzero()[0]
                raise BadScoresError(
                    f"the network gives {name} that are NaN or infinite on {self.who} (first at "
                    f"index {int(of[bad])}). Has its training diverged? Train again with a "
                    "smaller learning rate (`lr`), or check the checkpoint."
                )
        head, notes = self._head_of(shard)
        self.store.write(rows.numpy(), outputs, kept_head(head), notes)
        self.count += len(rows)

    def _head_of(self, shard: _Shard) -> tuple[Head | None, dict[str, str]]:
        """The head that a shard that has arrived leaves, and what is to be said of it."""
        doubt, network = shard.doubt, self.network
        gap = None if doubt is None else float(doubt.gap)
        if isinstance(network, Classifier):
            network.settle(doubt, gap)
            return network.head(), {**shard.notes, **network.notes}
        said = None if doubt is None else doubt.settled(gap)
        return (shard.head, shard.notes) if said is None else (None, {**shard.notes, "head": said})

    def _say(self, images: Any) -> dict[str, Tensor]:
        """The network's outputs, compiled where that is asked for."""
        if self._outputs is None:
            is_compiled = self.machine.compile
            network = self.network
            self._outputs = (
                compiled_outputs(network, images) if is_compiled else outputs_of(network)
            )
        return self._outputs(images)

    def _rows_of(self, images: Any, rows: Tensor) -> dict[str, Tensor]:
        """The network's outputs of a batch; an error of its own gets the samples' name."""
        network = self.network
        if self.owner is not None:
            try:
                return rows_of(network, images, rows.tolist(), self.owner)
            except BadScoresError as error:
                raise BadScoresError(f"on {self.who}: {error}") from error
        images = laid_out(images, self.channels_last)
        with explained(network, images):
            return _in_pieces(
                lambda piece: kept(network, self._say(piece), len(tree_leaves(piece)[0])),
                fed(network, images),
            )


class JointPass(pl.LightningModule):
    """Several networks that see the same samples, each of which is read and decoded once.

    Args:
        passes: each network's own pass.
        missing: the shards that each is to do.

    Attributes:
        failures: what a network raised, by its position; it sees no further samples.
    """

    def __init__(self, passes: Sequence[Pass], missing: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.passes = nn.ModuleList(passes)
        self.missing = [frozenset(shards) for shards in missing]
        self.failures: dict[int, Exception] = {}
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def transfer_batch_to_device(
        self, batch: tuple[Any, Tensor], device: torch.device, dataloader_idx: int
    ) -> tuple[Any, Tensor]:
        """Move the samples; see :meth:`Pass.transfer_batch_to_device`."""
        return self._own(0).transfer_batch_to_device(batch, device, dataloader_idx)

    def on_predict_start(self) -> None:
        """As each network's own pass starts."""
        self._each(lambda one: one.on_predict_start())

    def predict_step(self, batch: tuple[Any, Tensor]) -> None:
        """Each network's own step, of those that have not done the shard."""
        size = self._own(0).store.size
        shard = int(batch[1][0]) // size
        self._each(lambda one: one.predict_step(batch), shard)

    def on_predict_end(self) -> None:
        """Write each network's last shard."""
        self._each(lambda one: one.finish())

    def count_of(self, number: int) -> int:
        """How many samples a network has seen in this process."""
        return self._own(number).count

    def _own(self, number: int) -> Pass:
        return cast(Pass, self.passes[number])

    def _each(self, do: Callable[[Pass], None], shard: int | None = None) -> None:
        for number, missing in enumerate(self.missing):
            if number in self.failures or (shard is not None and shard not in missing):
                continue
            try:
                do(self._own(number))
            except StorageError:  # the others' outputs would find no room either
                raise
            except OODBenchError as error:  # one network's must not lose the others' outputs
                self.failures[number] = error


def loader_of(
    network: nn.Module,
    samples: Samples,
    preprocess: Transform,
    shards: Shards,
    hardware: Hardware,
) -> Loader:
    """What reads, decodes and preprocesses the shards of samples for a network."""
    return Loader(
        Preprocessed(samples, sent_by(preprocess)),
        batch_sampler=shards,
        num_workers=hardware.workers_for(samples, preprocess),
        collate_fn=None if sample_column_of(network) is None else apart,
        pin_memory=hardware.is_cuda,
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
