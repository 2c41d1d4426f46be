"""The core knows no method, detector, dataset or benchmark by name, and no shape of one.

Three rules, over all code of ``oodbench/``:

1. No string is the name of one, and no identifier has it in it. A name may be registered (a task's
   by its room), and ``registry.py`` has the two that are taken where none is named.
2. In texts (messages, help, docstrings, comments) a name is an example, and examples are of a short
   list, so that no sentence has to change when a plug-in does. A paper may be cited as the source
   of a formula or a protocol.
3. No string is a need or a group of OOD sets that only a plug-in has, and the words for what papers
   brought with them do not occur at all.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import itertools
import re
import tokenize
import tomllib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

import oodbench
from oodbench.errors import OptionError
from oodbench.registry import DETECTORS
from tests.conftest import REPOSITORY
from tests.helpers.syntax import nodes

CORE = sorted((REPOSITORY / "oodbench").rglob("*.py"))
POINTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"]
TASKS = set(POINTS["oodbench.tasks"])
KINDS = ("detectors", "methods", "datasets", "benchmarks", "measures", "needs", "preparations")
NAMES = {name for kind in KINDS for name in POINTS[f"oodbench.{kind}"]}

DEFAULTS = "oodbench/registry.py"
WORDS = {
    "core": "of a processor",
    "digits": "what a number is written with",
    "energy": "that of a sound",
    "ensemble": "networks that are asked together",
    "entropy": "cross-entropy, the loss",
    "folder": "of files; `folder:PATH` is what people write for their own images",
    "frozen": "not changed: dataclasses, and layers that are not trained",
    "residual": "what is left of a fit",
    "scale": "by what something is multiplied",
    "ssd": "a network for boxes of torchvision's, which the detector is not",
}
"""Names that are plain words or somebody else's, and what they mean in the core."""
EXAMPLES = {
    "ce", "cifar10", "cifar10/openood", "cifar100", "cifar100/palm", "digits", "energy", "knn",
    "mnist", "msp", "palm", "ptood", "react", "vim",
}  # fmt: skip
"""Names that texts have as examples of what may be asked for."""
SHAPES = ("cosine_head", "familiar", "numerator", "denominator", "linear-probe", "multimodal-ce")
OF_THE_CORE = {"text", "words", "patches", "features", "logits", "labels", "head", "model"}
GIVEN_HERE = {("oodbench/networks/modalities.py", "logits/*")}
"""What a room of the core gives, so that it is no plug-in's there."""


def path_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def documentation(source: str) -> set[int]:
    """Ids of the strings that are documentation: statements by themselves."""
    return {id(node.value) for node in nodes(source) if isinstance(node, ast.Expr)}


def registrations(node: ast.AST) -> list[ast.Call]:
    """Decorators ``@register_...("name")`` of a class or function."""
    calls = [one for one in getattr(node, "decorator_list", ()) if isinstance(one, ast.Call)]
    return [one for one in calls if getattr(one.func, "id", "").startswith("register_")]


def declared(source: str) -> set[int]:
    """Ids of the strings that name what is registered, or the task that a class is for."""
    found = set()
    for node in nodes(source):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found |= {id(arg) for call in registrations(node) for arg in call.args}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            of_task = node.target.id in ("task", "methods_of")
            found |= {id(node.value)} if of_task and node.value is not None else set()
    return found


def strings(source: str) -> Iterator[ast.Constant]:
    for node in nodes(source):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node


def identifiers(source: str) -> Iterator[str]:
    """Words of the code, but for the name of what is registered under it."""
    for node in nodes(source):
        if registrations(node):
            continue
        for attribute in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, attribute, None)
            if isinstance(value, str):
                yield value


def comments(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def as_values(source: str) -> set[str]:
    """Names that strings of the code are."""
    passed = documentation(source) | declared(source)
    values = {node.value for node in strings(source) if id(node) not in passed}
    return values & (NAMES | TASKS)


def as_identifiers(source: str) -> set[str]:
    """Names that identifiers of the code are, or have in them between underscores."""
    inside: set[str] = set()
    for identifier in set(identifiers(source)):
        words = identifier.lower().split("_")
        pieces = itertools.combinations(range(len(words) + 1), 2)
        inside |= {"-".join(words[start:end]) for start, end in pieces}
    return inside & NAMES - WORDS.keys()


@functools.cache
def in_texts(source: str) -> set[str]:
    """Names that are words of strings, documentation or comments."""
    texts = [*(node.value for node in strings(source)), *comments(source)]
    words = {word for text in texts for word in re.findall(r"[A-Za-z0-9][\w/+-]*", text)}
    passed = declared(source)
    registered = {node.value for node in strings(source) if id(node) in passed}
    return (words & NAMES) - registered - WORDS.keys()


@functools.cache
def plugin_words() -> frozenset[str]:
    """Needs that only a detector has, and names of groups that only a benchmark has."""
    needs = {need for name in DETECTORS.names() for need in DETECTORS.get(name).needs}
    groups: set[str] = set()
    for name in oodbench.list_benchmarks():
        with contextlib.suppress(OptionError):  # one that wants an argument, such as folder:PATH
            groups |= oodbench.get_benchmark(benchmark=name).groups.keys()
    return frozenset(needs - OF_THE_CORE | groups - {"near", "far"})


SOURCES = {path_of(path): path.read_text(encoding="utf-8") for path in CORE}


def offences(look: Callable[[str], set[str]], allowed: Collection[str] = ()) -> dict[str, set[str]]:
    """What one of the functions above finds, by file; files without an offence are left out."""
    found = {path: look(source).difference(allowed) for path, source in SOURCES.items()}
    return {path: names for path, names in found.items() if names}


def test_no_name_is_in_the_code() -> None:
    found = offences(as_values)
    assert found.pop(DEFAULTS) == {"ce", "msp"}
    assert found == {}
    assert offences(as_identifiers) == {}


def test_names_in_texts_are_the_examples() -> None:
    assert offences(in_texts, allowed=EXAMPLES) == {}


def test_all_exceptions_are_needed() -> None:
    whole = "\n".join(SOURCES.values())
    assert [word for word in WORDS if word not in whole.lower()] == []
    assert {name for source in SOURCES.values() for name in in_texts(source)} == (
        EXAMPLES - WORDS.keys()
    )
    assert [word for path, word in GIVEN_HERE if word not in SOURCES[path]] == []


def shapes(source: str) -> set[str]:
    """What papers brought with them: their words anywhere, and their needs and groups as values."""
    values = {node.value for node in strings(source)}
    return {word for word in SHAPES if word in source.lower()} | (values & plugin_words())


def test_no_shape_of_a_paper_is_in_the_core() -> None:
    found = {(path, word) for path, words in offences(shapes).items() for word in words}
    assert found == GIVEN_HERE


def test_there_is_what_is_looked_for() -> None:
    assert {"palm", "ce", "digits", "cifar100/palm", "separability", "cosine_head"} <= NAMES
    assert {"cosine_head", "logits/*", "temperature", "familiar", "unfamiliar"} <= plugin_words()


@pytest.mark.parametrize(
    ("line", "looked", "name"),
    [
        ('if method == "palm": pass', as_values, "palm"),
        ('x = {"multimodal-ce": 1}', as_values, "multimodal-ce"),
        ('if benchmark.task == "detection": pass', as_values, "detection"),
        ("def palm_loss(): pass", as_identifiers, "palm"),
        ("benchmark.separability", as_identifiers, "separability"),
        ("run(multiood=1)", as_identifiers, "multiood"),
        ("class PALM: pass", as_identifiers, "palm"),
        ("import oodbench.detectors.knn as knn", as_identifiers, "knn"),
        ('raise ValueError("use abet-react")', in_texts, "abet-react"),
        ('"""Of ptood alone."""', in_texts, "ptood"),
        ("x = 1  # for a2d-npmix", in_texts, "a2d-npmix"),
        ("# familiar sets", shapes, "familiar"),
        ('"logits/*" in detector.needs', shapes, "logits/*"),
        ('outputs.extra["temperature"]', shapes, "temperature"),
    ],
)
def test_each_rule_can_be_broken(line: str, looked: Callable[[str], set[str]], name: str) -> None:
    assert name in looked(line)


def test_what_is_registered_here_is_no_offence() -> None:
    source = '@register_task("detection")\nclass Boxes:\n    methods_of: str = "detection"\n'
    assert as_values(source) == set()
