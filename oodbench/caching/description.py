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
from oodbench.caching.reads import instructions, names_of
from oodbench.caching.running import Stores, resolve, stores_of, stores_of_class
from oodbench.caching.values import (
    BUILTIN,
    CLASS_MACHINERY,
    CODE,
    GRAPH,
    HAS_DOCSTRING,
    NUMPYS_RANDOM,
    PLAIN,
    PYTHONS_RANDOM,
    TORCH,
    TRAINING,
    class_name,
    constant_text,
    environment_of,
    first_text,
    is_compiled,
    is_patch,
    is_simple,
    is_telling,
    is_told,
    library_module,
    module_machinery,
    plain_value,
    short_text,
    slots_of,
    tensor_text,
)
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


def _told(value: Any) -> str | None:
    """The text of a value that is told where it stands; None of one that takes more than that."""
    kind = type(value)
    if kind in (int, str, bytes):
        return short_text(value)
    if kind in PLAIN or kind in TORCH:
        return repr(value)
    if kind in (tuple, frozenset):  # which of them are one object is up to the compiler
        return constant_text(value)
    return None


def _parts_of(code: types.CodeType) -> tuple[Any, ...]:
    flags = code.co_flags & ~HAS_DOCSTRING
    signature = (code.co_argcount, code.co_kwonlyargcount, flags)
    table = getattr(code, "co_exceptiontable", b"")
    return (*instructions(code), names_of(code), signature, table)


@functools.lru_cache(maxsize=8192)
def _line_of(code: types.CodeType) -> bytes | None:
    """How code is recorded, where that is the same in every walk: it has no code inside it.

    Networks are described again and again, and most of what they are made of is code.
    """
    texts = [_told(part) for part in _parts_of(code)]
    return None if None in texts else _line("code", texts)


def _line(kind: str, texts: list[Any]) -> bytes:
    return f"{kind} {texts}\n".encode()


def _simple_line(kind: str, items: list[Any]) -> bytes:
    raw = marshal.dumps(items, 2)  # this version of it does not tell how values are shared
    return f"{kind} {len(items)} {hashlib.sha256(raw).hexdigest()}\n".encode()


_EMPTY = _simple_line("keys", []) + _simple_line("values", []) + _line("default", ["None"])
"""What an empty dictionary holds: a function's attributes, a module's hooks."""


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
        self.whole.update(_line(kind, [self.refer(value) for value in values]))

    def hide(self, value: Any, why: str = "") -> None:
        name = class_name(type(value))
        self.opaque.append(name)
        self.whole.update(f"opaque {name} {why}\n".encode())

    def refer(self, value: Any) -> str:
        text = _told(value)
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
        elif kind is types.FunctionType:  # these three are most of what there is
            self._function(value)
        elif kind is types.CodeType:
            self._code(value)
        elif kind is dict and not value:
            self.record("object", dict)
            self.whole.update(_EMPTY)
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
        elif kind in CODE or isinstance(value, functools.partial | types.CodeType):
            self._code(value)
        elif isinstance(value, enum.Enum):
            self.record("enum", type(value), value.name, value._value_)
        elif isinstance(value, BUILTIN):
            self._builtin(value)
        elif isinstance(value, types.ModuleType):
            self._namespace(value)
        elif isinstance(value, weakref.ref):
            self.record("weakref", value())
        elif isinstance(value, types.GeneratorType):
            frame = value.gi_frame
            at = (frame.f_lasti, dict(frame.f_locals)) if frame else None
            self.record("generator", value.gi_code, at)
        elif any(value is own for own in (PYTHONS_RANDOM, NUMPYS_RANDOM, torch.default_generator)):
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
            self.record("value", plain_value(value))
        else:
            return False
        return True

    def _items(self, kind: str, items: list[Any]) -> None:
        if is_simple(items):
            self.whole.update(_simple_line(kind, items))
        elif len(items) + len(self.numbers) > 2 * MOST:
            self.opaque.append(f"more than {MOST:,} objects")
        else:
            self.record(kind, *items)

    def _text(self, value: Any) -> str:
        """A text for one element of a set, by which it can be sorted."""
        if (text := constant_text(value)) is not None:
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
                if (line := _line_of(value)) is None:
                    self.record("code", *_parts_of(value))
                else:
                    self.whole.update(line)
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
        self.record("function", library_module(home), function.__qualname__)
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
            # torch.compile's notes on a function appear when it is first called
            own = [v for name, v in vars(function).items() if not name.startswith("__dynamo")]
            self.record("inside", *filter(is_telling, [*cells.values(), *own]))
            return
        self.is_users |= whose == "user"
        self.record("runs", function.__code__, function.__defaults__, function.__kwdefaults__)
        self.record("with", vars(function))
        inside = {k: v for k, v in cells.items() if not self.stores.keeps_cell(function, k, v)}
        self.record("inside", {k: v for k, v in inside.items() if is_told(v, whose)})
        for chain, owner, value in resolve(function, self.stores.runs(function)):
            if self.stores.keeps(owner, value) or not is_told(value, whose):
                continue
            self.record("reads", ".".join(chain), value)
        if whose == "user":
            self.record("environment", environment_of(function))

    def _builtin(self, value: Any) -> None:
        owner = getattr(value, "__self__", None)
        module = getattr(value, "__module__", None) or getattr(
            getattr(value, "__objclass__", None), "__module__", None
        )
        self.record("builtin", library_module(module or ""), value.__qualname__)
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
        self.record(
            "namespace", library_module(module.__name__) or module.__name__.rpartition(".")[2]
        )
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
        self.record("class", class_name(cls))
        if whose == "library":
            self.libraries.add(cls.__module__.partition(".")[0])
            if issubclass(cls, nn.Module):  # somebody's patches of it, and what it is made from
                patched = {k: v for k, v in sorted(vars(cls).items()) if is_patch(v)}
                bases = [
                    base for base in cls.__mro__[1:] if origin(str(base.__module__)) != "library"
                ]
                self.record("patched", patched, *bases)
            return
        self.is_users |= whose == "user"
        is_lightning = issubclass(cls, pl.LightningModule)
        for name, member in sorted(vars(cls).items()):
            if name in CLASS_MACHINERY or isinstance(
                member, types.MemberDescriptorType | types.GetSetDescriptorType
            ):
                continue
            is_training = is_lightning and name.startswith(tuple(TRAINING))
            if is_training and whose == "user" and not self.trains:
                continue
            if whose == "user" and self.stores.keeps_of_class(name, member):
                continue
            if is_told(member, whose):
                self.record("has", name, member)
        self.record("bases", *cls.__bases__)
        if type(cls) is not type:
            self.record("metaclass", type(cls))
        if whose == "user" and file_digest(cls.__module__) is not None:
            self._compiled(cls.__module__, cls)

    def _module(self, module: nn.Module) -> None:
        attributes = {
            key: value for key, value in vars(module).items() if key not in module_machinery()
        }
        kind = type(module).__module__
        if isinstance(module, Classifier):
            attributes.pop("layout", None)  # no setting: it is known after the first batch
        if kind.startswith(("torch.nn.parallel", "torch._dynamo")):  # they wrap what is told below
            attributes = {}
        if kind.startswith("torch.fx"):
            attributes = {key: value for key, value in attributes.items() if key not in GRAPH}
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
        elif module.partition(".")[0] in sys.stdlib_module_names or is_compiled(cls):
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
            for key, item in sorted(getattr(value, "__dict__", {}).items(), key=first_text)
            if not isinstance(getattr(cls, str(key), None), functools.cached_property)
            and not self.stores.keeps_of(value, key, item)
        }
        state |= {f"slot {name}": getattr(value, name, None) for name in slots_of(cls)}
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
