"""Which of a user's code runs in a forward pass, and what it changes outside of itself.

A network that counts its calls is still the same network: what its code stores to, in a forward
pass, is no setting of it. What other code stores to, such as a function that changes a setting, is.
"""

from __future__ import annotations

import collections
import importlib
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
from torch import nn

from oodbench.caching.origin import is_outside, origin
from oodbench.caching.reads import Chain, reads

_ENTRIES = frozenset("forward outputs detect head maps modality_heads own_preprocess".split())
_NOT_RUN = frozenset(
    """
    __class_getitem__ __deepcopy__ __copy__ __del__ __dir__ __getstate__ __init__ __new__
    __init_subclass__ __reduce__ __reduce_ex__ __repr__ __setstate__ __sizeof__ __str__
    """.split()
)
_COLLECTIONS = (list, dict, set, collections.deque, bytearray)

Owner = tuple[str, str]
"""A module's name, and the name of a variable in it."""


@dataclass
class Stores:
    """The places outside of itself that running code stores to.

    Args:
        codes: identities of the code objects that run.
        variables: module variables that are assigned, or whose items are.
        filled: module variables that are filled (``append`` and its kin).
        attributes: attributes, of anything, that are assigned, or whose items are.
        filled_attributes: those that are filled.
        read: attributes that are read for more than that.
        outside: names of what it reaches for that is no part of this process.
    """

    codes: set[int] = field(default_factory=set)
    variables: set[Owner] = field(default_factory=set)
    filled: set[Owner] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    filled_attributes: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    outside: list[str] = field(default_factory=list)

    def runs(self, function: types.FunctionType) -> bool:
        """Whether it is known to run in a forward pass."""
        return id(function.__code__) in self.codes

    def keeps(self, owner: Owner | None, value: Any) -> bool:
        """Whether a module's variable is one that running code changes."""
        return owner in self.variables or (owner in self.filled and isinstance(value, _COLLECTIONS))

    def keeps_cell(self, function: types.FunctionType, name: str, value: Any) -> bool:
        """Whether a variable of an outer function is one that this function changes."""
        read = reads(function.__code__)
        is_filled = (name,) in read.filled and isinstance(value, _COLLECTIONS)
        return (name,) in read.stored or is_filled

    def keeps_of_class(self, name: str, value: Any) -> bool:
        """Whether a class attribute is one where running code counts or collects."""
        if isinstance(value, bool) or not isinstance(value, (int, *_COLLECTIONS)):
            return False
        return name in self.attributes or name in self.filled_attributes

    def keeps_of(self, owner: Any, name: Any, value: Any) -> bool:
        """Whether an instance's attribute is one that running code writes and never reads."""
        if name in self.read or isinstance(value, nn.Module) or not _is_all_users(type(owner)):
            return False
        is_filled = name in self.filled_attributes and isinstance(value, _COLLECTIONS)
        return name in self.attributes or is_filled


class _Reach:
    """What running code can reach, found from its entries by the names that it uses."""

    def __init__(self, network: nn.Module) -> None:
        self.stores = Stores()
        self.waiting: list[types.FunctionType] = []
        self.members: dict[str, list[Any]] = {}  # of users' classes, by name, until they are used
        self.classes: set[type] = set()
        self.words: set[str] = set(_ENTRIES)
        self.by_name = False
        for module in network.modules():
            self.meet(module)
            for value in vars(module).values():
                for item in _items(value):
                    self.meet(item)
        while self.waiting or self._called():
            function = self.waiting.pop()
            if id(function.__code__) not in self.stores.codes:
                self.stores.codes.add(id(function.__code__))
                self._trace(function)

    def meet(self, value: Any) -> None:
        """A value that running code can reach, with the code that comes with it."""
        self.waiting += _code_of(value)
        is_class = isinstance(value, type)
        cls = value if is_class else type(value)
        if cls in self.classes:
            return
        self.classes.add(cls)
        for base in cls.__mro__:
            if origin(str(base.__module__)) != "user":
                continue
            for name, member in vars(base).items():
                if name in ("__init__", "__new__") and is_class:  # it may make one
                    self.waiting += _code_of(member)
                self.members.setdefault(name, []).append(member)

    def _called(self) -> bool:
        """Whether members that are known by now to run were found."""
        for name in list(self.members):
            is_special = name.startswith("__") and name not in _NOT_RUN
            if name in self.words or is_special or (self.by_name and name not in _NOT_RUN):
                for member in self.members.pop(name):
                    self.waiting += _code_of(member)
        return bool(self.waiting)

    def _trace(self, function: types.FunctionType) -> None:
        stores = self.stores
        for cell in function.__closure__ or ():
            if cell != types.CellType():
                self.meet(cell.cell_contents)
        for value in vars(function).values():
            self.meet(value)
        if origin(str(function.__globals__.get("__name__") or "")) != "user":
            return
        read = reads(function.__code__)
        self.words |= read.words
        self.by_name |= read.by_name
        stores.attributes |= read.stored_attributes
        stores.filled_attributes |= read.filled_attributes
        stores.read |= read.read_attributes
        if read.by_name:
            stores.read |= read.words
        for chains, owners in ((read.stored, stores.variables), (read.filled, stores.filled)):
            owners |= {owner for chain in chains if (owner := _owner(function, chain))}
        for chain, _, value in resolve(function, True):
            if isinstance(value, types.ModuleType):
                home = value.__name__
            else:
                home = str(getattr(value, "__module__", None) or "")
            if is_outside(home):
                stores.outside.append(".".join(chain))
            self.meet(value)


def stores_of(network: nn.Module) -> Stores:
    """What the user's code in a network stores to when the network runs."""
    return _Reach(network).stores


def stores_of_class(cls: type) -> Stores:
    """What the methods of a class and of its bases that are a user's store to."""
    stores = Stores()
    for base in cls.__mro__:
        if origin(str(base.__module__)) != "user":
            continue
        for function in (code for member in vars(base).values() for code in _code_of(member)):
            read = reads(function.__code__)
            stores.codes.add(id(function.__code__))
            stores.attributes |= read.stored_attributes
            stores.filled_attributes |= read.filled_attributes
            stores.read |= read.read_attributes
            for chains, owners in ((read.stored, stores.variables), (read.filled, stores.filled)):
                owners |= {owner for chain in chains if (owner := _owner(function, chain))}
    return stores


def _is_all_users(cls: type) -> bool:
    """Whether no library's code reads its attributes."""
    bare = (object, *nn.Module.__mro__, *pl.LightningModule.__mro__)
    return all(base in bare or origin(str(base.__module__)) == "user" for base in cls.__mro__)


def _items(value: Any) -> Iterable[Any]:
    """A value, and what it holds if it is a small collection."""
    if isinstance(value, dict):
        return [value, *list(value.values())[:100]]
    return [value, *list(value)[:100]] if isinstance(value, list | tuple | set) else [value]


def _code_of(value: Any) -> list[types.FunctionType]:
    """The functions that a callable, a method or a property is."""
    functions: list[types.FunctionType] = []
    waiting = [value]
    for _ in range(100):  # what wraps itself must not hold us
        if not waiting:
            break
        value = waiting.pop()
        kind = type(value)
        if kind is types.FunctionType:
            functions.append(value)
        elif kind in (types.MethodType, staticmethod, classmethod):
            waiting.append(value.__func__)
        elif kind is property:
            waiting += [f for f in (value.fget, value.fset) if f is not None]
        elif kind.__module__ == "functools":
            waiting += [
                inner
                for name in ("func", "__wrapped__")
                if (inner := getattr(value, name, None)) is not None
            ]
    return functions


def resolve(function: types.FunctionType, runs: bool) -> Iterator[tuple[Chain, Owner | None, Any]]:
    """The values that a function's code reads by name from outside of itself.

    Args:
        function: whose code.
        runs: whether it is known to run: then what it imports is imported.

    Yields:
        The name with what is asked of it, the module's variable that it is, and the value.
    """
    read = reads(function.__code__)
    names = function.__globals__
    chains = list(read.chains)
    if read.by_name:
        chains += [(w,) for w in sorted(read.words) if w in names and not w.startswith("__")]
    for chain in dict.fromkeys(chains):
        if chain[0] in names:
            yield chain, *_follow(names, chain)
    if runs:
        for name, level, taken in read.imports:
            module = _imported(name, level, names)
            if module is None:
                continue
            for part in taken:
                if (inner := getattr(module, part, None)) is not None:
                    yield (name, part), (module.__name__, part), inner
            if not taken:
                yield (name,), None, module


def _follow(names: dict[str, Any], chain: Chain) -> tuple[Owner | None, Any]:
    value = names[chain[0]]
    owner: Owner = (str(names.get("__name__") or ""), chain[0])
    for attribute in chain[1:]:
        if not isinstance(value, types.ModuleType) or attribute not in vars(value):
            break
        owner, value = (value.__name__, attribute), vars(value)[attribute]
    return owner, value


def _owner(function: types.FunctionType, chain: Chain) -> Owner | None:
    """The module's variable that a chain is, if it is one and not something inside it."""
    names = function.__globals__
    home = str(names.get("__name__") or "")
    if len(chain) == 1:
        return (home, chain[0])
    value = names.get(chain[0])
    for attribute in chain[1:-1]:
        value = vars(value).get(attribute) if isinstance(value, types.ModuleType) else None
    return (value.__name__, chain[-1]) if isinstance(value, types.ModuleType) else None


def _imported(name: str, level: int, names: dict[str, Any]) -> types.ModuleType | None:
    """A user's module that code imports when it runs."""
    package = str(names.get("__package__") or "")
    try:
        if level:
            name = importlib.util.resolve_name("." * level + name, package)
        if origin(name) != "user":
            return None
        return sys.modules.get(name) or importlib.import_module(name)
    except Exception:  # it may be one that the code can do without
        return None
