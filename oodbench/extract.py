"""Network x dataset -> Outputs: once, sharded, resumable, and cached by content.

A network that is a linear head on a frozen ``trunk`` is not run itself: its trunk is, and another
head on the same trunk costs no pass.

How the arrays lie on disk while they are filled is told in ``oodbench.caching.store``.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn
from torch.utils._pytree import tree_leaves

from oodbench import files
from oodbench.caching import kept, probe
from oodbench.caching.description import Description, describe
from oodbench.caching.fingerprint import cache_key, unknown
from oodbench.caching.parts import Parts
from oodbench.caching.places import folder_of, sweep
from oodbench.caching.store import Store, discard, stored
from oodbench.caching.trunks import frozen_trunk_of, headed
from oodbench.caching.unfinished import Unfinished
from oodbench.data.samples import MultimodalSamples, Samples
from oodbench.data.transforms import Transform
from oodbench.disk import leftovers
from oodbench.disk.locks import alone
from oodbench.errors import BadScoresError, DataError, OODBenchError, OODBenchWarning, StorageError
from oodbench.hardware import Hardware, barrier, is_first_process, quiet_lightning
from oodbench.networks.classifier import Classifier
from oodbench.networks.door import (
    called,
    check_weights,
)
from oodbench.networks.models import (
    Network,
    as_module,
    copied,
    network_of,
    sample_column_of,
)
from oodbench.networks.rows import AT_ONCE
from oodbench.outputs import Outputs
from oodbench.passes import Pass, Shards, loader_of
from oodbench.runtime.process import undisturbed

CLIPS = 2**26
"""Most values that a shard of samples of several modalities holds, or of images in their own sizes:
11 clips of 32 x 224 x 224, or 72 photographs of 640 x 480.

Images of one size are small enough for any batch; a batch of as many clips would fill the memory.
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
    and numbers (``Hardware.numbers``); after that the result is read from the cache. A run that was
    killed goes on with the shards that are missing.

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
    if (trunk := frozen_trunk_of(network)) is not None:
        below = extract(trunk, samples, preprocess, hardware=hardware, on_forward=on_forward)
        return headed(below, network_of(network).head())
    about = describe(network)
    key = cache_key(network, samples, preprocess, hardware.numbers, about)
    job = Job(network, network is model, samples, preprocess, hardware, on_forward)
    if key is None:
        reason = unknown(network, about) or (
            f"the preprocessing {preprocess!r} cannot be told apart by its content, so the outputs "
            "for it are not cached. Use an oodbench Preprocess, or give it a __repr__ that says "
            "all that it does."
        )
        warnings.warn(reason, OODBenchWarning, stacklevel=2)
        return _uncached(job, reason)
    with contextlib.ExitStack() as held:
        cached = lookup(key, job, held)
        folder = folder_of(key)
        if cached is not None and _believed(job, about, folder, cached):
            return cached
        is_new = cached is None
        if not is_new:
            del cached  # an open file cannot be moved everywhere
            files.writable_cache()
            probe.drop(folder)
            barrier()
            cached = lookup(key, job, held)
        if cached is not None:
            return cached
        folder = folder_of(key)
        store = job.store(folder)
        held.callback(store.close)
        job.fill(store)
        job.finish(store, key, varies=not is_new)
        return Outputs.load(folder, key=key)


def lookup(key: str, job: Job, held: contextlib.ExitStack) -> Outputs | None:
    """What is cached; or None, and the folder is this run's to fill until ``held`` ends."""
    first = is_first_process(job.hardware)
    cached = _claim(key, job, held) if first else None
    barrier()
    return cached if first else stored(folder_of(key), key)[0]


def _claim(key: str, job: Job, held: contextlib.ExitStack) -> Outputs | None:
    folder = folder_of(key)
    cached, damage = stored(folder, key)
    if cached is not None:
        return cached
    try:
        root = files.writable_cache()
        what = f"the outputs for {job.samples.name}"
        held.enter_context(alone(root / "locks" / f"{key}.lock", what))
        folder = folder_of(key)
        cached, damage = stored(folder, key)  # somebody may have been quicker
        if damage is not None:
            discard(folder, damage)
        if cached is None:
            sweep(key)
            store = job.store(folder_of(key))
            held.callback(store.close)
            store.prepare()
    except StorageError as error:
        if damage is None:
            raise
        raise StorageError(
            f"what is cached in {folder} cannot be used ({damage}), and it cannot be made again: "
            f"{error}"
        ) from error
    return cached


def _uncached(job: Job, reason: str) -> Outputs:
    folder = files.writable_cache() / "outputs" / leftovers.temporary_name("uncached")
    store = job.store(folder)
    try:
        store.prepare()
        job.fill(store, unshared=reason)
        store.finish(job.samples.labels, "")
        return Outputs.load(folder, key="")
    finally:
        store.close()
        leftovers.remove(folder)  # what is mapped stays until it is let go


@dataclass
class Job:
    """One pass of a network over all samples.

    Args:
        network: the network.
        borrowed: whether it is the caller's own.
        samples: what it sees.
        preprocess: from image to tensor.
        hardware: where and how to run.
        on_forward: called with the number of samples that it saw.
    """

    network: nn.Module
    borrowed: bool
    samples: Samples
    preprocess: Transform
    hardware: Hardware
    on_forward: Callable[[int], None] | None

    def store(self, folder: Path) -> Unfinished:
        """The arrays in a folder."""
        n, owner = len(self.samples), sample_column_of(self.network)
        if owner is None:
            return Store(folder, n, self._shard_size)
        return Parts(folder, n, self._shard_size, owner)

    @cached_property
    def _shard_size(self) -> int:
        """Samples per shard; of images in their own sizes, whole forward passes."""
        in_own_size = sample_column_of(self.network) is not None
        most = self.hardware.batch_size
        if not isinstance(self.samples, MultimodalSamples) and not in_own_size:
            return most
        first = self.preprocess(self.samples[0])
        values: int = sum(part.numel() for part in tree_leaves(first))
        size = min(most, max(1, CLIPS // values))
        return max(AT_ONCE, size - size % AT_ONCE) if in_own_size else size

    def fill(self, store: Unfinished, unshared: str | None = None) -> None:
        """Do the shards that are missing; what cannot be read back as it was written, again.

        Args:
            store: where they lie.
            unshared: why several processes cannot do it together, if they cannot.
        """
        for _ in range(3):
            missing = store.missing()
            if not missing:
                return
            try:
                count = self._predict(store, missing, unshared)
            except (BadScoresError, DataError, StorageError) as error:
                # Bad content gets no other key, so nothing will ever go on with these shards; and a
                # full disk is no better with empty ones.
                if not isinstance(error, StorageError) or len(store.missing()) == store.shards:
                    store.close()
                    leftovers.remove(store.folder)
                raise
            barrier()
            if is_first_process(self.hardware):
                store.check()
            barrier()
            if self.on_forward is not None:
                self.on_forward(count)
        if store.missing():
            raise StorageError(
                f"what is written to {store.folder} is not what is read there afterwards. Is the "
                "disk failing, or does another program write there?"
            )

    def finish(self, store: Unfinished, key: str, *, varies: bool = False) -> None:
        """Make outputs complete, and readable under their key.

        Args:
            store: where they lie.
            key: of the cache.
            varies: whether the network was seen to say something else before.
        """
        if is_first_process(self.hardware):
            kept.note(store.folder, called(self.network), self.samples.name)  # before it is whole
            store.finish(self.samples.labels, key)
            if varies:
                (store.folder / probe.VARIES).touch()
        barrier()

    def a_pass(self, store: Unfinished) -> Pass:
        """The network's pass over samples, in evaluation mode."""
        # Trainer moves a network to its device and leaves it there; the caller's own must stay.
        network = copied(self.network) if self.borrowed else self.network
        return Pass(network.eval(), store, self.samples.name, self.preprocess, self.hardware)

    def _predict(self, store: Unfinished, missing: list[int], unshared: str | None) -> int:
        run = self.a_pass(store)
        shards = Shards(len(self.samples), store.size, missing)
        loader = loader_of(run.network, self.samples, self.preprocess, shards, self.hardware)
        with quiet_lightning():
            trainer = self.hardware.trainer(
                what=f"outputs of {self.samples.name}", logger=False, inference_mode=True
            )
            if unshared is not None and trainer.world_size > 1:
                raise OODBenchError(
                    f"several processes cannot share outputs that are not cached. {unshared} "
                    'Or run in one process (`devices="1"`).'
                )
            trainer.predict(run, loader, return_predictions=False)
        return run.count


def _believed(job: Job, about: Description, folder: Path, cached: Outputs) -> bool:
    """Whether the network gives the cached outputs of a few samples today, too.

    A network without a user's code is not asked.
    """
    network, samples = job.network, job.samples
    if not about.is_users:
        return True
    if (folder / probe.VARIES).exists():
        probe.note_varying(network)
    if probe.agreed(probe.still_says(network, samples, job.preprocess, job.hardware, cached)):
        return True
    probe.note_varying(network)
    warnings.warn(probe.changed_text(called(network), samples.name), OODBenchWarning, stacklevel=3)
    return False


def extracted(
    model: nn.Module, samples: Samples, preprocess: Transform, *, hardware: Hardware | None = None
) -> Outputs | None:
    """What :func:`extract` has in its cache, or None where the network did not see them all yet."""
    numbers = (hardware or Hardware()).numbers
    network = as_network(model)
    trunk = frozen_trunk_of(network)
    key = cache_key(network if trunk is None else trunk, samples, preprocess, numbers)
    cached = key and stored(folder_of(key), key)[0]
    if not cached:
        return None
    return cached if trunk is None else headed(cached, network_of(network).head())
