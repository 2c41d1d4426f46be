"""Lists of names on a command line, where names may be paths: ``mnist,near=folder:/data/birds``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oodbench.errors import OptionError


def split_names(
    values: Sequence[str], option: str, is_there: Callable[[str], bool] | None = None
) -> list[str]:
    """The names in values that are separated by commas.

    What stands in double quotes is one name, commas and spaces included, and ``""`` within is a
    quote: ``'"folder:a,b",mnist'`` are two names. Without quotes several parts are one name where
    that is what is there: ``folder:a,b`` if there is a folder ``a,b``, and no folder ``a``.

    Args:
        values: texts, each with one or more names.
        option: its name, for messages.
        is_there: whether a name is that of a file or folder which exists; None if none is.

    Raises:
        OptionError: a quote that is not closed, or commas that can be read in two ways.
    """
    names: list[str] = []
    for value in values:
        parts = _parts(value, option)
        while parts:
            count = _length(parts, option, is_there) if is_there else 1
            name = _joined(parts[:count])
            names += [name] if parts[0][1] or name else []
            parts = parts[count:]
    return names


def _parts(value: str, option: str) -> list[tuple[str, bool]]:
    """What stands between commas, and whether it was quoted."""
    parts: list[tuple[str, bool]] = []
    text, is_quoted, is_open = "", False, False
    at = 0
    while at < len(value):
        sign = value[at]
        if sign == '"' and is_open and value[at + 1 : at + 2] == '"':
            text += sign
            at += 1
        elif sign == '"' and (is_open or _may_open(text)):
            text = text if is_quoted else text.lstrip()
            is_open = not is_open
            is_quoted = True
        elif sign == "," and not is_open:
            parts.append((text, is_quoted))
            text, is_quoted = "", False
        elif is_open or not (is_quoted and sign == " "):
            text += sign
        at += 1
    if is_open:
        raise OptionError(f"{option} {value}: a double quote is not closed.")
    return [*parts, (text, is_quoted)]


def _joined(parts: list[tuple[str, bool]]) -> str:
    """One name of several parts; spaces around it count where it was quoted."""
    whole = ",".join(text for text, _ in parts)
    return whole if parts[0][1] else whole.strip()


def _may_open(text: str) -> bool:
    """Whether a quote may begin here: at a name's start, or behind ``near=`` or ``folder:``."""
    return not text.strip() or text.endswith(("=", ":"))


def _length(parts: list[tuple[str, bool]], option: str, is_there: Callable[[str], bool]) -> int:
    """How many of the parts are the first name."""
    if parts[0][1]:
        return 1
    joined = [_joined(parts[: n + 1]) for n in range(len(parts))]
    whole = next((n for n, (_, is_quoted) in enumerate(parts) if is_quoted), len(parts))
    lengths = [n for n in range(1, whole) if is_there(joined[n])]
    if not lengths:
        return 1
    name = joined[lengths[-1]]
    if len(lengths) > 1 or is_there(joined[0]):
        other = joined[0] if is_there(joined[0]) else joined[lengths[0]]
        raise OptionError(
            f"{option} {','.join(joined[-1:])}: both {other} and {name} are there. Write names "
            f"with commas in double quotes: {option} '\"{name}\"', and give the others by "
            f"themselves: {option} '\"{other}\"'."
        )
    return lengths[-1] + 1
