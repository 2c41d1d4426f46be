"""Names, options and commands from anywhere are shown as they are, and do nothing else."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from oodbench import Benchmark, DatasetSpec, Preprocess
from oodbench.cli.terminal import printable
from oodbench.data.samples import ImageArrays, Samples
from oodbench.results import leaderboard
from oodbench.results.plain import code, markdown, visible
from tests.conftest import REPOSITORY
from tests.helpers.problems import stored_row

PAYLOADS = {
    "script": "<script>alert(1)</script>",
    "image": '<img src=x onerror="alert(1)">',
    "comment": "<!-- hidden",
    "entity": "&lt;b&gt; &#60;i&#62;",
    "bar": "a|b | c",
    "backslash and bar": "a\\|b\\\\|c\\",
    "newline": "one\n\n## two\n| 1 | 2 |",
    "carriage return": "one\rtwo\r\nthree",
    "other line ends": "one\x0btwo\x0cthree\x85four\u2028five\u2029six",
    "code": "`code` ``two`` ```",
    "link": "[click](https://example.com) [x][y] [z]: u",
    "script link": "[click](javascript:alert(1))",
    "picture": "![x](https://example.com/x.png)",
    "autolink": "<https://example.com>",
    "emphasis": "**bold** *slanted* ~~gone~~",
    "formula": "$\\color{red}{x}$",
    "colour": "\x1b[31mred\x1b[0m \x9b1m",
    "title of the window": "\x1b]0;owned\x07",
    "backspace": "msp\x08\x08\x08knn",
    "null": "a\x00b",
    "direction": "abc\u202efdp\u202c\u2066x\u2069\u200f",
    "nothing to see": "m\u200bs\u200dp\ufeff\u00ad\u2060\u3164",
    "tags": "a\U000e0041\U000e0042",
    "half a character": "a\ud83d",
}


def spec(name: str) -> DatasetSpec:
    def load(split: str) -> Samples:
        return ImageArrays(name, np.zeros((2, 4, 4), np.uint8), np.arange(2), ("a", "b"))

    return DatasetSpec(name, load, ("train", "test"), name, name)


def benchmark(text: str = "toy") -> Benchmark:
    made = Benchmark(text, spec(text), (), (spec(text),), Preprocess(4, (0.5,), (0.25,), mode="L"))
    return dataclasses.replace(made, citation=text)


def rows(text: str = "toy") -> list[dict[str, Any]]:
    names = "detector method recipe backbone id benchmark ood modality precision weights command"
    versions = "oodbench torch python git_commit created device id_fingerprint ood_fingerprint"
    made = stored_row(
        **dict.fromkeys(f"{names} {versions}".split(), text),
        detector_options={text: text, "b": [text]},
        recipe_options={text: text},
        preprocess=text,
        selection=text,
        tuned={"ood": [text], "fingerprint": text, "auroc": 0.5, "tried": 2},
        group="far",
        separability=0.5,
    )
    mean = stored_row(**{**made, "ood": f"far({text})", "is_mean": True, "ood_sets": [text]})
    return [made, mean]


def parsed(page: str) -> list[Any]:
    parser = MarkdownIt("commonmark").enable("table").enable("strikethrough")
    return [part for token in parser.parse(page) for part in (token, *(token.children or ()))]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_page_shows_every_field_as_it_is(payload: str) -> None:
    text = PAYLOADS[payload]
    page, plain = leaderboard.render(benchmark(text), rows(text)), leaderboard.render(
        benchmark(), rows()
    )  # fmt: skip
    page.encode("utf-8")
    assert len(page.split("\n")) == len(plain.split("\n"))
    assert all(c == "\n" or visible(c) == c for c in page)
    found, expected = parsed(page), parsed(plain)
    for kind in "html_inline html_block image em_open strong_open s_open heading_open hr".split():
        count = sum(token.type == kind for token in expected)
        assert sum(token.type == kind for token in found) == count, kind
    links = [token.attrs["href"] for token in found if token.type == "link_open"]
    assert len(links) == 2
    assert links[0].startswith("results/")
    assert links[1].endswith(".csv")
    assert "/" not in links[1]
    for kind in ("tr_open", "td_open", "th_open"):
        count = sum(token.type == kind for token in expected)
        assert sum(token.type == kind for token in found) == count, kind
    # and what is read on the page is the text itself
    read = [token.content for token in found if token.type in ("text", "code_inline")]
    read += ["".join(c.content for c in t.children) for t in found if t.children]
    whole = "\n".join(read)
    assert visible(text).strip() in whole


@pytest.mark.parametrize("payload", PAYLOADS)
def test_an_empty_page_too(payload: str) -> None:
    page = leaderboard.render(benchmark(PAYLOADS[payload]), [])
    assert page.startswith("# ")
    assert not [t for t in parsed(page) if t.type in ("html_inline", "html_block", "image")]
    assert len(page.split("\n")) == len(leaderboard.render(benchmark(), []).split("\n"))


ORDINARY = (
    "vit_small_patch16_224.augreg, k=50 (a b) {x} [1, 2] 'q' \"r\" #1 50 % a+b=c; d: e/f? g! – †",
    "near(ssb-hard, ninco)",
    "Dollár & Größe, R&D 東京 çé @home ^2",
    "weights=[]",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert markdown(text) == text
    assert visible(text) == text


def test_code() -> None:
    assert code("oodbench eval --id 'a b' --set k=*") == "`oodbench eval --id 'a b' --set k=*`"
    assert code("a`b") == "a&#96;b"
    assert code("a|b<c") == "a|b&lt;c"
    assert code("a\nb") == "a&#92;nb" or code("a\nb") == "a\\nb"
    assert code("") == ""


def test_what_stays_may_be_told() -> None:
    assert visible("one\ntwo\x1b", keep="\n") == "one\ntwo\\x1b"
    assert visible("\x1b\u202e\U000e0041\r") == "\\x1b\\u202e\\U000e0041\\r"


@pytest.mark.parametrize("payload", [n for n, t in PAYLOADS.items() if visible(t, "\n") != t])
def test_a_terminal_is_shown_the_same(payload: str) -> None:
    text = PAYLOADS[payload]
    shown = printable(text)
    assert shown == visible(text, keep="\n\t")
    shown.encode("utf-8")
    assert shown.isprintable() or "\n" in shown


def test_committed_pages_do_not_move() -> None:
    from oodbench import get_benchmark

    folder = REPOSITORY / "leaderboards"
    seen = 0
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if "Generated by `oodbench leaderboard`" not in text:
            continue  # a text beside them
        name = re.match(r"# (.*)\n", text)
        assert name is not None
        chosen = get_benchmark(benchmark=name[1])
        assert leaderboard.page(chosen, folder) == text
        seen += 1
    assert seen >= 8
