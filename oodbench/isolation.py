"""What one detector does must not reach another: not through its inputs, nor through the process.

Each detector reads outputs of its own (:func:`lent`), which cost no copy where they are mapped from
disk, and are looked at afterwards: one that changed them is named. What it leaves changed in the
process is put back (:func:`kept`).
"""

from __future__ import annotations

import contextlib
import inspect
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from oodbench.detector import changed, check_unchanged
from oodbench.outputs import Outputs


@contextlib.contextmanager
def lent(outputs: Outputs, who: str) -> Iterator[Outputs]:
    """Outputs of its own for a detector, looked at when it is done.

    Args:
        outputs: what the network says, which stays what it is whatever is done to what is lent.
        who: the detector's name.

    Raises:
        ChangedInputsError: the detector changed what it was lent.
    """
    given = outputs.private()
    stamp = given.stamp()
    yield given
    check_unchanged(given, stamp, who)
    # by other ways than torch's: NumPy's views of the same memory
    mine = dict(given.arrays())
    for name, value in outputs.arrays():
        if not _same(mine[name], value):
            raise changed([name], who)
    outputs.looks_of(given)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits, so NaN is the same as itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    mine, theirs = (t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    if mine.device.type != "cpu":
        return torch.equal(mine, theirs)
    # NumPy's, in blocks that stay in the processor's caches, is several times as quick as torch's
    whole = len(mine) // 8 * 8
    a, b = mine.numpy()[:whole].view(np.uint64), theirs.numpy()[:whole].view(np.uint64)
    return torch.equal(mine[whole:], theirs[whole:]) and all(
        np.array_equal(a[i : i + 2**16], b[i : i + 2**16]) for i in range(0, len(a), 2**16)
    )


# --- the process -----------------------------------------------------------------------------


def _flag(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _autocast(kind: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return (
        lambda: torch.is_autocast_enabled(kind),
        lambda value: torch.set_autocast_enabled(kind, value),
    )


def _numpy_numbers() -> tuple[Any, ...]:
    # the global state too: detectors that were not written here may draw from it
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return name, np.asarray(keys).tobytes(), *rest


def _set_numpy_numbers(value: tuple[Any, ...]) -> None:
    name, keys, *rest = value
    np.random.set_state((name, np.frombuffer(keys, np.uint32), *rest))  # noqa: NPY002


def _bytes(state: Tensor) -> bytes:
    return state.numpy().tobytes()


def _state_of(value: bytes) -> Tensor:
    return torch.frombuffer(bytearray(value), dtype=torch.uint8)


def _card_numbers() -> list[bytes] | None:
    ready = torch.cuda.is_initialized()
    return [_bytes(state) for state in torch.cuda.get_rng_state_all()] if ready else None


def _set_card_numbers(value: list[bytes] | None) -> None:
    if value is not None:
        torch.cuda.set_rng_state_all([_state_of(state) for state in value])


def _set_device(value: torch.device) -> None:
    torch.set_default_device(None if value.type == "cpu" else value)


def _set_environment(value: dict[str, str]) -> None:
    for name in set(os.environ) - set(value):
        del os.environ[name]
    os.environ.update(value)


def _folder() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return None


def _set_folder(value: str | None) -> None:
    if value is not None:
        with contextlib.suppress(OSError):
            os.chdir(value)


def _hooks() -> dict[str, dict[Any, Any]]:
    """Hooks on all modules there are, as torch registers them."""
    return {
        name: dict(value)
        for name, value in vars(_module).items()
        if name.startswith("_global_") and isinstance(value, dict)
    }


def _set_hooks(value: dict[str, dict[Any, Any]]) -> None:
    for name, hooks in value.items():
        there = getattr(_module, name)
        there.clear()
        there.update(hooks)


# what is the process's, and how it is read and written; the device comes first, since tensors are
# made where it says
_PROCESS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's default device": (torch.get_default_device, _set_device),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch's deterministic mode": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch's precision of products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    **{f"autocast on {kind}": _autocast(kind) for kind in ("cpu", "cuda", "mps")},
    "torch.backends.mkldnn.enabled": _flag(torch.backends.mkldnn, "enabled"),
    **{
        f"torch.backends.cudnn.{name}": _flag(torch.backends.cudnn, name)
        for name in ("enabled", "benchmark", "deterministic", "allow_tf32")
    },
    "hooks on all modules": (_hooks, _set_hooks),
    "torch's random numbers": (
        lambda: _bytes(torch.get_rng_state()),
        lambda value: torch.set_rng_state(_state_of(value)),
    ),
    "CUDA's random numbers": (_card_numbers, _set_card_numbers),
    "NumPy's random numbers": (_numpy_numbers, _set_numpy_numbers),
    "NumPy's error handling": (np.geterr, lambda value: np.seterr(**value)),
    "Python's random numbers": (random.getstate, random.setstate),
    "environment variables": (lambda: dict(os.environ), _set_environment),
    "the working folder": (_folder, _set_folder),
    "standard output": _flag(sys, "stdout"),
    "standard error": _flag(sys, "stderr"),
}


def process_state() -> dict[str, Any]:
    """What :func:`kept` keeps of the process, by name."""
    return {name: read() for name, (read, _) in _PROCESS.items()}


@contextlib.contextmanager
def kept(network: nn.Module | None = None) -> Iterator[None]:
    """Puts back, however the block ends, what it changed for all that comes after it.

    That is the state of random numbers (Python's, NumPy's, torch's), torch's modes, default dtype,
    device and number of threads, its hooks on all modules, NumPy's error handling, filters of
    warnings, environment variables, the folder that the process is in, and the standard streams.

    Args:
        network: whose classes' methods are put back as well.
    """
    before = process_state()
    methods = {} if network is None else {c: _methods(c) for c in {*map(type, network.modules())}}
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name, (read, write) in _PROCESS.items():
            if read() != before[name]:
                write(before[name])
        for cls, known in methods.items():
            _set_methods(cls, known)


def _methods(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if inspect.isfunction(value)}


def _set_methods(cls: type, known: dict[str, Any]) -> None:
    now = _methods(cls)
    for name in now.keys() - known.keys():
        delattr(cls, name)
    for name, function in known.items():
        if now.get(name) is not function:
            setattr(cls, name, function)
