"""Network x dataset -> Outputs: once, sharded, resumable, and cached by content.

A network that is a linear head on a frozen ``trunk`` is not run itself: its trunk is, and another
head on the same trunk costs no pass.

The arrays are laid out on disk at their full size and filled shard by shard; a byte a shard says
that it is done. So a run that is killed at any moment goes on where it stopped, several processes
fill one set of files, and nothing is ever merged or copied.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable
from urllib.parse import quote

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, Sampler

from oodbench import files, probe
from oodbench.classifier import Classifier
from oodbench.description import Description, describe
from oodbench.detector import Detector, check_scores
from oodbench.door import at_door, check_weights, explained, fed, kept, kept_head
from oodbench.errors import BadScoresError, DataError, OODBenchError, OODBenchWarning
from oodbench.fingerprint import cache_key, unknown
from oodbench.hardware import (
    Hardware,
    barrier,
    is_first_process,
    quiet_lightning,
    rank_and_world,
)
from oodbench.heads import checked_head
from oodbench.memory_format import prefer_channels_last
from oodbench.models import as_module, copied
from oodbench.outputs import FORMAT, Head, Outputs, head_meta, to_numpy
from oodbench.process import undisturbed
from oodbench.samples import MultimodalSamples, Samples
from oodbench.transforms import Transform


@runtime_checkable
class Network(Protocol):
    """What extraction asks of a network: a module with ``outputs(images)`` and ``head()``."""

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Named tensors with one row a sample; ``features`` and ``logits`` among them."""

    def head(self) -> Head | None:
        """The linear layer behind the features, where there is one."""


PIECE = 2**19
"""Pixels that a CPU takes at a time, over all images of a piece: 10 of 224 x 224, 512 of 32 x 32.

Larger activations leave the caches, and the memory for them is mapped and returned at each layer.
"""


CLIPS = 2**26
"""Most values that a shard of samples of several modalities holds: 11 clips of 32 x 224 x 224.

Images are small enough for any batch; a batch of as many clips would fill the memory.
"""


def as_network(model: nn.Module, layer: str | None = None, classes: int | None = None) -> nn.Module:
    """A module with ``outputs`` and ``head``: the model itself, or a :class:`Classifier` of it.

    Args:
        model: any classifier.
        layer: the name of its linear head, if that cannot be found.
        classes: how many it knows, if that is known.

    Raises:
        OptionError: it is no module.
    """
    model = as_module(model)
    check_weights(model)
    if isinstance(model, Network) and layer is None:
        return model
    return Classifier(model, layer, classes)


class _Images(Dataset[tuple[Any, int]]):
    def __init__(self, samples: Samples, preprocess: Transform) -> None:
        self.samples = samples
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.preprocess(self.samples[index]), index


class _Shards(Sampler[list[int]]):
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


class _Store:
    """The arrays of one extraction, full-sized on disk and filled shard by shard."""

    def __init__(self, folder: Path, n: int, size: int) -> None:
        self.folder, self.n, self.size = folder, n, size
        self.arrays: dict[str, np.ndarray] = {}
        self.described = folder / "described.json"
        self.done = self._array("done", (-(-n // size),), np.dtype(np.uint8))

    def _array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        if not path.exists():
            # Made aside and linked into place: of two processes one wins, and none sees a part.
            temporary = self.folder / f".{name}.{os.getpid()}.part"
            made = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
            made.flush()
            del made
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
            temporary.unlink()
        array = np.lib.format.open_memmap(path, mode="r+")
        if array.shape != shape or array.dtype != dtype:
            raise OODBenchError(
                f"the cached outputs in {self.folder} have {name} of {array.dtype}{array.shape}, "
                f"the network gives {dtype}{shape}. Remove that folder and run again."
            )
        return array

    def missing(self) -> list[int]:
        return np.flatnonzero(self.done == 0).tolist()

    def write(
        self,
        rows: np.ndarray,
        columns: dict[str, Tensor],
        head: Head | None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """One shard; what describes the arrays is on disk before the first shard counts.

        Raises:
            OODBenchError: other columns than in other shards.
        """
        notes = dict(notes or {})
        start, stop = int(rows[0]), int(rows[-1]) + 1
        for name, value in columns.items():
            array = to_numpy(value)
            if name not in self.arrays:
                shape = (self.n, *array.shape[1:])
                self.arrays[name] = self._array(_column(name), shape, array.dtype)
            self.arrays[name][start:stop] = array
        if not self.described.is_file():
            if head is not None:
                _save(self.folder / "head.weight.npy", to_numpy(head.weight))
                _save(self.folder / "head.bias.npy", to_numpy(head.bias))
            files_of = {
                name if name in ("features", "logits") else f"extra/{name}": f"{_column(name)}.npy"
                for name in columns
            }
            meta = {"format": FORMAT, "columns": files_of, **head_meta(head), "notes": notes}
            files.write_json(self.described, meta)
        described = json.loads(self.described.read_text(encoding="utf-8"))
        names = {name.removeprefix("extra/") for name in described["columns"]}
        if names != set(columns):
            raise OODBenchError(
                f"the network gives {', '.join(sorted(columns))} for some images and "
                f"{', '.join(sorted(names))} for others. Wrap it in a module with outputs(images) "
                "and head() that gives the same for all."
            )
        if described["head"] and head is None:
            # it was believed by other images
            files.write_json(self.folder / "headless.json", notes)
        self.done[start // self.size] = 1

    def finish(self, labels: np.ndarray) -> None:
        """Describe the arrays as :meth:`Outputs.load` reads them; this makes them complete."""
        _save(self.folder / "labels.npy", labels)
        meta = json.loads(self.described.read_text(encoding="utf-8"))
        meta["columns"]["labels"] = "labels.npy"
        if (headless := self.folder / "headless.json").is_file():
            notes = json.loads(headless.read_text(encoding="utf-8"))
            meta = {**meta, **head_meta(None), "notes": {**meta["notes"], **notes}}
        for leftover in self.folder.glob(".*.part"):
            leftover.unlink(missing_ok=True)
        files.write_json(self.folder / "outputs.json", meta)


def _column(name: str) -> str:
    # no two names are the same file, nor is one of them a file of ours
    return name if name in ("features", "logits") else quote(f"extra/{name}", safe="")


def _save(path: Path, array: np.ndarray) -> None:
    with files.replacing(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, array, allow_pickle=False)


class _Extraction(pl.LightningModule):
    def __init__(self, network: nn.Module, store: _Store, who: str) -> None:
        super().__init__()
        self.network = network
        self.store = store
        self.who = who
        self.count = 0
        self.channels_last = False
        # with fewer shards than processes, some have nothing to do
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def on_predict_start(self) -> None:
        self.channels_last = prefer_channels_last(self.network)

    def predict_step(self, batch: tuple[Any, Tensor]) -> None:
        images, rows = batch
        if self.channels_last and isinstance(images, Tensor) and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        network: Any = self.network
        with explained(network, images):
            outputs = _in_pieces(
                lambda piece: kept(network, network.outputs(piece), len(tree_leaves(piece)[0])),
                fed(network, images),
            )
        for name, value in outputs.items():
            if not value.isfinite().all():
                bad = (~value.isfinite()).flatten(1).any(dim=1).nonzero()[0]
                raise BadScoresError(
                    f"the network gives {name} that are NaN or infinite on {self.who} (first at "
                    f"index {int(rows[bad])}). Has its training diverged? Train again with a "
                    "smaller learning rate (--lr), or check the checkpoint."
                )
        head, notes = checked_head(network, outputs)
        self.store.write(rows.cpu().numpy(), outputs, kept_head(head), notes)
        self.count += len(rows)


def _in_pieces(outputs: Callable[[Any], dict[str, Tensor]], images: Any) -> dict[str, Tensor]:
    """What a network says of a batch, which a CPU sees in pieces of ``PIECE`` pixels."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.device.type != "cpu":
        return outputs(images)
    size = max(1, PIECE // (images.shape[2] * images.shape[3]))
    if len(images) <= size:
        return outputs(images)
    parts = [outputs(piece) for piece in images.split(size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@undisturbed()
def extract(
    model: nn.Module,
    samples: Samples,
    preprocess: Transform,
    *,
    layer: str | None = None,
    hardware: Hardware | None = None,
    on_forward: Callable[[int], None] | None = None,
) -> Outputs:
    """What a network says of a dataset: its outputs, labels and head, memory-mapped.

    The forward pass runs once for the same weights, architecture, images, labels, preprocessing
    and precision; after that the result is read from the cache. A run that was killed goes on
    with the shards that are missing.

    Args:
        model: a network with ``outputs`` and ``head``, or any PyTorch classifier, which is copied
            and neither moved nor changed.
        samples: the images.
        preprocess: from image to tensor. One without a content key (see
            ``transforms.content_key``) is warned about and its outputs are not reused.
        layer: name of the linear head of a classifier, if it cannot be found.
        hardware: where and how to run.
        on_forward: called with the number of samples that went through the network.

    Raises:
        StorageError: the cache cannot be written to.
        BadScoresError: the network gives NaN or infinite values.
        DataError: an image cannot be read.
    """
    hardware = hardware or Hardware()
    network = as_network(model, layer)
    if len(samples) == 0:
        raise BadScoresError(f"{samples.name} holds no images.")
    if (trunk := _trunk_of(network)) is not None:
        seen = extract(trunk, samples, preprocess, hardware=hardware, on_forward=on_forward)
        return _headed(seen, cast(Any, network).head())
    about = describe(network)
    key = cache_key(network, samples, preprocess, hardware.precision, about)
    cached = key is not None
    is_new = True
    if key is None:
        reason = unknown(network, about) or (
            f"the preprocessing {preprocess!r} cannot be told apart by its content, so the outputs "
            "for it are not cached. Use an oodbench Preprocess, or give it a __repr__ that says "
            "all that it does."
        )
        warnings.warn(reason, OODBenchWarning, stacklevel=2)
        key = files.digest([os.getpid(), np.random.default_rng().bytes(16).hex()])
    elif (files.cache_dir() / "outputs" / key / "outputs.json").is_file():
        found = _believed(network, samples, preprocess, hardware, about, key)
        if found is not None:
            return found
        is_new = False
    root = files.writable_cache() / "outputs"
    folder = root / key
    folder.mkdir(parents=True, exist_ok=True)
    if network is model:
        # Trainer moves a network to its device and leaves it there; the caller's own must stay.
        network = copied(network)
    size = _shard_size(samples, preprocess, hardware.batch_size)
    settings = folder / "shards.json"
    if settings.is_file():
        size = int(json.loads(settings.read_text())["size"])
    else:
        files.write_json(settings, {"size": size})
    store = _Store(folder, len(samples), size)
    missing = store.missing()
    if missing:
        run = _Extraction(network.eval(), store, samples.name)
        loader = DataLoader(
            _Images(samples, preprocess),
            batch_sampler=_Shards(len(samples), size, missing),
            num_workers=hardware.workers_for(samples, preprocess),
        )
        with quiet_lightning():
            trainer = hardware.trainer(logger=False, inference_mode=True)
            if not cached and trainer.world_size > 1:
                raise OODBenchError(
                    f"several processes cannot share outputs that are not cached. {reason} "
                    "Or run in one process (--devices 1)."
                )
            try:
                trainer.predict(run, loader, return_predictions=False)
            except (BadScoresError, DataError):
                # The key is that of the bad content: nothing will ever go on with these shards.
                shutil.rmtree(folder, ignore_errors=True)
                raise
        barrier()
        if on_forward is not None:
            on_forward(run.count)
    if is_first_process(hardware):
        store.finish(samples.labels)
    barrier()
    if not is_new and is_first_process(hardware):
        (folder / probe.VARIES).touch()
    outputs = Outputs.load(folder)
    if not cached:
        shutil.rmtree(folder, ignore_errors=True)  # what is mapped stays until it is let go
    return outputs


def _believed(
    network: nn.Module,
    samples: Samples,
    preprocess: Transform,
    hardware: Hardware,
    about: Description,
    key: str,
) -> Outputs | None:
    """Cached outputs, if the network gives the same today on a few samples; else they are dropped.

    A network without a user's code is not asked.
    """
    folder = files.cache_dir() / "outputs" / key
    found = Outputs.load(folder)
    if not about.is_users:
        return found
    if (folder / probe.VARIES).exists():
        probe.note_varying(network)
    if probe.agreed(probe.still_says(network, samples, preprocess, hardware, found)):
        return found
    probe.note_varying(network)
    inner = network.model if isinstance(network, Classifier) else network
    warnings.warn(
        probe.changed_text(type(inner).__name__, samples.name), OODBenchWarning, stacklevel=3
    )
    del found  # an open file cannot be moved everywhere
    files.writable_cache()
    probe.drop(folder)
    barrier()
    return None


def _shard_size(samples: Samples, preprocess: Transform, most: int) -> int:
    if not isinstance(samples, MultimodalSamples):
        return most
    values = sum(part.numel() for part in tree_leaves(preprocess(samples[0])))
    return min(most, max(1, CLIPS // values))


def extracted(
    model: nn.Module, samples: Samples, preprocess: Transform, *, hardware: Hardware | None = None
) -> Outputs | None:
    """What :func:`extract` has in its cache, or None where the network did not see them all yet."""
    precision = (hardware or Hardware()).precision
    network = as_network(model)
    trunk = _trunk_of(network)
    key = cache_key(network if trunk is None else trunk, samples, preprocess, precision)
    folder = files.cache_dir() / "outputs" / (key or "none")
    if not (folder / "outputs.json").is_file():
        return None
    seen = Outputs.load(folder)
    return seen if trunk is None else _headed(seen, cast(Any, network).head())


def _trunk_of(network: nn.Module) -> nn.Module | None:
    """The frozen network whose features a network's head reads, if it is of that kind."""
    trunk = getattr(network, "trunk", None)
    return trunk if isinstance(trunk, nn.Module) and isinstance(trunk, Network) else None


def _headed(seen: Outputs, head: Head | None) -> Outputs:
    """What a trunk says, with the logits of a head on its features; none without a head."""
    if head is None:
        return seen
    rows = max(1, 2**22 // seen.features.shape[1])
    logits = _scratch(len(seen), len(head.weight))
    for start in range(0, len(seen), rows):
        piece = seen.features[start : start + rows].float()
        logits[start : start + rows] = to_numpy(head(piece))
    return replace(seen, logits=torch.from_numpy(logits), head=head)


def _scratch(n: int, width: int) -> np.ndarray:
    """An array ``[n, width]`` float32: in memory, or in a file without a name where it is large."""
    if n * width <= 2**26:
        return np.empty((n, width), dtype=np.float32)
    folder = files.writable_cache()
    with tempfile.TemporaryFile(dir=folder) as handle:
        return np.memmap(handle, dtype=np.float32, mode="w+", shape=(n, width))


@dataclass
class _Loaded:
    """A copy of the network on its device, and batches of preprocessed images with their rows."""

    network: nn.Module
    batches: Iterator[tuple[Tensor, Tensor]]


def _load(model: nn.Module, samples: Samples, preprocess: Transform, hardware: Hardware) -> _Loaded:
    network = copied(as_network(model)).eval()
    network.preprocess = preprocess
    device = hardware.trainer(logger=False).strategy.root_device
    network.to(device)
    at_door(network)
    loader = DataLoader(
        _Images(samples, preprocess),
        batch_size=hardware.batch_size,
        num_workers=hardware.workers_for(samples, preprocess),
    )
    return _Loaded(network, _with_checked_head(network, loader, device))


def _with_checked_head(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches on the device, once a network's own head was compared with what it gives."""
    for number, (images, rows) in enumerate(batches):
        images = images.to(device)
        if number == 0 and not isinstance(network, Classifier):
            with torch.no_grad():
                if checked_head(network, cast(Any, network).outputs(images[:8]))[0] is None:
                    network.head = lambda: None  # type: ignore[assignment]
        yield images, rows


def fit_with_network(
    detector: Detector,
    model: nn.Module,
    samples: Samples,
    preprocess: Transform,
    *,
    hardware: Hardware | None = None,
) -> None:
    """Fit a detector that learns from images with the network at hand (``fit_batches``).

    The network is copied and put in evaluation mode.
    """
    with quiet_lightning():
        loaded = _load(model, samples, preprocess, hardware or Hardware())
        labels = torch.from_numpy(samples.labels)
        detector.fit_batches(
            loaded.network,
            ((images, labels[rows].to(images.device)) for images, rows in loaded.batches),
        )


def score_with_network(
    detector: Detector,
    model: nn.Module,
    samples: Samples,
    preprocess: Transform,
    *,
    hardware: Hardware | None = None,
) -> Tensor:
    """Scores ``[N]`` of a detector that needs the network itself (``score_batch``), gradients on.

    The network is copied and put in evaluation mode; nothing is cached.

    Raises:
        BadScoresError: scores that are not ``[B]`` finite floats.
    """
    with quiet_lightning():
        loaded = _load(model, samples, preprocess, hardware or Hardware())
        scores = [
            detector.score_batch(loaded.network, images).detach().cpu()
            for images, _ in loaded.batches
        ]
    return check_scores(torch.cat(scores), len(samples), detector.label)
