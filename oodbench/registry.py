"""One small generic registry for everything that has a name: no torch, no imports until asked.

A name comes from an entry point of any installed package (oodbench's own included) or from a
decorator. ``name:argument`` hands the argument to the registered factory, so ``folder:./birds``
is the plug-in ``folder`` called with ``./birds``.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from oodbench.errors import OODBenchError, PluginError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing.

    Args:
        kind: what the things are, in the singular, for messages (``"detector"``).
        group: the entry-point group that installed packages use (``"oodbench.detectors"``).
        base: where the things are classes, what they derive from (``"oodbench.Detector"``); it is
            compared by its last name, so that it need not be imported.
    """

    def __init__(self, kind: str, group: str, base: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self.base = base
        self._objects: dict[str, T] = {}
        self._entry_points: dict[str, EntryPoint] | None = None
        self._disputed: dict[str, str] = {}

    def _declared(self) -> dict[str, EntryPoint]:
        if self._entry_points is None:
            self._entry_points = {}
            for point in _points(self.group):
                other = self._entry_points.setdefault(point.name, point)
                if other.value != point.value:
                    self._disputed[point.name] = f"{other.value} and {point.value}"
        return self._entry_points

    def names(self) -> list[str]:
        """All known names, sorted; nothing is imported."""
        return sorted({*self._declared(), *self._objects})

    def __contains__(self, name: str) -> bool:
        return name in self._objects or name in self._declared()

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that gives a thing its name.

        Registering the same definition again (a re-run notebook cell) replaces it.

        Raises:
            OODBenchError: the name belongs to something else already.
        """

        def decorate(thing: T) -> T:
            new = _origin(thing)
            if name in self._objects:
                taken = _origin(self._objects[name])
            elif name in self._declared():
                taken = self._declared()[name].value.replace(":", ".")
            else:
                taken = new
            if taken != new:
                raise OODBenchError(
                    f"the {self.kind} name {name!r} is taken by {taken}; choose another for {new}."
                )
            self._objects[name] = thing
            if isinstance(thing, type):
                thing.name = name  # type: ignore[attr-defined]
            return thing

        return decorate

    def unregister(self, name: str) -> None:
        """Forget a name that a decorator gave (for tests and notebooks)."""
        self._objects.pop(name, None)

    def get(self, name: str) -> T:
        """The thing of that name, imported if need be.

        Raises:
            UnknownNameError: no such name; the message suggests the nearest.
            PluginError: two packages declare it, or what the one that does declares cannot be
                imported, or is something else.
        """
        if name not in self._objects:
            if name not in self._declared():
                raise UnknownNameError(self._unknown(name))
            self._objects.setdefault(name, self._loaded(name))
        return self._objects[name]

    def _loaded(self, name: str) -> T:
        point = self._declared()[name]
        if name in self._disputed:
            raise PluginError(
                f"two installed packages declare the {self.kind} {name!r}: "
                f"{self._disputed[name]}. Uninstall one, or have it renamed."
            )
        try:
            thing: T = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # importing runs a stranger's code
            raise self._broken(
                name, f"cannot be imported ({type(error).__name__}: {error})"
            ) from error
        if self.base is not None and not _derives(thing, self.base):
            raise self._broken(name, f"is no class that derives from {self.base}")
        if self.base is not None and "name" not in vars(thing):
            thing.name = name  # type: ignore[attr-defined]  # else it has that of its parent
        if isinstance(thing, types.ModuleType):
            raise self._broken(name, "is a module; an entry point names MODULE:THING")
        return thing

    def _broken(self, name: str, what: str) -> PluginError:
        point = self._declared()[name]
        package = f" of the package {point.dist.name} {point.dist.version}" if point.dist else ""
        return PluginError(
            f"the {self.kind} {name!r}{package} is declared as {point.value!r}, which {what}. "
            "Repair or uninstall the package that declares it."
        )

    def resolve(self, name: str) -> Any:
        """Like :meth:`get`, but ``name:argument`` calls the registered factory with it."""
        head, colon, argument = name.partition(":")
        if not colon:
            return self.get(name)
        thing = self.get(head)
        if not callable(thing):
            raise UnknownNameError(
                f"the {self.kind} {head!r} takes nothing after a colon, but {name!r} was asked for."
            )
        return thing(argument)

    def _unknown(self, name: str) -> str:
        names = self.names()
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        guess = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        return (
            f"no {self.kind} named {name!r}.{guess} "
            f"See `oodbench list {self.kind}s` ({len(names)} known). If you have just added it: "
            f"repeat `pip install -e .`, or decorate it with @oodbench.register_{self.kind}."
        )

    def summary(self, name: str) -> str:
        """First line of the docstring behind a name, read without importing it.

        ``""`` where there is none, or where the package that declares the name is damaged: one
        broken plug-in must not hide the others.
        """
        if name in self._objects:
            return (getattr(self._objects[name], "__doc__", "") or "").strip().partition("\n")[0]
        point = self._declared()[name]
        try:
            spec = importlib.util.find_spec(point.module)
            if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
                return ""
            tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        except KeyboardInterrupt:
            raise
        except BaseException:  # finding a module runs its parent packages, which may do anything
            return ""
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == point.attr:
                return (ast.get_docstring(node) or "").partition("\n")[0]
        return (ast.get_docstring(tree) or "").partition("\n")[0]


def _points(group: str) -> list[EntryPoint]:
    """Entry points of a group, of each package whose declarations can be read."""
    try:
        return list(entry_points(group=group))
    except Exception:  # a line that is none in one package's file; the others' are to be found
        found: list[EntryPoint] = []
        for distribution in distributions():
            with contextlib.suppress(Exception):
                found += [point for point in distribution.entry_points if point.group == group]
        return list({(point.name, point.value): point for point in found}.values())


def _derives(thing: object, base: str) -> bool:
    name = base.rpartition(".")[2]
    return isinstance(thing, type) and any(
        one.__name__ == name and one.__module__.startswith("oodbench.") for one in thing.__mro__
    )


def _origin(thing: object) -> str:
    owner = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(owner, '__module__', '?')}.{getattr(owner, '__qualname__', '?')}"


DETECTORS: Registry[Any] = Registry("detector", "oodbench.detectors", "oodbench.Detector")
METHODS: Registry[Any] = Registry("method", "oodbench.methods", "oodbench.Method")
BENCHMARKS: Registry[Any] = Registry("benchmark", "oodbench.benchmarks")
DATASETS: Registry[Any] = Registry("dataset", "oodbench.datasets")
BACKBONES: Registry[Any] = Registry("backbone", "oodbench.networks.backbones")
PREPARATIONS: Registry[Any] = Registry("preparation of data", "oodbench.preparations")
"""Functions ``prepare(root, report=say)`` that fetch, derive and check a family's files."""

register_detector = DETECTORS.register
register_method = METHODS.register
register_benchmark = BENCHMARKS.register
register_dataset = DATASETS.register
register_backbone = BACKBONES.register


def list_detectors() -> list[str]:
    """Names of all detectors, installed packages' and decorated ones."""
    return DETECTORS.names()


def list_methods() -> list[str]:
    """Names of all training methods."""
    return METHODS.names()


def list_benchmarks() -> list[str]:
    """Names of all benchmarks."""
    return BENCHMARKS.names()


def list_datasets() -> list[str]:
    """Names of all datasets."""
    return DATASETS.names()
