"""What an object is made of, as a digest that is the same in every process; and what hides in it.

Objects are walked from the root, each is described once, by its type, its state and the code that
is a user's, with all that this code reads; cycles and shared parts are references. Of a library's
code the version is told, of oodbench's own the functions and plain constants. What cannot be read
(a session of another runtime, a handle) is noted as opaque.
"""

from __future__ import annotations

import collections
import copyreg
import enum
import functools
import hashlib
import io
import itertools
import marshal
import os
import random
import sys
import types
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from oodbench.caching.origin import (
    BYSTANDERS,
    FRAMEWORKS,
    file_digest,
    is_in,
    is_outside,
    origin,
    version,
)
from oodbench.caching.reads import instructions, names_of, reads
from oodbench.caching.running import Stores, resolve, stores_of, stores_of_class
from oodbench.networks.classifier import Classifier

MOST = 200_000
"""Objects that are looked at; what has more is opaque, so that a description takes seconds."""


@dataclass(frozen=True)
class Description:
    """What an object's content key is made of.

    Args:
        digest: hex sha256 of all that could be read.
        opaque: names of what could not be.
        is_users: whether a user's code belongs to it.
        has_arrays: whether there are tensors or arrays in it.
    """

    digest: str
    opaque: tuple[str, ...]
    is_users: bool
    has_arrays: bool


def describe(value: Any, *, frameworks: bool = True) -> Description:
    """Describe an object by its content, for a key.

    Args:
        value: anything; the parameters and buffers of a network are named, not read.
        frameworks: whether another version of torch and its kin is another content.
    """
    walk = _Walk(value)
    walk.run()
    tops = walk.libraries if frameworks else walk.libraries - FRAMEWORKS
    versions = sorted((top, version(top)) for top in tops - sys.stdlib_module_names)
    walk.whole.update(repr(versions).encode())
    opaque = tuple(dict.fromkeys(walk.opaque))
    return Description(walk.whole.hexdigest(), opaque, walk.is_users, walk.has_arrays)


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


_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_SIMPLE = frozenset({type(None), bool, int, float, complex, str, bytes})
_CODE = (types.FunctionType, types.MethodType, staticmethod, classmethod, property)
_FIXED = (*_PLAIN, *_CODE, *_TORCH, tuple, frozenset, Tensor, np.ndarray, nn.Module, type)
_PYTHONS: Any = getattr(random.random, "__self__", None)
_NUMPYS: Any = getattr(np.random.random_sample, "__self__", None)
_COLLECTIONS = (list, dict, set, collections.deque, bytearray)
_BUILTIN = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
_CLASS_MACHINERY = frozenset(
    """
    __module__ __qualname__ __doc__ __firstlineno__ __static_attributes__ __dict__ __weakref__
    __annotations__ __annotate__ __annotate_func__ __annotations_cache__ __abstractmethods__
    _abc_impl __dataclass_fields__ __dataclass_params__ __match_args__ __parameters__
    __orig_bases__ __type_params__ __slots__ __repr__
    """.split()
)
_HAS_DOCSTRING = 0x4000000  # a flag of Python 3.13 and later
_TRAINING = (
    "backward configure_ lr_scheduler_ manual_backward on_ optimizer_ test_ training_ "
    "validation_ train_dataloader val_dataloader"
).split()
"""How names begin of what Lightning runs in training alone."""
_GRAPH = frozenset({"_graph", "_tracer_cls", "_tracer_extras", "meta"})
"""Attributes of traced modules that their code and parts tell as well."""


class _Walk:
    """One walk; ``refer`` gives a short text for a value and queues what takes more than that."""

    def __init__(self, root: Any) -> None:
        self.whole = hashlib.sha256()
        self.opaque: list[str] = []
        self.libraries: set[str] = set()
        self.is_users = False
        self.has_arrays = False
        self.numbers: dict[int, int] = {}
        self.kept: list[Any] = []  # alive, so that no other object gets its identity
        self.waiting: collections.deque[Any] = collections.deque()
        self.members: set[int] = set()  # modules of the root network: their tensors are named
        self.tensor_names: dict[int, str] = {}
        self.stores = Stores()
        self.trains = isinstance(root, type)  # of a method its training counts as well
        if isinstance(root, type):
            self.stores = stores_of_class(root)
        if isinstance(root, nn.Module):
            self.members = {id(module) for module in root.modules()}
            tensors = itertools.chain(root.named_parameters(), root.named_buffers())
            self.tensor_names = {id(tensor): name for name, tensor in tensors}
            self.has_arrays = bool(self.tensor_names)
            self.stores = stores_of(root)
            self.opaque += self.stores.outside
            self.record("global hooks", *self._global_hooks())
        self.record("root", root)

    @staticmethod
    def _global_hooks() -> list[Any]:
        hooks = (nn_module._global_forward_pre_hooks, nn_module._global_forward_hooks)
        return [hook for table in hooks for hook in table.values()]

    def run(self) -> None:
        while self.waiting:
            value = self.waiting.popleft()
            if len(self.numbers) > MOST:
                self.opaque.append(f"more than {MOST:,} objects")
                return
            try:
                self.visit(value)
            except Exception as error:  # objects may raise anything when they are looked at
                self.hide(value, type(error).__name__)

    def record(self, kind: str, *values: Any) -> None:
        self.whole.update(f"{kind} {[self.refer(value) for value in values]}\n".encode())

    def hide(self, value: Any, why: str = "") -> None:
        name = _name(type(value))
        self.opaque.append(name)
        self.whole.update(f"opaque {name} {why}\n".encode())

    def refer(self, value: Any) -> str:
        kind = type(value)
        if kind in (int, str, bytes):
            return _short(value)
        if kind in _PLAIN or kind in _TORCH:
            return repr(value)
        if kind in (tuple, frozenset):  # which of them are one object is up to the compiler
            text = _constant(value)
            if text is not None:
                return text
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.numbers)
            self.kept.append(value)
            self.waiting.append(value)
        return f"#{self.numbers[id(value)]}"

    # --- by kind ------------------------------------------------------------------------------

    def visit(self, value: Any) -> None:
        kind = type(value)
        if id(value) in self.tensor_names:
            self.record("parameter", self.tensor_names[id(value)])
        elif isinstance(value, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            self.hide(value)
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, Tensor):
            self.has_arrays = True
            self.record("tensor", tensor_text(value))
            self._rest(value)
        elif isinstance(value, np.generic | np.ndarray):
            self._array(value)
        elif isinstance(value, type):
            self._class(value)
        elif kind in _CODE or isinstance(value, functools.partial | types.CodeType):
            self._code(value)
        elif isinstance(value, enum.Enum):
            self.record("enum", type(value), value.name, value._value_)
        elif isinstance(value, _BUILTIN):
            self._builtin(value)
        elif isinstance(value, types.ModuleType):
            self._namespace(value)
        elif isinstance(value, weakref.ref):
            self.record("weakref", value())
        elif isinstance(value, types.GeneratorType):
            frame = value.gi_frame
            at = (frame.f_lasti, dict(frame.f_locals)) if frame else None
            self.record("generator", value.gi_code, at)
        elif any(value is own for own in (_PYTHONS, _NUMPYS, torch.default_generator)):
            self.record("generator", "of the process")  # what it would draw next is no setting
        elif isinstance(value, torch.Generator):
            self.record("generator", value.get_state())
        else:
            self._object(value)

    def _array(self, value: Any) -> None:
        self.has_arrays |= isinstance(value, np.ndarray) and value.size > 1
        if value.dtype.hasobject:
            self.record("array", value.shape, np.asarray(value).tolist())
        else:
            digest = hashlib.sha256(value.tobytes()).hexdigest()
            self.record("array", str(value.dtype), value.shape, digest)
        self._rest(value)

    def _collection(self, value: Any) -> bool:
        """The items of a built-in collection, or of one that is derived from it."""
        if isinstance(value, list | tuple | collections.deque):
            items: list[Any] = list(value)
            if isinstance(value, collections.deque):
                items.append(value.maxlen)
            self._items("list" if isinstance(value, list) else "tuple", items)
        elif isinstance(value, dict | types.MappingProxyType):
            self._items("keys", list(value))  # their order may count
            self._items("values", list(value.values()))
            self.record("default", getattr(value, "default_factory", None))
        elif isinstance(value, set | frozenset):  # their order is another one in each process
            self._items("set", sorted(map(self._text, value)))
        elif isinstance(value, int | float | complex | str | bytes | bytearray):
            self.record("value", _plain_value(value))
        else:
            return False
        return True

    def _items(self, kind: str, items: list[Any]) -> None:
        if _is_simple(items):
            raw = marshal.dumps(items, 2)  # this version of it does not tell how values are shared
            self.whole.update(f"{kind} {len(items)} {hashlib.sha256(raw).hexdigest()}\n".encode())
        elif len(items) + len(self.numbers) > 2 * MOST:
            self.opaque.append(f"more than {MOST:,} objects")
        else:
            self.record(kind, *items)

    def _text(self, value: Any) -> str:
        """A text for one element of a set, by which it can be sorted."""
        if (text := _constant(value)) is not None:
            return text
        inner = _Walk(None)
        inner.refer(value)
        inner.run()
        self.opaque += inner.opaque
        self.libraries |= inner.libraries
        self.is_users |= inner.is_users
        self.has_arrays |= inner.has_arrays
        return inner.whole.hexdigest()

    def _code(self, value: Any) -> None:
        match value:
            case types.CodeType():
                flags = value.co_flags & ~_HAS_DOCSTRING
                signature = (value.co_argcount, value.co_kwonlyargcount, flags)
                table = getattr(value, "co_exceptiontable", b"")
                self.record("code", *instructions(value), names_of(value), signature, table)
            case types.MethodType():
                self.record("method", value.__func__, value.__self__)
            case staticmethod() | classmethod():
                self.record("method", value.__func__)
            case property():
                self.record("property", value.fget, value.fset, value.fdel)
            case functools.partial():
                self.record("partial", value.func, value.args, value.keywords)
                self._rest(value)
            case _:
                self._function(value)

    def _function(self, function: types.FunctionType) -> None:
        home = str(function.__globals__.get("__name__") or "")
        whose = origin(home)
        self.record("function", _place(home), function.__qualname__)
        cells = {
            name: cell.cell_contents
            for name, cell in zip(
                function.__code__.co_freevars, function.__closure__ or (), strict=False
            )
            if cell != types.CellType()
        }
        if whose == "library":
            # a library's decorator around somebody's function
            self.libraries.add(home.partition(".")[0])
            inner = [*cells.values(), *vars(function).values()]
            self.record("inside", *(value for value in inner if _is_telling(value)))
            return
        self.is_users |= whose == "user"
        self.record("runs", function.__code__, function.__defaults__, function.__kwdefaults__)
        self.record("with", vars(function))
        inside = {k: v for k, v in cells.items() if not self.stores.keeps_cell(function, k, v)}
        self.record("inside", {k: v for k, v in inside.items() if _counts(v, whose)})
        for chain, owner, value in resolve(function, self.stores.runs(function)):
            if self.stores.keeps(owner, value) or not _counts(value, whose):
                continue
            self.record("reads", ".".join(chain), value)
        if whose == "user":
            self.record("environment", _environment(function))

    def _builtin(self, value: Any) -> None:
        owner = getattr(value, "__self__", None)
        module = getattr(value, "__module__", None) or getattr(
            getattr(value, "__objclass__", None), "__module__", None
        )
        self.record("builtin", _place(module or ""), value.__qualname__)
        if owner is not None and not isinstance(owner, types.ModuleType | type):
            self.record("of", owner)
        self._compiled(module or "builtins", value)

    def _compiled(self, module: str, value: Any) -> None:
        """A user's compiled extension, by the content of its file."""
        if origin(module) == "user":
            digest = file_digest(module)
            if digest is None:
                self.hide(value)
            else:
                self.record("extension", digest)

    def _namespace(self, module: types.ModuleType) -> None:
        """A module that is handed about as a value: all that it holds."""
        self.record("namespace", _place(module.__name__) or module.__name__.rpartition(".")[2])
        if origin(module.__name__) == "library":
            self.libraries.add(module.__name__.partition(".")[0])
        elif origin(module.__name__) == "user":
            self.is_users = True
            for name, value in sorted(vars(module).items()):
                if not name.startswith("__") and not self.stores.keeps(
                    (module.__name__, name), value
                ):
                    self.record("holds", name, value)

    def _class(self, cls: type) -> None:
        whose = origin(str(cls.__module__))
        self.record("class", _name(cls))
        if whose == "library":
            self.libraries.add(cls.__module__.partition(".")[0])
            if issubclass(cls, nn.Module):  # somebody's patches of it, and what it is made from
                patched = {k: v for k, v in sorted(vars(cls).items()) if _is_patch(v)}
                bases = [
                    base for base in cls.__mro__[1:] if origin(str(base.__module__)) != "library"
                ]
                self.record("patched", patched, *bases)
            return
        self.is_users |= whose == "user"
        is_lightning = issubclass(cls, pl.LightningModule)
        for name, member in sorted(vars(cls).items()):
            if name in _CLASS_MACHINERY or isinstance(
                member, types.MemberDescriptorType | types.GetSetDescriptorType
            ):
                continue
            is_training = is_lightning and name.startswith(tuple(_TRAINING))
            if is_training and whose == "user" and not self.trains:
                continue
            if whose == "user" and self.stores.keeps_of_class(name, member):
                continue
            if _counts(member, whose):
                self.record("has", name, member)
        self.record("bases", *cls.__bases__)
        if type(cls) is not type:
            self.record("metaclass", type(cls))
        if whose == "user" and file_digest(cls.__module__) is not None:
            self._compiled(cls.__module__, cls)

    def _module(self, module: nn.Module) -> None:
        attributes = {key: value for key, value in vars(module).items() if key not in _machinery()}
        kind = type(module).__module__
        if isinstance(module, Classifier):
            attributes.pop("layout", None)  # no setting: it is known after the first batch
        if kind.startswith(("torch.nn.parallel", "torch._dynamo")):  # they wrap what is told below
            attributes = {}
        if kind.startswith("torch.fx"):
            attributes = {key: value for key, value in attributes.items() if key not in _GRAPH}
        hooks: list[Any] = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        settings = {
            k: v for k, v in sorted(attributes.items()) if not self.stores.keeps_of(module, k, v)
        }
        self.record("module", type(module), settings, hooks)
        for name, child in module._modules.items():
            self.record("child", name, child)
        if id(module) not in self.members:  # one that is hidden in a list, or in a hook
            self.record("tensors", dict(module._parameters), dict(module._buffers))

    def _object(self, value: Any) -> None:
        cls = type(value)
        module = str(cls.__module__)
        self.record("object", cls)
        if self._collection(value):
            self._rest(value)
        elif is_in(module, BYSTANDERS) or value is os.environ:
            pass
        elif is_outside(module):
            self.hide(value)
        elif isinstance(value, io.IOBase):
            self._stream(value)
        elif hasattr(cls, "cache_clear"):  # functools.cache: what it remembers is its own
            self.record("wrapped", value.__wrapped__)
        elif module.partition(".")[0] in sys.stdlib_module_names or _is_compiled(cls):
            self._reduced(value)
        else:
            self._rest(value)

    def _stream(self, value: Any) -> None:
        if isinstance(value, io.BytesIO | io.StringIO):
            self.record("stream", value.getvalue())
        elif not value.closed and value.readable():
            self.hide(value)

    def _rest(self, value: Any) -> None:
        """The attributes of an object, but those that are made from the others when asked for."""
        cls = type(value)
        state = {
            key: item
            for key, item in sorted(getattr(value, "__dict__", {}).items(), key=_first)
            if not isinstance(getattr(cls, str(key), None), functools.cached_property)
            and not self.stores.keeps_of(value, key, item)
        }
        state |= {f"slot {name}": getattr(value, name, None) for name in _slots(cls)}
        if state:
            self.record("state", list(state), *state.values())

    def _reduced(self, value: Any) -> None:
        """What an object says of itself to be stored, where its state is not Python's."""
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduced = reduce(value) if reduce else value.__reduce_ex__(4)
        except (TypeError, AttributeError, NotImplementedError, RuntimeError):
            self.hide(value)
            return
        if isinstance(reduced, str):
            self.record("global", reduced)
            return
        parts = list(reduced)
        parts[3:] = [list(part) if part is not None else None for part in parts[3:5]]
        self.record("made by", *parts)


@functools.lru_cache(maxsize=1)
def _machinery() -> frozenset[str]:
    """Attributes that every module has."""
    return frozenset({*vars(nn.Module()), *vars(pl.LightningModule())})


def _is_simple(items: list[Any]) -> bool:
    """Whether all are plain values, or tuples and lists of these."""
    kinds = set(map(type, items))
    if kinds <= _SIMPLE:
        return True
    if not kinds <= _SIMPLE | {tuple, list}:
        return False
    inner = (item for item in items if type(item) in (tuple, list))
    return set(map(type, itertools.chain.from_iterable(inner))) <= _SIMPLE


def _short(value: Any) -> str:
    if type(value) is int:
        return hex(value)  # the decimal text of a long one is refused
    if type(value) in (str, bytes) and len(value) > 200:
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return f"{type(value).__name__} {len(value)} {hashlib.sha256(raw).hexdigest()}"
    return ascii(value)  # another text for each plain value


def _constant(value: Any, depth: int = 8) -> str | None:
    """A text for a constant of code, tuples and sets included; None for anything else."""
    kind = type(value)
    if kind in _SIMPLE or kind in _PLAIN:
        return _short(value)
    if kind not in (tuple, frozenset) or depth == 0:
        return None
    parts = [_constant(part, depth - 1) for part in value]
    if None in parts:
        return None
    listed = ",".join(sorted(map(str, parts)) if kind is frozenset else map(str, parts))
    if len(listed) > 200:
        listed = hashlib.sha256(listed.encode()).hexdigest()
    return f"{kind.__name__}({len(parts)}: {listed})"


def _name(cls: type) -> str:
    return f"{_place(str(cls.__module__))}.{cls.__qualname__}".removeprefix(".")


def _place(module: str) -> str:
    """The name of a library's module; none of others, whose code says what they are.

    A user's file and oodbench's own may be moved or renamed, and the key stays.
    """
    return module if origin(module) == "library" else ""


def _first(pair: tuple[Any, Any]) -> str:
    return str(pair[0])


def _counts(value: Any, whose: str) -> bool:
    """Whether it is told of code that it stands beside; of oodbench's own, what is fixed alone.

    That keeps registries and memories of oodbench out.
    """
    if whose == "user":
        return True
    if isinstance(value, type):
        is_own = origin(str(value.__module__)) == "ours" and not issubclass(value, BaseException)
        return is_own or issubclass(value, nn.Module)
    return isinstance(value, _FIXED)


def _plain_value(value: Any) -> Any:
    """The value of a number or text of somebody's own type."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    base: Any = next(kind for kind in (int, float, complex, str) if isinstance(value, kind))
    return base.__repr__(value)


def _is_telling(value: Any) -> bool:
    """Whether a variable inside a library's function tells what it does, and is no address."""
    if isinstance(value, int):
        return abs(value) < 2**32
    return isinstance(value, (*_FIXED, functools.partial)) and not isinstance(value, type)


def _is_patch(member: Any) -> bool:
    """Whether a member of a library's class is somebody else's function."""
    member = getattr(member, "__func__", member)
    if not isinstance(member, types.FunctionType):
        return False
    return origin(str(member.__globals__.get("__name__") or "")) == "user"


def _slots(cls: type) -> list[str]:
    """Names of the slots of a class and its bases, those of Python's and not of a C type."""
    return [
        name
        for base in cls.__mro__
        if "__slots__" in vars(base)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    ]


def _is_compiled(cls: type) -> bool:
    """Whether instances have state that is neither attributes nor slots: a C type's."""
    slots = len(_slots(cls))
    offsets = (cls.__dictoffset__ > 0) + (cls.__weakrefoffset__ > 0)
    return cls.__itemsize__ > 0 or cls.__basicsize__ > object.__basicsize__ + 8 * (slots + offsets)


def _environment(function: types.FunctionType) -> dict[str, str | None]:
    """Variables of the environment that a function may read by a name that it has as text."""
    words = reads(function.__code__).words
    if not words & {"environ", "getenv", "environb"}:
        return {}
    return {word: os.environ[word] for word in sorted(words) if word in os.environ}
