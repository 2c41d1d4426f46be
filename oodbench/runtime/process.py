"""What a process has that all of its code shares: taken down, and put back as it was."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules import module as _module

_Item = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How something is read, and how it is written."""


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
    if value is None:  # the cards were not in use; now they are as they would have begun
        torch.cuda.manual_seed_all(torch.initial_seed())
    else:
        torch.cuda.set_rng_state_all([_state_of(state) for state in value])


def _metal_numbers() -> bytes | None:
    return _bytes(torch.mps.get_rng_state()) if torch.backends.mps.is_available() else None


def _set_metal_numbers(value: bytes | None) -> None:
    if value is not None:
        torch.mps.set_rng_state(_state_of(value))


def _determinism() -> tuple[bool, bool]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only


def _set_determinism(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


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


_NUMBERS: dict[str, _Item] = {  # the device comes first, since tensors are made where it says
    "torch's default device": (torch.get_default_device, _set_device),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch's deterministic mode": (_determinism, _set_determinism),
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
    "torch's random numbers": (
        lambda: _bytes(torch.get_rng_state()),
        lambda value: torch.set_rng_state(_state_of(value)),
    ),
    "CUDA's random numbers": (_card_numbers, _set_card_numbers),
    "Metal's random numbers": (_metal_numbers, _set_metal_numbers),
    "NumPy's random numbers": (_numpy_numbers, _set_numpy_numbers),
    "Python's random numbers": (random.getstate, random.setstate),
    "environment variables": (lambda: dict(os.environ), _set_environment),
    "the working folder": (_folder, _set_folder),
    "standard output": _flag(sys, "stdout"),
    "standard error": _flag(sys, "stderr"),
}
"""Random numbers, and what decides what a network computes."""

_SURROUNDINGS: dict[str, _Item] = {
    "hooks on all modules": (_hooks, _set_hooks),
    "NumPy's error handling": (np.geterr, lambda value: np.seterr(**value)),
    "environment variables": (lambda: dict(os.environ), _set_environment),
    "the working folder": (_folder, _set_folder),
    "standard output": _flag(sys, "stdout"),
    "standard error": _flag(sys, "stderr"),
}
"""What else one piece of code can leave changed for the next."""


class ProcessState:
    """Random numbers and torch's global settings of this process, as they are now.

    Args:
        surroundings: whether environment variables, standard streams, the working folder, NumPy's
            error handling and hooks on all modules are taken down as well.
    """

    def __init__(self, *, surroundings: bool = False) -> None:
        self._items = {**_NUMBERS, **_SURROUNDINGS} if surroundings else _NUMBERS
        self.values = {name: read() for name, (read, _) in self._items.items()}

    def put_back(self) -> None:
        """Restore the process's state."""
        for name, (read, write) in self._items.items():
            if read() != self.values[name]:
                write(self.values[name])


@contextlib.contextmanager
def undisturbed(*, surroundings: bool = False) -> Iterator[None]:
    """The process is after the block what it was before it; see :class:`ProcessState`."""
    state = ProcessState(surroundings=surroundings)
    try:
        yield
    finally:
        state.put_back()
