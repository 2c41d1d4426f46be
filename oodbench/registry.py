"""One small generic registry for everything that has a name: no torch, no imports until asked.

A name comes from an entry point of any installed package (oodbench's own included) or from a
decorator. ``name:argument`` hands the argument to the registered factory, so ``folder:./birds``
is the plug-in ``folder`` called with ``./birds``.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from oodbench.errors import OODBenchError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing.

    Args:
        kind: what the things are, in the singular, for messages (``"detector"``).
        group: the entry-point group that installed packages use (``"oodbench.detectors"``).
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._objects: dict[str, T] = {}
        self._entry_points: dict[str, EntryPoint] | None = None
        self._disputed: dict[str, str] = {}

    def _declared(self) -> dict[str, EntryPoint]:
        if self._entry_points is None:
            self._entry_points = {}
            for point in entry_points(group=self.group):
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
            OODBenchError: two packages declare it, or the one that does cannot be imported.
        """
        if name not in self._objects:
            if name not in self._declared():
                raise UnknownNameError(self._unknown(name))
            if name in self._disputed:
                raise OODBenchError(
                    f"two installed packages declare the {self.kind} {name!r}: "
                    f"{self._disputed[name]}. Uninstall one, or have it renamed."
                )
            point = self._declared()[name]
            try:
                thing = point.load()
            except (ImportError, AttributeError) as error:
                raise OODBenchError(
                    f"the {self.kind} {name!r} is declared as {point.value}, which cannot be "
                    f"imported ({error}). Repair or uninstall the package that declares it."
                ) from error
            self._objects.setdefault(name, thing)
        return self._objects[name]

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
        except Exception:  # finding a module runs its parent packages, which may raise anything
            return ""
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == point.attr:
                return (ast.get_docstring(node) or "").partition("\n")[0]
        return (ast.get_docstring(tree) or "").partition("\n")[0]


def _origin(thing: object) -> str:
    owner = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(owner, '__module__', '?')}.{getattr(owner, '__qualname__', '?')}"


DETECTORS: Registry[Any] = Registry("detector", "oodbench.detectors")
METHODS: Registry[Any] = Registry("method", "oodbench.methods")
BENCHMARKS: Registry[Any] = Registry("benchmark", "oodbench.benchmarks")
DATASETS: Registry[Any] = Registry("dataset", "oodbench.datasets")
BACKBONES: Registry[Any] = Registry("backbone", "oodbench.backbones")
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
