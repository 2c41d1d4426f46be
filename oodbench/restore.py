"""What running a network can change, taken down so that it can be put back as it was.

A network is put back by identity: the very tensors that were its parameters and buffers, so device,
type, strides and shared storage are what they were, and nothing that was done to a copy is left.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class NetworkState:
    """Mode, tensors, hooks and attributes of each module of a network, as they are now.

    What a list or dict of the network's own collected meanwhile stays; that is what such are for.

    Args:
        network: the network.
    """

    def __init__(self, network: nn.Module) -> None:
        self._modules = [
            (module, module.training, dict(vars(module)), _tables(module))
            for module in network.modules()
        ]
        self.tensors = list({id(t): t for m, *_ in self._modules for t in _tensors(m)}.values())
        self._content = [(t, t.data, t.requires_grad, t.grad) for t in self.tensors]

    def put_back(self) -> None:
        """Make the network what it was."""
        for module, training, attributes, tables in self._modules:
            if not isinstance(module, torch.jit.ScriptModule):
                vars(module).clear()
                vars(module).update(attributes)
            for table, content in tables:  # in place: the handles of hooks know these objects
                table.clear()
                table.update(content)
            module.training = training
        for tensor, data, requires_grad, grad in self._content:
            tensor.grad = None  # of another device or type than what comes back
            tensor.data = data
            tensor.requires_grad_(requires_grad)
            tensor.grad = grad


def _tables(module: nn.Module) -> list[tuple[Any, Any]]:
    if isinstance(module, torch.jit.ScriptModule):
        return []
    held = vars(module)
    names = [name for name in held if name in _TABLES or "_hooks" in name]
    return [(held[name], held[name].copy()) for name in names if hasattr(held[name], "update")]


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers and plain attributes of a module itself that are tensors of their own."""
    found = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if not isinstance(module, torch.jit.ScriptModule):
        for value in list(vars(module).values()):
            if isinstance(value, dict):
                value = list(value.values())
            several = value if isinstance(value, list | tuple) else [value]
            found += [v for v in several if isinstance(v, Tensor)]
    return (t for t in found if t.is_leaf and not t.is_inference() and not nn.parameter.is_lazy(t))


class ProcessState:
    """Random numbers and global settings of this process, as they are now."""

    def __init__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self._torch = torch.get_rng_state()
        self._had_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._cuda = torch.cuda.get_rng_state_all() if self._had_cuda else []
        self._mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        self._settings = _settings()

    def put_back(self) -> None:
        """Make the process what it was."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._torch)
        if self._had_cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        elif torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(torch.initial_seed())  # what it would have begun with
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)
        now = _settings()
        for name, value in self._settings.items():
            if now[name] != value:
                _SETTERS[name](value)


def _settings() -> dict[str, Any]:
    """Global settings of PyTorch that decide what a network computes, or how."""
    cudnn = torch.backends.cudnn
    return {
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "autocast": tuple(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
    }


def _set_autocast(value: tuple[bool, bool]) -> None:
    for kind, enabled in zip(("cpu", "cuda"), value, strict=True):
        torch.set_autocast_enabled(kind, enabled)


def _set_cudnn(value: tuple[bool, bool, bool]) -> None:
    cudnn = torch.backends.cudnn
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = value


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


_SETTERS: dict[str, Any] = {
    "dtype": torch.set_default_dtype,
    "threads": torch.set_num_threads,
    "grad": torch.set_grad_enabled,
    "autocast": _set_autocast,
    "cudnn": _set_cudnn,
    "deterministic": _set_deterministic,
}


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Random numbers and global settings are after the block what they were before it."""
    state = ProcessState()
    try:
        yield
    finally:
        state.put_back()
