"""What a board shows -> one html file, with its style, its program and its data inside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)
"""Nothing is fetched from anywhere, and no script runs but the page's own."""


def html(content: Mapping[str, Any]) -> str:
    """The page of a board, which needs no network and sends nothing.

    Data stand in it as JSON that the browser does not run, with ``<``, ``>`` and ``&`` escaped; the
    program puts them on the page as text. So names are shown as they are, whatever is in them.

    Args:
        content: what :func:`oodbench.board.content.content_of` gives of benchmarks, and ``about``.
    """
    style, program = _part("board.css"), _part("board.js")
    policy = _POLICY.format(script=_sha256(program), style=_sha256(style))
    parts = {"POLICY": policy, "STYLE": style, "DATA": embedded(content), "PROGRAM": program}
    # in one pass, so that a mark within the data is what it is: data
    return re.sub(r"@@([A-Z]+)@@", lambda mark: parts[mark[1]], _part("board.html"))


def embedded(value: object) -> str:
    """JSON that may stand in html: ASCII, and without the characters that could end its element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    """A file of the page, with ends of lines as the digest in the policy has them."""
    return files("oodbench.board").joinpath(name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
