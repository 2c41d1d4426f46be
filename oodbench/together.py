"""Several networks in one pass: each sample is read, decoded and preprocessed once for all.

What each says goes into the cache under its own key, as if it had been alone, so that whatever asks
for it afterwards finds it there.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import nn

from oodbench.caching.description import describe
from oodbench.caching.fingerprint import cache_key
from oodbench.caching.places import folder_of
from oodbench.caching.trunks import frozen_trunk_of
from oodbench.caching.unfinished import Unfinished
from oodbench.data.samples import Samples
from oodbench.data.transforms import Transform
from oodbench.disk import leftovers
from oodbench.errors import OODBenchError
from oodbench.extract import Job, as_network, lookup
from oodbench.hardware import Hardware, barrier, gathered, is_first_process, quiet_lightning
from oodbench.networks.models import sample_column_of
from oodbench.passes import JointPass, Shards, loader_of
from oodbench.runtime.process import undisturbed


@undisturbed()
def extract_together(
    models: Sequence[nn.Module],
    samples: Samples,
    preprocess: Transform,
    *,
    hardware: Hardware | None = None,
    on_forward: Callable[[int], None] | None = None,
) -> int:
    """Have several networks see samples in one pass; what they say is cached, see ``extract``.

    Left out are networks whose outputs are cached already or cannot be, and those of images in
    their own sizes. Where fewer than two are left, nothing is done. All of them are on the device
    at the same time. A network that fails is left to fail where it is asked for alone.

    Args:
        models: networks with ``outputs`` and ``head``, or any PyTorch classifiers.
        samples: the images.
        preprocess: from image to tensor, the same for all.
        hardware: where and how they run.
        on_forward: called with the number of samples that went through each network.

    Returns:
        How many networks saw the samples.

    Raises:
        StorageError: the cache cannot be written to.
        DataError: an image cannot be read.
    """
    hardware = hardware or Hardware()
    jobs = _jobs(models, samples, preprocess, hardware, on_forward)
    if len(jobs) < 2:
        return 0
    with contextlib.ExitStack() as held:
        stores: dict[str, Unfinished] = {}
        for key in sorted(jobs):  # in one order everywhere, so that no two wait for each other
            if lookup(key, jobs[key], held) is None:
                stores[key] = jobs[key].store(folder_of(key))
                held.callback(stores[key].close)
        # one that was begun in shards of another size goes on alone
        sizes = Counter(store.size for store in stores.values())
        common = max(sizes, key=lambda size: sizes[size], default=0)
        stores = {key: store for key, store in stores.items() if store.size == common}
        if len(stores) < 2:
            return 0
        failed = _run([jobs[key] for key in stores], list(stores.values()), hardware)
        for number, (key, store) in enumerate(stores.items()):
            job = jobs[key]
            if number in failed:
                store.close()
                if is_first_process(hardware):
                    leftovers.remove(store.folder)
                continue
            job.fill(store)  # what cannot be read back as it was written
            job.finish(store, key)
        return len(stores) - len(failed)


def _jobs(
    models: Sequence[nn.Module],
    samples: Samples,
    preprocess: Transform,
    hardware: Hardware,
    on_forward: Callable[[int], None] | None,
) -> dict[str, Job]:
    """What is to be done by the key of its outputs; a trunk that several stand on once."""
    jobs: dict[str, Job] = {}
    for model in models:
        whole = as_network(model)
        trunk = frozen_trunk_of(whole)
        network = whole if trunk is None else trunk
        if sample_column_of(network) is not None or not len(samples):
            continue
        key = cache_key(network, samples, preprocess, hardware.numbers, describe(network))
        if key is not None:
            borrowed = network is model or trunk is not None
            jobs.setdefault(key, Job(network, borrowed, samples, preprocess, hardware, on_forward))
    return jobs


def _run(jobs: Sequence[Job], stores: Sequence[Unfinished], hardware: Hardware) -> set[int]:
    """One pass over what any of them misses; the positions of those that failed."""
    first = jobs[0]
    missing = [store.missing() for store in stores]
    shards = sorted(set().union(*missing))
    if not shards:
        return set()
    run = JointPass([job.a_pass(store) for job, store in zip(jobs, stores, strict=True)], missing)
    order = Shards(len(first.samples), stores[0].size, shards)
    loader = loader_of(first.network, first.samples, first.preprocess, order, hardware)
    what = f"outputs of {first.samples.name}, {len(jobs)} networks"
    try:
        with quiet_lightning():
            trainer = hardware.trainer(what=what, logger=False, inference_mode=True)
            trainer.predict(run, loader, return_predictions=False)
    except torch.OutOfMemoryError as error:
        raise OODBenchError(
            f"{len(jobs)} networks do not fit on the device together; each sees the images alone."
        ) from error
    barrier()
    failed = {number for some in gathered(sorted(run.failures)) for number in some}
    for number, (job, store) in enumerate(zip(jobs, stores, strict=True)):
        if number in failed:
            continue
        if is_first_process(hardware):
            store.check()
        if job.on_forward is not None:
            job.on_forward(run.count_of(number))
    barrier()
    return failed
