"""Networks through ``torch.compile``: what of one can be compiled, and whether it can be here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.errors import OptionError
from oodbench.networks.classifier import Classifier
from oodbench.networks.models import outputs_of


@cache
def check_compiler(kind: str) -> None:
    """Compile a sum, to learn whether anything can be compiled.

    Args:
        kind: of device, such as ``"cuda"``.

    Raises:
        OptionError: it cannot; says why.
    """
    one = torch.ones(2, device=kind)
    try:
        total = torch.compile(lambda value: (value + value).sum())(one)
        is_right = float(total) == 4
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OptionError(
            f"`compile`: torch.compile does not work on this machine ({lines[0][:200]}). It needs "
            "a C++ compiler, and Triton where networks run on CUDA. Leave the option out."
        ) from error
    if not is_right:
        raise OptionError("`compile`: torch.compile computes 1 + 1 + 1 + 1 wrongly here.")


def compiled_outputs(network: nn.Module, first: Any) -> Callable[[Any], dict[str, Tensor]]:
    """``outputs`` of a network, compiled.

    Of a :class:`Classifier`, whose hooks read the input of one layer, all but the modules around
    that layer is. Names and values of weights stay as they are; how modules run does not, so give
    it a copy.

    Args:
        network: has ``outputs``.
        first: its first batch, on its device; a classifier finds its head on it beforehand.
    """
    if not isinstance(network, Classifier):
        compiled: Callable[[Any], dict[str, Tensor]] = torch.compile(outputs_of(network))
        return compiled
    if network.layout is None:
        network.outputs(first)
    head = network.read_layer
    compile_around(network.model, () if head is None else (head,))
    return network.outputs


def compile_around(module: nn.Module, left: Collection[nn.Module]) -> None:
    """Compile a module where none of some modules are in it; else its parts, in the same way.

    Args:
        module: compiled in place.
        left: modules that stay as they are, with all that are around them.
    """
    inner = set(module.modules())
    if inner.isdisjoint(left):
        module.compile()
    elif module not in left:
        for child in module.children():
            compile_around(child, left)
