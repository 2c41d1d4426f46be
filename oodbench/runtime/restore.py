"""What running a network can change of it, taken down so that it can be put back as it was.

A network is put back by identity: the very tensors that were its parameters and buffers, so device,
type, strides and shared storage are what they were, and nothing that was done to a copy is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
        """Restore the network's state."""
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
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if not isinstance(module, torch.jit.ScriptModule):
        for value in list(vars(module).values()):
            if isinstance(value, dict):
                value = list(value.values())
            several = value if isinstance(value, list | tuple) else [value]
            tensors += [v for v in several if isinstance(v, Tensor)]
    return (
        t for t in tensors if t.is_leaf and not t.is_inference() and not nn.parameter.is_lazy(t)
    )
