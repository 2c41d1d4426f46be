"""Text from elsewhere, shown as it is: names, options and commands do nothing but be read."""

from __future__ import annotations

import re
import unicodedata

# what moves the cursor, colours, ends lines, turns the direction of writing or cannot be seen; and
# halves of characters, which no file can hold
_UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Cs")
_BLANK = "\u115f\u1160\u3164\uffa0\u2800\u034f"  # letters and marks that show nothing

_MARKS = {
    "<": "&lt;",
    ">": "&gt;",
    "`": "&#96;",
    "*": "&#42;",
    "~": "&#126;",
    "$": "&#36;",
    "\\": "&#92;",
}
_MARK = re.compile(r"[<>`*~$\\]|&(?=#?\w+;)|\](?=[(\[:])")


def visible(text: str, keep: str = "") -> str:
    r"""A text in which what cannot be seen is written out: a newline is ``\n``, escape ``\x1b``.

    Args:
        text: from anywhere.
        keep: such characters that stay, as ``"\n"`` does where a text has several lines.
    """
    told = text.translate(dict.fromkeys(map(ord, keep)))
    if told.isascii() and told.isprintable():
        return text
    return "".join(c if c in keep or not _is_unseen(c) else _escape(c) for c in text)


def markdown(text: object) -> str:
    """A text that Markdown, and the HTML in it, show as it is; on one line.

    Commas, underscores and all other ordinary punctuation stay what they are. Bars are left to
    what makes a table of it.
    """
    return visible(_MARK.sub(lambda m: _MARKS.get(m[0]) or f"&#{ord(m[0])};", str(text)))


def code(text: object) -> str:
    """A text as code; one that could end or leave it (or a table's cell) is written out instead."""
    shown = visible(str(text))
    return markdown(text) if re.search(r"[<>`&|\\]", shown) or not shown else f"`{shown}`"


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN or character in _BLANK


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
