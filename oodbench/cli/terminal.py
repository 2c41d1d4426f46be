"""Printing that loses no work: what cannot be printed is told by the exit status, never raised.

A reader that went away (``| head -1``), a full disk, a closed stream, a terminal without the
characters: each used to end a command after all of its work.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from typing import Any

from oodbench.results.plain import visible

_PLAIN = {"–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "·": ".", "•": "*", "±": "+-"}  # noqa: RUF001
_BOX = range(0x2500, 0x2580)
_UPRIGHT = "│┃║"


def plain(text: str, encoding: str) -> str:
    """A text as an encoding can have it: signs and lines by their nearest, others escaped."""
    return "".join(_plain(character, encoding) for character in text)


def _plain(character: str, encoding: str) -> str:
    with contextlib.suppress(UnicodeEncodeError):
        character.encode(encoding)
        return character
    if ord(character) in _BOX:
        return "|" if character in _UPRIGHT else "-" if character in "─━═" else "+"
    near = _PLAIN.get(character) or unicodedata.normalize("NFKD", character)
    return near.encode("ascii", "ignore").decode() or ascii(character)[1:-1]


def printable(text: str) -> str:
    """A text without what would move a cursor, or colour, turn or hide what stands there."""
    return visible(text, keep="\n\t")


def wrapped(text: str, stream: Any = None) -> str:
    """A printable text in lines that a terminal does not cut within a word.

    Words that are longer than a line, such as addresses, stay whole, to be copied; what is no
    terminal gets each line as it is.

    Args:
        text: lines.
        stream: where it is printed; None for the standard output.
    """
    text = printable(text)
    if not (stream or sys.stdout).isatty():
        return text
    wrap = textwrap.TextWrapper(
        shutil.get_terminal_size().columns,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )
    return "\n".join("\n".join(wrap.wrap(line)) for line in text.split("\n"))


class Printed(io.TextIOBase):
    """A stream whose ``write`` and ``flush`` never raise; what went wrong is in ``error``.

    Args:
        stream: where to print; None if it is closed.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.error: OSError | None = None
        if stream is None:
            self.error = OSError(errno.EBADF, os.strerror(errno.EBADF))

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream behind this one."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether the stream behind this one is a terminal."""
        return self.error is None and self.stream.isatty()

    def fileno(self) -> int:
        """The file descriptor of the stream behind this one."""
        if self.stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self.stream.fileno())

    def writable(self) -> bool:
        """Always true: output is what this stream is for."""
        return True

    def write(self, text: str) -> int:
        """Print a text, as far as that can be done."""
        if not isinstance(text, str):
            raise TypeError(f"text is printed, not {type(text).__name__}")
        if self.error is None:
            try:
                try:
                    self.stream.write(text)
                except UnicodeEncodeError:
                    self.stream.write(plain(text, self.encoding))
            except (OSError, ValueError) as error:
                self._broke(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind this one."""
        if self.error is None:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._broke(error)

    def _broke(self, error: Exception) -> None:
        self.error = error if isinstance(error, OSError) else OSError(errno.EBADF, str(error))
        with contextlib.suppress(OSError, ValueError):
            # What is left in the stream's buffer goes nowhere, and fails no more at the end.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


class Printing:
    """Standard output and standard error, guarded.

    Attributes:
        out: what is now ``sys.stdout``.
        err: what is now ``sys.stderr``.
    """

    def __init__(self) -> None:
        self.out, self.err = Printed(sys.stdout), Printed(sys.stderr)

    def status(self, status: int) -> int:
        """The exit status: that of the command, or one that says that its output was lost."""
        self.out.flush()
        error = self.out.error
        if error is None or status not in (0, None):
            return status
        if error.errno == errno.EPIPE:
            return 141  # as of a program that SIGPIPE ends
        self.err.write(
            f"error: the output could not be printed ({error.strerror}). What was computed is "
            "kept: the same command prints it.\n"
        )
        self.err.flush()
        return 1


@contextlib.contextmanager
def guarded() -> Iterator[Printing]:
    """``sys.stdout`` and ``sys.stderr`` that never raise, within the block."""
    for number in (0, 1, 2):  # else the next file that is opened would be what is printed to
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    printing = Printing()
    sys.stdout, sys.stderr = printing.out, printing.err
    try:
        yield printing
    finally:
        printing.out.flush()
        printing.err.flush()
        sys.stdout, sys.stderr = before
