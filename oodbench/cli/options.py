"""Options of commands, made of the dataclasses of :mod:`oodbench.settings`.

A command says in its signature which of them it takes, and what it takes besides::

    @spelled_out
    def train(selection: Selection, hardware: HardwareSettings) -> None:
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from oodbench.cli import failures, parsing
from oodbench.settings import GROUPS, OUTPUT, PANELS, Form, Setting, settings_of

Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Print a traceback when something fails.",
        rich_help_panel=OUTPUT,
        callback=failures.show_traceback,
        expose_value=False,
    ),
]

_KINDS: Mapping[Form, Any] = {
    "names": list[str] | None,
    "sets": list[str] | None,
    "pairs": list[str] | None,
    "seeds": str,
    "channels": str | None,
}
"""What typer reads of each form that is not a value as it is."""


@dataclass(frozen=True)
class But:
    """How a command takes a dataclass of settings: whole, but for this.

    Args:
        without: fields that mean nothing to it.
        required: fields that it has no default for.
        optional: fields that may be left out although other commands need them; then None.
        help: what it says of a field instead.
    """

    without: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    help: Mapping[str, str] = field(default_factory=dict)


def spelled_out(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer: its dataclasses of settings are options, read when it runs.

    Raises:
        OptionError: when it runs, of a text that cannot be read.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[type, But]] = {}
    parameters = []
    for own in inspect.signature(command).parameters.values():
        kind, *extras = typing.get_args(hints[own.name]) or (hints[own.name],)
        if kind in GROUPS:
            groups[own.name] = kind, next((e for e in extras if isinstance(e, But)), But())
            parameters += _parameters(*groups[own.name])
        else:
            parameters.append(_parameter(own.name, hints[own.name], own.default))
    parameters.append(_parameter("debug", Debug, False))

    def run(**texts: Any) -> None:
        texts.pop("debug")
        settings = {name: _read(*group, texts) for name, group in groups.items()}
        command(**settings, **texts)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _asked(group: type, but: But) -> dict[str, Setting]:
    """How a command asks for the fields of a dataclass that it takes."""
    return {
        name: dataclasses.replace(
            asked,
            help=but.help.get(name, asked.help),
            is_required=name not in but.optional and (asked.is_required or name in but.required),
        )
        for name, asked in settings_of(group).items()
        if name not in but.without
    }


def _parameters(group: type, but: But) -> list[inspect.Parameter]:
    """The options of a dataclass, in the order of its fields; short forms behind their mapping."""
    hints = typing.get_type_hints(group)
    defaults = {f.name: f.default for f in dataclasses.fields(group)}
    made = []
    for name, asked in _asked(group, but).items():
        default = defaults[name] if asked.written is None else asked.written
        default = None if name in but.optional else default
        flag = flag_of(name, asked)
        if asked.is_switch:
            flag += f"/--no-{flag.removeprefix('--')}"
        panel = asked.panel or PANELS.get(group)
        option = typer.Option(
            flag,
            help=asked.help,
            min=asked.minimum,
            envvar=asked.variable,
            rich_help_panel=panel,
        )
        kind = _KINDS.get(asked.form) or _text(hints[name])
        missing = inspect.Parameter.empty
        made.append(
            _parameter(name, Annotated[kind, option], missing if asked.is_required else default)
        )
        for entry, short in asked.short.items():
            option = typer.Option(
                _dashed(entry), help=short.help, min=short.minimum, rich_help_panel=panel
            )
            made.append(_parameter(entry, Annotated[short.kind | None, option], None))
    return made


def _text(hint: Any) -> Any:
    """A field's type, where a path, or whatever text stands for, is text."""
    if hint is Any:
        return str | None
    kinds = set(typing.get_args(hint) or (hint,))
    return (str | None) if str in kinds and type(None) in kinds else hint


def _read(group: type, but: But, texts: dict[str, Any]) -> Any:
    """The dataclass, of what typer read; that is taken out of ``texts``."""
    values = {}
    for name, asked in _asked(group, but).items():
        value = parsing.read(texts.pop(name), asked.form, flag_of(name, asked))
        entries = {entry: texts.pop(entry) for entry in asked.short}
        if any(entry is not None for entry in entries.values()):
            value = {**(value or {}), **{k: v for k, v in entries.items() if v is not None}}
        values[name] = value
    return group(**values)


def flag_of(name: str, asked: Setting) -> str:
    """The option of a field, with its dashes."""
    return _dashed(asked.flag or name)


def _dashed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
