"""What a network and its outputs are made of, as a digest: the key of the cache.

The key is content, never a name: weights, structure, settings, hooks and code of the network, the
images and labels, the preprocessing. A different checkpoint of the same class never meets a stale
cache.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from oodbench import files
from oodbench.backbones import Classifier
from oodbench.samples import Samples
from oodbench.transforms import Transform, content_key

VERSION = 2
"""Part of every key; raised when the same network and data would give other outputs."""


def weights_digest(network: nn.Module) -> str:
    """Hex sha256 over all parameters and buffers (names, types, shapes, values) of a network."""
    whole = hashlib.sha256()
    # state_dict() leaves out the buffers that are not saved, such as a normalisation's mean
    values = {**dict(network.named_buffers()), **network.state_dict()}
    for name, value in sorted(values.items()):
        if isinstance(value, Tensor):
            whole.update(f"{name} {_tensor_text(value)}\n".encode())
    return whole.hexdigest()


def _tensor_text(value: Tensor) -> str:
    raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(raw.tobytes()).hexdigest()}"


_LIBRARIES = sys.stdlib_module_names | set(
    "lightning lightning_fabric numpy pytorch_lightning timm torch torchvision".split()
)


def architecture(network: nn.Module) -> str:
    """Hex sha256 over a network's structure, settings, hooks, and the code that is no library's.

    Two networks with the same weights and another ``forward`` are two networks. Code is compared
    as Python compiled it: a class that was changed in a notebook counts as changed, a comment does
    not. What code finds through a module (``helpers.scale``) is not looked into.
    """
    whole = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(network)).encode())
    seen = {id(module) for module in network.modules()}
    machinery = {*vars(nn.Module()), *vars(pl.LightningModule())}
    for name, module in network.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in machinery}
        if isinstance(module, Classifier):
            own.pop("found")  # no setting: it is known after the first batch
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        whole.update(f"{name} {_text([type(module), own, hooks], seen)}\n".encode())
    return whole.hexdigest()


def code_digest(cls: type) -> str:
    """Hex sha256 over the code of a class and of its bases that are no library's."""
    return hashlib.sha256(_text(cls, set()).encode()).hexdigest()


def _text(value: Any, seen: set[int]) -> str:
    """A text that differs where a network that holds this value could behave differently.

    Args:
        value: anything: a setting, a function, a class.
        seen: identities of the objects that are described already, or will be elsewhere.
    """
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes() | torch.dtype():
            return repr(value)
        case Tensor():
            return _tensor_text(value)
        case np.ndarray() if value.dtype != object:
            return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
        case Mapping():
            items = sorted(((_text(key, seen), item) for key, item in value.items()), key=_first)
            return str([(key, _text(item, seen)) for key, item in items])
        case list() | tuple():
            return str([_text(item, seen) for item in value])
        case set() | frozenset():  # their order is another one in each process
            return str(sorted(_text(item, seen) for item in value))
        case types.CodeType():
            return _text([value.co_code.hex(), value.co_names, value.co_consts], seen)
        case types.MethodType() | staticmethod() | classmethod():
            return _text(value.__func__, seen)
        case property():
            return _text(value.fget, seen)
        case functools.partial():
            return _text([value.func, value.args, value.keywords], seen)
    kind = value if isinstance(value, type | types.FunctionType) else type(value)
    parts: list[Any] = [f"{kind.__module__}.{kind.__qualname__}"]
    is_library = str(kind.__module__).partition(".")[0] in _LIBRARIES
    if id(value) in seen or (is_library and not isinstance(value, nn.Module)):
        return parts[0]
    seen.add(id(value))
    if isinstance(value, types.FunctionType):
        outer = [value.__globals__.get(name) for name in value.__code__.co_names]
        cells = [cell for cell in value.__closure__ or () if cell != types.CellType()]
        outer += [cell.cell_contents for cell in cells]
        parts += [value.__code__, value.__defaults__, value.__kwdefaults__]
        parts += [part for part in outer if _is_fixed(part)]
    elif isinstance(value, type):
        members = sorted(vars(value).items())
        parts += [m for key, m in members if key not in _CLASS_MACHINERY and _is_fixed(m)]
        parts += value.__bases__
    elif isinstance(value, nn.Module):  # one that is hidden in a list, or in a hook
        parts += [weights_digest(value), architecture(value)]
    else:
        parts += [type(value), getattr(value, "__dict__", None)]
    return _text(parts, seen)


_CLASS_MACHINERY = {
    "__module__",
    "__qualname__",
    "__doc__",
    "__firstlineno__",
    "__static_attributes__",
}


def _is_fixed(value: Any) -> bool:
    """Whether it describes code that it stands beside, as a class attribute or a global.

    Whole numbers, lists and dicts are passed over: that is where code counts and collects, and a
    network that counts its calls is still the same network.
    """
    if isinstance(value, int):
        return isinstance(value, bool)
    kinds = (types.FunctionType, staticmethod, classmethod, property, nn.Module, Tensor)
    return isinstance(value, (*kinds, float, str, tuple))


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def cache_key(
    network: nn.Module, samples: Samples, preprocess: Transform, precision: str
) -> str | None:
    """Hex digest of all that determines the outputs; None if the transform has no content key."""
    transform = content_key(preprocess)
    if transform is None:
        return None
    return files.digest(
        {
            "version": VERSION,
            "weights": weights_digest(network),
            "architecture": architecture(network),
            "samples": samples.fingerprint,
            "transform": transform,
            "precision": precision,
        }
    )
