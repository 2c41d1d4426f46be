"""Kinds of values, as descriptions tell them apart, and the texts of those that are plain."""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
import os
import random
import types
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from oodbench.caching.origin import origin
from oodbench.caching.reads import reads

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
SIMPLE = frozenset({type(None), bool, int, float, complex, str, bytes})
CODE = (types.FunctionType, types.MethodType, staticmethod, classmethod, property)
FIXED = (*PLAIN, *CODE, *TORCH, tuple, frozenset, Tensor, np.ndarray, nn.Module, type)
PYTHONS_RANDOM: Any = getattr(random.random, "__self__", None)
NUMPYS_RANDOM: Any = getattr(np.random.random_sample, "__self__", None)
COLLECTIONS = (list, dict, set, collections.deque, bytearray)
BUILTIN = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
CLASS_MACHINERY = frozenset(
    """
    __module__ __qualname__ __doc__ __firstlineno__ __static_attributes__ __dict__ __weakref__
    __annotations__ __annotate__ __annotate_func__ __annotations_cache__ __abstractmethods__
    _abc_impl __dataclass_fields__ __dataclass_params__ __match_args__ __parameters__
    __orig_bases__ __type_params__ __slots__ __repr__
    """.split()
)
HAS_DOCSTRING = 0x4000000  # a flag of Python 3.13 and later
TRAINING = (
    "backward configure_ lr_scheduler_ manual_backward on_ optimizer_ test_ training_ "
    "validation_ train_dataloader val_dataloader"
).split()
"""How names begin of what Lightning runs in training alone."""
GRAPH = frozenset({"_graph", "_tracer_cls", "_tracer_extras", "meta"})
"""Attributes of traced modules that their code and parts tell as well."""


@functools.lru_cache(maxsize=1)
def module_machinery() -> frozenset[str]:
    """Attributes that every module has."""
    return frozenset({*vars(nn.Module()), *vars(pl.LightningModule())})


def is_simple(items: list[Any]) -> bool:
    """Whether all are plain values, or tuples and lists of these."""
    kinds = set(map(type, items))
    if kinds <= SIMPLE:
        return True
    if not kinds <= SIMPLE | {tuple, list}:
        return False
    inner = (item for item in items if type(item) in (tuple, list))
    return set(map(type, itertools.chain.from_iterable(inner))) <= SIMPLE


def short_text(value: Any) -> str:
    """A text for a plain value, another one for each; a digest of one that is long."""
    if type(value) is int:
        return hex(value)  # the decimal text of a long one is refused
    if type(value) in (str, bytes) and len(value) > 200:
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return f"{type(value).__name__} {len(value)} {hashlib.sha256(raw).hexdigest()}"
    return ascii(value)  # another text for each plain value


def constant_text(value: Any, depth: int = 8) -> str | None:
    """A text for a constant of code, tuples and sets included; None for anything else."""
    kind = type(value)
    if kind in SIMPLE or kind in PLAIN:
        return short_text(value)
    if kind not in (tuple, frozenset) or depth == 0:
        return None
    parts = [constant_text(part, depth - 1) for part in value]
    if None in parts:
        return None
    listed = ",".join(sorted(map(str, parts)) if kind is frozenset else map(str, parts))
    if len(listed) > 200:
        listed = hashlib.sha256(listed.encode()).hexdigest()
    return f"{kind.__name__}({len(parts)}: {listed})"


def class_name(cls: type) -> str:
    """The name of a class, with its module where that is a library's."""
    return f"{library_module(str(cls.__module__))}.{cls.__qualname__}".removeprefix(".")


def library_module(module: str) -> str:
    """The name of a library's module; none of others, whose code says what they are.

    A user's file and oodbench's own may be moved or renamed, and the key stays.
    """
    return module if origin(module) == "library" else ""


def first_text(pair: tuple[Any, Any]) -> str:
    """What the items of a mapping are sorted by."""
    return str(pair[0])


def is_told(value: Any, whose: str) -> bool:
    """Whether a value is described with the code that it stands beside.

    Beside a user's code all of them are, beside oodbench's own what is fixed alone: that keeps its
    registries and memories out.
    """
    if whose == "user":
        return True
    if isinstance(value, type):
        is_own = origin(str(value.__module__)) == "ours" and not issubclass(value, BaseException)
        return is_own or issubclass(value, nn.Module)
    return isinstance(value, FIXED)


def plain_value(value: Any) -> Any:
    """The value of a number or text of somebody's own type."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    base: Any = next(kind for kind in (int, float, complex, str) if isinstance(value, kind))
    return base.__repr__(value)


def is_telling(value: Any) -> bool:
    """Whether a variable inside a library's function tells what it does, and is no address."""
    if isinstance(value, int):
        return abs(value) < 2**32
    return isinstance(value, (*FIXED, functools.partial)) and not isinstance(value, type)


def is_patch(member: Any) -> bool:
    """Whether a member of a library's class is somebody else's function."""
    member = getattr(member, "__func__", member)
    if not isinstance(member, types.FunctionType):
        return False
    return origin(str(member.__globals__.get("__name__") or "")) == "user"


def slots_of(cls: type) -> list[str]:
    """Names of the slots of a class and its bases, those of Python's and not of a C type."""
    return [
        name
        for base in cls.__mro__
        if "__slots__" in vars(base)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    ]


def is_compiled(cls: type) -> bool:
    """Whether instances have state that is neither attributes nor slots: a C type's."""
    slots = len(slots_of(cls))
    offsets = (cls.__dictoffset__ > 0) + (cls.__weakrefoffset__ > 0)
    return cls.__itemsize__ > 0 or cls.__basicsize__ > object.__basicsize__ + 8 * (slots + offsets)


def environment_of(function: types.FunctionType) -> dict[str, str | None]:
    """Variables of the environment that a function may read by a name that it has as text."""
    words = reads(function.__code__).words
    if not words & {"environ", "getenv", "environb"}:
        return {}
    return {word: os.environ[word] for word in sorted(words) if word in os.environ}


def tensor_text(value: Tensor) -> str:
    """Type, shape and digest of the values of a tensor, in any layout."""
    value = value.detach()
    if value.is_meta:
        return f"meta {value.dtype} {tuple(value.shape)}"
    if value.is_quantized:
        value = torch.cat([value.int_repr().flatten().double(), value.dequantize().flatten()])
    if value.layout != torch.strided:
        value = value.to_dense()
    raw = value.resolve_conj().resolve_neg().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(raw.data).hexdigest()}"
