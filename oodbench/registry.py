"""One small generic registry for everything that has a name: no torch, no imports until asked.

A name comes from an entry point of any installed package (oodbench's own included) or from a
decorator. ``name:argument`` hands the argument to the registered factory, so ``folder:./birds``
is the plug-in ``folder`` called with ``./birds``.

An entry point with the extra ``alias`` is another name of the thing that the same package declares
in the same group under a name without it, such as an old name that still works::

    vim = "their_package:ViM"
    virtual-logits = "their_package:ViM [alias]"
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from oodbench import sources
from oodbench.errors import OODBenchError, PluginError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from oodbench.benchmark import Benchmark
    from oodbench.dataset import DatasetSpec
    from oodbench.detector import Detector
    from oodbench.measures import Measure
    from oodbench.method import Method
    from oodbench.outputs import Outputs
    from oodbench.tasks.task import Task

T = TypeVar("T")
D = TypeVar("D")


class _Named(Protocol):
    """A class that registration gives its name: a detector, a method, a task, a measure."""

    name: str


class Registry(Generic[T]):
    """The names of one kind of thing, with what they stand for.

    Args:
        kind: what the things are, in the singular, for messages (``"detector"``).
        group: the entry-point group that installed packages use (``"oodbench.detectors"``).
        base: where the things are classes, what they derive from (``"oodbench.Detector"``); it is
            compared by its last name, so that it need not be imported.
        plural: of ``kind``, as ``oodbench list`` has it; by default with an ``s``.
        decorator: public function that registers a thing; by default ``register_<kind>``.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        base: str | None = None,
        *,
        plural: str | None = None,
        decorator: str | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self.base = base
        self.plural = plural or f"{kind}s"
        self.decorator = decorator or f"register_{kind}"
        self._objects: dict[str, T] = {}
        self._aliases: dict[str, str] = {}
        self._entry_points: dict[str, EntryPoint] | None = None
        self._declared_aliases: dict[str, str] = {}
        self._disputed: dict[str, str] = {}

    def _declared(self) -> dict[str, EntryPoint]:
        """Entry points by name, without aliases."""
        if self._entry_points is None:
            points = sources.points_of(self.group)
            self._entry_points = {}
            self._declared_aliases = sources.aliases_of(points)
            for point in points:
                if point.name in self._declared_aliases:
                    continue
                other = self._entry_points.setdefault(point.name, point)
                if other.value != point.value:
                    self._disputed[point.name] = f"{other.value} and {point.value}"
        return self._entry_points

    def names(self) -> list[str]:
        """All known names, sorted, without aliases; nothing is imported."""
        return sorted({*self._declared(), *self._objects})

    def aliases(self) -> dict[str, str]:
        """Other names that work as well, and the name that each of them stands for."""
        declared = set(self._declared())
        both = {**self._declared_aliases, **self._aliases}
        return {a: n for a, n in both.items() if a not in self._objects and a not in declared}

    def canonical(self, name: str) -> str:
        """The name that an alias stands for; any other name as it is."""
        return name if name in self._objects else self.aliases().get(name, name)

    def __contains__(self, name: str) -> bool:
        return name in self._objects or name in self._declared() or name in self.aliases()

    def require(self, name: str) -> None:
        """Refuse a name (or ``name:argument``) that nothing has; nothing is imported.

        Raises:
            UnknownNameError: no such name; the message suggests the nearest.
        """
        head = name.partition(":")[0]
        if head not in self:
            raise UnknownNameError(self._unknown(head))

    def register(self, name: str) -> Callable[[D], D]:
        """A decorator that gives a thing its name.

        Registering the same definition again (a re-run notebook cell) replaces it.

        Raises:
            OODBenchError: the name belongs to something else already.
        """

        def decorate(thing: D) -> D:
            new = _origin(thing)
            if name in self._objects:
                taken = _origin(self._objects[name])
            elif name in self._declared():
                taken = self._declared()[name].value.replace(":", ".")
            elif name in self.aliases():
                taken = f"{self.canonical(name)!r}, of which it is an alias"
            else:
                taken = new
            if taken != new:
                raise OODBenchError(
                    f"the {self.kind} name {name!r} is taken by {taken}; choose another for {new}."
                )
            self._objects[name] = thing  # type: ignore[assignment]
            if isinstance(thing, type):
                cast(_Named, thing).name = name
            return thing

        return decorate

    def alias(self, name: str, of: str) -> None:
        """Let a name stand for another one; lists show the other one alone.

        Raises:
            OODBenchError: the name is taken, or the other one is unknown.
        """
        if of not in self:
            raise UnknownNameError(self._unknown(of))
        if name in self and self.canonical(name) != self.canonical(of):
            raise OODBenchError(f"the {self.kind} name {name!r} is taken; choose another alias.")
        if name != self.canonical(of):
            self._aliases[name] = self.canonical(of)

    def unregister(self, name: str) -> None:
        """Forget a name that a decorator or :meth:`alias` gave (for tests and notebooks)."""
        self._objects.pop(name, None)
        self._aliases.pop(name, None)

    def get(self, name: str) -> T:
        """The thing of that name, imported if need be.

        Raises:
            UnknownNameError: no such name; the message suggests the nearest.
            PluginError: two packages declare it, or what the one that does declares cannot be
                imported, or is something else.
        """
        name = self.canonical(name)
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
            cast(_Named, thing).name = name  # else it has that of its parent
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
        return (
            f"no {self.kind} named {name!r}.{did_you_mean(name, names)} "
            f"See `oodbench list {self.plural}` ({len(names)} known). If you have just added it: "
            f"repeat `pip install -e .`, or decorate it with @oodbench.{self.decorator}."
        )

    def summary(self, name: str) -> str:
        """What a thing is, in one line that is read without importing it.

        It is the first line of the docstring of a class or function, and of anything else the
        ``description`` that it was made with (``THING = Kind(..., description="...")``), or the
        first line of its module's docstring where that is not written there as plain text.

        ``""`` where there is none, or where the package that declares the name is damaged: one
        broken plug-in must not hide the others.
        """
        name = self.canonical(name)
        if name in self._objects:
            return sources.first_line(_doc_of(self._objects[name]))
        point = self._declared()[name]
        return str(_read(lambda: sources.description(point.module, point.attr)) or "")

    def family(self, name: str) -> tuple[str, str]:
        """The module that a thing is in, and the first line of that module's docstring."""
        name = self.canonical(name)
        if name in self._objects and name not in self._declared():
            module = getattr(self._objects[name], "__module__", None) or ""
            return module, sources.first_line(getattr(sys.modules.get(module), "__doc__", "") or "")
        module = self._declared()[name].module
        return module, str(_read(lambda: sources.title(module)) or "")

    def attribute(self, name: str, of: str) -> Any:
        """A class attribute of a thing, read without importing it; None where that cannot be.

        Args:
            name: of the thing.
            of: of the attribute.
        """
        name = self.canonical(name)
        if name in self._objects:
            return getattr(self._objects[name], of, None)
        point = self._declared()[name]
        return _read(lambda: sources.attribute(point.module, point.attr, of))


def _read(find: Callable[[], Any]) -> Any:
    """What is read from a package's source; None where the package is damaged."""
    try:
        return find()
    except KeyboardInterrupt:
        raise
    except BaseException:  # finding a module runs its parent packages, which may do anything
        return None


def _doc_of(thing: object) -> str:
    """An object's own ``description``, or its docstring where it has none."""
    description = getattr(thing, "description", None)
    if isinstance(description, str) and not isinstance(thing, type):
        return description
    thing = thing.func if isinstance(thing, functools.partial) else thing
    return getattr(thing, "__doc__", "") or ""


def _derives(thing: object, base: str) -> bool:
    name = base.rpartition(".")[2]
    return isinstance(thing, type) and any(
        parent.__name__ == name and parent.__module__.startswith("oodbench.")
        for parent in thing.__mro__
    )


def _origin(thing: object) -> str:
    owner = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(owner, '__module__', '?')}.{getattr(owner, '__qualname__', '?')}"


DETECTORS: Registry[type[Detector]] = Registry(
    "detector", "oodbench.detectors", "oodbench.Detector"
)
METHODS: Registry[type[Method]] = Registry("method", "oodbench.methods", "oodbench.Method")
BENCHMARKS: Registry[Benchmark | Callable[..., Benchmark]] = Registry(
    "benchmark", "oodbench.benchmarks"
)
DATASETS: Registry[DatasetSpec | Callable[..., DatasetSpec]] = Registry(
    "dataset", "oodbench.datasets"
)
BACKBONES: Registry[Callable[..., Any]] = Registry("backbone", "oodbench.backbones")
TASKS: Registry[type[Task]] = Registry("task", "oodbench.tasks", "oodbench.Task")
MEASURES: Registry[type[Measure]] = Registry("measure", "oodbench.measures", "oodbench.Measure")
NEEDS: Registry[Callable[[Outputs], bool]] = Registry("need", "oodbench.needs")
"""Functions that say whether outputs have what a detector means by such a word in its ``needs``."""
PREPARATIONS: Registry[Callable[..., None]] = Registry("preparation", "oodbench.preparations")
"""Functions ``prepare(root, report=say)`` that fetch, derive and check a family's files."""
PUBLISHED: Registry[Callable[[], Sequence[Any]]] = Registry("published", "oodbench.published")
"""Functions that give figures which others published; see :mod:`oodbench.results.published`."""

STANDARD_METHOD = "ce"
"""The training method that detectors name which were designed for any classifier."""
STANDARD_DETECTOR = "msp"
"""The detector that is scored where nothing else is asked for: the field's baseline."""

register_detector = DETECTORS.register
register_method = METHODS.register
register_benchmark = BENCHMARKS.register
register_dataset = DATASETS.register
register_task = TASKS.register
register_measure = MEASURES.register
register_need = NEEDS.register
register_preparation = PREPARATIONS.register


@dataclass(frozen=True)
class BackboneKind:
    """What a backbone is declared to take and to give; see :func:`register_backbone`.

    Args:
        takes: ``"images"`` or ``"modalities"``; None where that is not declared.
        gives: ``"features"`` or another word; None where that is not declared.
    """

    takes: str | None
    gives: str | None


def backbone_kind(factory: Callable[..., Any]) -> BackboneKind:
    """What a registered backbone is declared to take and to give."""
    # they are attributes of what a stranger registered: a function, a class or any callable
    return BackboneKind(getattr(factory, "takes", None), getattr(factory, "gives", None))


def register_backbone(
    name: str, *, takes: str | None = None, gives: str | None = None, size: int | None = None
) -> Callable[[D], D]:
    """A decorator that gives a backbone its name: a module, or a function that makes one.

    It is called with ``channels=``, the number of input channels, or a mapping from modalities to
    theirs. What it takes and gives is declared, so that a network which is asked for another
    purpose is refused in words before anything is trained.

    Args:
        name: of the backbone.
        takes: ``"images"`` or ``"modalities"`` (several at a time); None if that is not known.
        gives: ``"features"`` (one vector per sample), or another word that a method has as its
            ``backbone_gives``; None if that is not known.
        size: side of the images that it is made for, in pixels, so that a checkpoint of it is not
            asked for that; None if it is made for any.

    Raises:
        OODBenchError: the name belongs to something else already.
    """

    def decorate(factory: D) -> D:
        for key, value in (("takes", takes), ("gives", gives), ("size", size)):
            if value is not None:
                setattr(factory, key, value)
        return BACKBONES.register(name)(factory)

    return decorate


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


def list_backbones() -> list[str]:
    """Names of all backbones that are registered; timm's work by their names as well."""
    return BACKBONES.names()


def list_tasks() -> list[str]:
    """Names of all tasks: kinds of things that are scored, such as images or pixels."""
    return TASKS.names()


def list_measures() -> list[str]:
    """Names of all measures of a network's outputs."""
    return MEASURES.names()


def list_needs() -> list[str]:
    """Names of all needs that are more than a column of outputs."""
    return NEEDS.names()


def list_preparations() -> list[str]:
    """Names of all preparations of data, for ``oodbench data prepare``."""
    return PREPARATIONS.names()
