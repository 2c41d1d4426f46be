"""Options: the fields of dataclasses, read from text and checked by name, type and choices."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from oodbench.errors import OptionError, did_you_mean

T = TypeVar("T")


def option(default: Any, name: str) -> Any:
    """A field whose option goes by another name, such as ``"score"``, which is a method's name."""
    return dataclasses.field(default=default, metadata={"option": name})


def option_fields(cls: Any) -> dict[str, str]:
    """Names of a dataclass's options, and of the fields that hold them."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {f.metadata.get("option", f.name): f.name for f in fields if f.init}


def option_types(cls: Any) -> dict[str, Any]:
    """The options of a dataclass (or of any class's ``__init__``) and their types."""
    if dataclasses.is_dataclass(cls):
        hints = _type_hints(cls)
        return {name: hints[held] for name, held in option_fields(cls).items()}
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.annotation for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}


def _type_hints(thing: Any) -> Mapping[str, Any]:
    """The types of a class's fields, or of an object's."""
    cls: Any = thing if isinstance(thing, type) else type(thing)
    return _read_type_hints(cls)


@functools.lru_cache(maxsize=256)  # annotations are text, which is compiled at each reading
def _read_type_hints(cls: Any) -> Mapping[str, Any]:
    return MappingProxyType(typing.get_type_hints(cls))


def build(cls: Callable[..., T], who: str, options: Mapping[str, Any]) -> T:
    """``cls(**options)`` for a dataclass, with options checked by name and simple type.

    Values may be strings (from a command line) where the field's type is a number, a bool or None.

    Args:
        cls: the class.
        who: what it is, for messages: ``"detector knn"``.
        options: values by the options' names.

    Raises:
        OptionError: an unknown option, a value of another type, or one that ``cls`` refuses.
    """
    types = option_types(cls)
    fields = option_fields(cls)
    values = {}
    for name, value in options.items():
        if name not in types:
            raise OptionError(
                f"{who} has no option {name!r}.{did_you_mean(name, types)} "
                f"Its options: {', '.join(types) or 'none'}."
            )
        values[fields.get(name, name)] = coerced(value, types[name], f"{who}: option {name!r}")
    try:
        return cls(**values)
    except OptionError:
        raise
    except (ValueError, TypeError) as error:
        raise OptionError(f"{who}: {error}") from error


def coerced(value: Any, kind: Any, who: str) -> Any:
    """A value as a field's type has it, where that is a simple one.

    Args:
        value: of that type, or the text of one.
        kind: the type: bool, int, float, str, None, unions, tuples and literals of these; values
            of another type pass as they are.
        who: what the value is of, for messages.

    Raises:
        OptionError: no value of that type.
    """
    origin = typing.get_origin(kind)
    if origin is Literal:
        check_choice(value, kind, who)
        return value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(coerced(part, typing.get_args(kind)[0], who) for part in parts if part != "")
    if origin in (list, dict):
        return value
    return _simple(value, (kind,) if origin is None else typing.get_args(kind), who)


def _simple(value: Any, kinds: tuple[Any, ...], who: str) -> Any:
    """The value as the first of the types that can hold it."""
    text = value.strip().lower() if isinstance(value, str) else None
    if type(None) in kinds and (value is None or text == "none"):
        return None
    for kind in kinds:
        if kind is bool and (isinstance(value, bool) or text in ("true", "false")):
            return text == "true" if text is not None else value
        whole = isinstance(value, int) or (text and text.lstrip("+-").isdigit())
        if kind is int and whole and not isinstance(value, bool):
            return int(value)
        if kind is float and not isinstance(value, bool):
            try:
                return float(value)
            except (TypeError, ValueError):
                pass
        if kind is str and isinstance(value, str):
            return value
    if any(kind in (bool, int, float, str, type(None)) for kind in kinds):
        names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise OptionError(f"{who} must be {names}, not {value!r}.")
    return value


def check_choices(thing: Any, who: str) -> None:
    """Check a dataclass's fields whose type is a ``Literal``.

    Args:
        thing: the dataclass, from within its ``__post_init__``.
        who: what it is, for messages: ``"recipe"``.

    Raises:
        OptionError: a value that its field does not know; names those that it knows.
    """
    try:
        hints = _type_hints(thing)
    except NameError:  # a plug-in's annotations may name what a type checker alone imports
        return
    for name, held in option_fields(thing).items():
        if typing.get_origin(hints[held]) is Literal:
            check_choice(getattr(thing, held), hints[held], f"{who}: {name}")


def check_choice(value: Any, kind: Any, who: str) -> None:
    """Check that a value is one of a ``Literal``'s.

    Raises:
        OptionError: it is none of them; names them all.
    """
    known = typing.get_args(kind)
    if value not in known:
        raise OptionError(f"{who} is {either(known)}, not {value!r}.")


def either(values: Iterable[Any]) -> str:
    """Names as alternatives for a message: ``'a', 'b' or 'c'``."""
    *first, last = map(repr, values)
    return f"{', '.join(first)} or {last}" if first else last
