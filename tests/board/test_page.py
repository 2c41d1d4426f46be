"""The html of a board: whole in itself, and names in it are text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from oodbench.board.page import embedded, html

EVIL = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--",
    "a | b `c` \"d\" 'e' & &amp; \\u003c",
    "שלום עולם",
    "\u2028line\u2029",
    "\ud800 alone",
]


class _Elements(HTMLParser):
    """Elements with their attributes, and what is in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        key = f"{tag} {attributes.get('type') or ''}".strip()
        if tag in ("script", "style"):
            self.inside.setdefault(key, data)


def content(names: list[str]) -> dict[str, Any]:
    return {"oodbench": "1", "leftOut": [], "benchmarks": [], "names": names}


@pytest.mark.parametrize("name", EVIL)
def test_a_name_stays_text(name: str) -> None:
    page = html(content([name]))
    parsed = _Elements(page)
    assert [tag for tag, _ in parsed.elements].count("script") == 2
    assert not [tag for tag, _ in parsed.elements if tag == "img"]
    assert json.loads(parsed.inside["script application/json"])["names"] == [name]
    page.encode("utf-8")


def test_embedded_json_is_ascii_without_what_html_reads() -> None:
    text = embedded(EVIL)
    assert text.isascii()
    assert not set(text) & set("<>&")
    assert json.loads(text) == EVIL


def test_a_name_that_is_a_mark_of_the_template_stays_a_name() -> None:
    names = ["@@PROGRAM@@", "@@DATA@@", "@@STYLE@@"]
    parsed = _Elements(html(content(names)))
    assert json.loads(parsed.inside["script application/json"])["names"] == names
    assert "use strict" in parsed.inside["script"]


def test_nothing_is_fetched() -> None:
    page = html(content(EVIL))
    parsed = _Elements(page)
    for tag, attributes in parsed.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img", "audio", "video")
        assert not {"src", "srcset", "action", "ping", "background", "style"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        if "href" in attributes:
            assert str(attributes["href"]).startswith(("#", "data:,"))
    outside = re.findall(r"(?:https?:)?//[\w.]+\.\w+", page)
    assert set(outside) <= {"http://www.w3.org"}, "the namespace of SVG, which nobody fetches"
    assert "@import" not in page
    assert "url(" not in page


def test_the_policy_lets_the_own_program_run_and_nothing_else() -> None:
    parsed = _Elements(html(content([])))
    policy = next(a["content"] for tag, a in parsed.elements if a.get("http-equiv"))
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert rules["script-src"] == f"'sha256-{digest(parsed.inside['script'])}'"
    assert rules["style-src"] == f"'sha256-{digest(parsed.inside['style'])}'"
    assert "unsafe" not in policy


def test_the_program_makes_no_html_of_data() -> None:
    program = _Elements(html(content([]))).inside["script"]
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "sendBeacon",
        "import(",
    ):
        assert word not in program  # fmt: skip


def test_a_page_is_made_without_torch() -> None:
    words = "import sys; from oodbench.board.page import html; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
