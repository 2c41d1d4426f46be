"""What changes the numbers that a network gives, as one text for keys and rows."""

from __future__ import annotations

from oodbench.errors import OptionError

_COMPILED, _LAST, _NOT_LAST = "compile", "channels-last", "no-channels-last"
_PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


def precision_name(precision: str | int) -> str:
    """Lightning's full name of a precision: keys and rows know ``32`` and ``32-true`` as one.

    What :func:`said` puts behind it stays behind it.
    """
    name, *more = str(precision).split(" + ")
    return " + ".join([_PRECISIONS.get(name, name), *more])


def said(precision: str, is_compiled: bool, channels_last: bool | None) -> str:
    """The precision, and behind a ``+`` what else is not the default."""
    layout = {True: [_LAST], False: [_NOT_LAST], None: []}[channels_last]
    return " + ".join([precision, *([_COMPILED] if is_compiled else []), *layout])


def read(numbers: str) -> tuple[str, bool, bool | None]:
    """What :func:`said` was given.

    Raises:
        OptionError: it says something that is not known here.
    """
    precision, *more = numbers.split(" + ")
    if unknown := set(more) - {_COMPILED, _LAST, _NOT_LAST}:
        raise OptionError(
            f"{numbers!r} says {', '.join(sorted(unknown))} beside the precision, which this "
            "version of oodbench does not know. Was it written by a newer one?"
        )
    last = _LAST in more or None
    return precision, _COMPILED in more, False if _NOT_LAST in more else last
