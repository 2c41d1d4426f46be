"""Whether a network still says what the cache has of it.

No reading of code finds all that it hangs on: a file or a variable that it reads when it runs, a
model behind a client. So a network with a user's code runs on a few samples again before cached
outputs are believed; where these differ, they are dropped.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from oodbench import files
from oodbench.caching.places import retire
from oodbench.data.samples import Samples
from oodbench.data.transforms import Transform
from oodbench.hardware import Hardware, Running, gathered
from oodbench.networks.door import explained, fed, kept
from oodbench.networks.models import outputs_of, sample_column_of
from oodbench.networks.rows import rows_of
from oodbench.outputs import Outputs

EACH = 2
"""How many of the first, the middle and the last samples are looked at."""

VARIES = "varies"
"""A file beside outputs of a network that was seen to change although its content did not."""

_varying: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def some_of(n: int) -> list[int]:
    """Positions of a few of n samples: the first, the middle and the last ones."""
    middle = (n - EACH) // 2
    starts = (0, middle, n - EACH)
    return sorted({i for start in starts for i in range(start, start + EACH) if 0 <= i < n})


def tolerance(hardware: Hardware, device: torch.device) -> float:
    """How far outputs of the same network may be apart, as a share of the largest."""
    if "16" in hardware.precision or "8" in hardware.precision:
        return 0.05
    return 1e-3 if device.type == "cpu" else 1e-2  # TF32; the cache may be another device's


def still_says(
    network: nn.Module,
    samples: Samples,
    preprocess: Transform,
    hardware: Hardware,
    cached: Outputs,
) -> bool:
    """Whether a network gives the cached outputs of a few samples; it stays as it is.

    Args:
        network: has ``outputs``.
        samples: as many as there are cached rows.
        preprocess: from sample to tensor.
        hardware: where it runs.
        cached: what it is compared with.
    """
    rows = some_of(len(samples))
    inputs = [preprocess(samples[row]) for row in rows]
    running = Running(network, hardware)
    owner = sample_column_of(network)
    with running:
        returned = _returned(running, inputs, rows, owner)
        fresh = {name: v.float().cpu() for name, v in returned.items()}
    expected = dict(cached.columns())
    there = torch.as_tensor(rows)
    if owner is not None:
        there = torch.isin(expected[owner], there).nonzero().flatten()
    expected = {name: value[there].float() for name, value in expected.items()}
    if "labels" not in fresh:  # they are the samples'
        expected.pop("labels", None)
    limit = tolerance(hardware, running.device)
    return expected.keys() == fresh.keys() and all(
        alike(expected[name], fresh[name], limit) for name in expected
    )


def _returned(
    running: Running, samples: list[Any], rows: list[int], owner: str | None
) -> dict[str, Tensor]:
    network = running.network
    if owner is not None:
        return rows_of(network, [_put(sample, running) for sample in samples], rows, owner)
    inputs = _put(default_collate(samples), running)
    with explained(network, inputs):
        return kept(network, outputs_of(network)(fed(network, inputs)), len(rows))


def _put(batch: Any, running: Running) -> Any:
    if isinstance(batch, dict):
        return {name: _put(part, running) for name, part in batch.items()}
    return running.put(batch) if isinstance(batch, Tensor) else batch


def alike(known: Tensor, fresh: Tensor, limit: float) -> bool:
    """Whether two tensors differ by at most ``limit`` of the largest value."""
    if known.shape != fresh.shape:
        return False
    if known.numel() == 0:
        return True
    scale = float(known.abs().max())
    return bool(np.allclose(known.numpy(), fresh.numpy(), rtol=0, atol=limit * max(scale, 1e-12)))


def agreed(value: bool) -> bool:
    """Whether it holds in all processes of a distributed run."""
    return all(gathered(value))


def drop(folder: Path) -> None:
    """Remove finished outputs; those that another process has begun anew stay.

    Raises:
        StorageError: they cannot be removed.
    """
    with files.locked(folder):
        if not (folder / "outputs.json").is_file():
            return
        retire(folder)


def note_varying(network: nn.Module) -> None:
    """Note that a network's content does not tell what it says."""
    _varying.add(network)


def varies(network: nn.Module) -> bool:
    """Whether a network was noted; see :func:`note_varying`."""
    return network in _varying


def changed_text(name: str, where: str) -> str:
    """The warning that a network no longer gives its cached outputs."""
    return (
        f"{name} gives other outputs on {where} than those in the cache, although its weights and "
        "code are the same: what it reads when it runs (a file, the environment, a remote model) "
        "has changed, or it is random. The cached outputs were dropped and it runs again; its "
        "rows say that its weights are unknown."
    )
