"""A digest of code as it is written: whether a class is the version that it was, anywhere.

What Python makes of code differs between its versions, so a row that says which code made it says
how that code is written: the same on every machine, without comments, docstrings and layout.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib.util
import inspect
import sys
import textwrap
import weakref
from collections.abc import Iterator, Sequence

from oodbench import files
from oodbench.caching.fingerprint import code_digest
from oodbench.caching.origin import origin
from oodbench.sources import source, version

Nodes = dict[str, list[ast.AST]]
"""The statements that give each name of a module its meaning."""

Read = dict[str, tuple[str, int] | None]
"""Names of modules, with the file of each and when it was changed."""

_KNOWN: weakref.WeakKeyDictionary[type, tuple[str, Read]] = weakref.WeakKeyDictionary()
"""Digests of classes, with the files that were read for them, which may change."""


def written_digest(cls: type) -> str:
    """Hex sha256 over how a class is written, with all of its package that it uses.

    That is the class, and the functions, classes and values of its module and of others in the same
    folder (or below) that it names, that these name, and so on. Code elsewhere, a library's or the
    core's, is not in it: that has versions of its own.

    Args:
        cls: with a file, or made in a session that keeps sources, such as a notebook; otherwise the
            digest is that of what Python made of it.
    """
    known = _KNOWN.get(cls)
    if known is not None and all(_version(name) == found for name, found in known[1].items()):
        return known[0]
    module = str(cls.__module__)
    package = module.rpartition(".")[0] or module
    read: Read = {}
    pieces = dict(_pieces(module, cls.__qualname__, package, read))
    if pieces:
        digest = _digest(cls, pieces)
        _KNOWN[cls] = digest, read
        return digest
    pieces = {base.__qualname__: tree for base in cls.__mro__ if (tree := _of_session(base))}
    return _digest(cls, pieces) if pieces else code_digest(cls)


def _digest(cls: type, pieces: dict[str, str]) -> str:
    return files.digest([cls.__qualname__, sorted(pieces.items())])


def _pieces(module: str, name: str, package: str, read: Read) -> Iterator[tuple[str, str]]:
    """A thing of a module and all of the package that it uses: where it is, and its text."""
    waiting, seen = [(module, name)], {(module, name)}
    while waiting:
        at, called = waiting.pop()
        read.setdefault(at, _version(at))
        nodes = [_bare(node) for node in _module(at).get(called, [])]
        told = [node for node in nodes if not isinstance(node, ast.Import | ast.ImportFrom)]
        if told:
            yield f"{at.removeprefix(f'{package}.')}:{called}", "".join(map(_text, told))
        for place, wanted in _uses(nodes, at, called):
            is_own = place == module or f"{place}.".startswith(f"{package}.")
            if is_own and (place, wanted) not in seen:
                seen.add((place, wanted))
                waiting.append((place, wanted))


_APART = {"paper", "grid", "id_options"}
"""Attributes of classes that tell where one is from and how options are found; rows have these."""


def _bare(node: ast.AST) -> ast.AST:
    """A class without what changes nothing of what it does."""
    if not isinstance(node, ast.ClassDef):
        return node
    bare = copy.copy(node)
    bare.body = [part for part in node.body if not _APART & {*_given(part)}]
    return bare


def _version(name: str) -> tuple[str, int] | None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        return version(name)
    return None


def _module(name: str) -> Nodes:
    """The names of a module; none of one that has no file."""
    with contextlib.suppress(ImportError, ValueError, SyntaxError, OSError):
        if (tree := source(name)) is not None:
            return _names(tree.body)
    return {}


def _names(body: Sequence[ast.stmt]) -> Nodes:
    names: Nodes = {}
    for node in body:
        inner = [getattr(node, part, []) for part in ("body", "orelse", "finalbody")]
        if isinstance(node, ast.If | ast.Try | ast.With):
            for inner_names in map(_names, inner):
                for name, nodes in inner_names.items():
                    names.setdefault(name, []).extend(nodes)
        for name in _given(node):
            names.setdefault(name, []).append(node)
    return names


def _given(node: ast.stmt) -> Iterator[str]:
    """The names that a statement gives a meaning."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name.partition(".")[0]) for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name))


def _uses(nodes: Sequence[ast.AST], module: str, name: str) -> Iterator[tuple[str, str]]:
    """Modules and names in them that statements of a module name."""
    known = _module(module)
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            for alias in node.names:
                if base is not None and (alias.asname or alias.name) == name:
                    yield base, alias.name
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in known and part.id != name:
                yield module, part.id
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                for origin_ in known.get(part.value.id, []):  # a thing of a module that is imported
                    base = _absolute(origin_, module) if isinstance(origin_, ast.ImportFrom) else ""
                    if base:
                        yield f"{base}.{part.value.id}", part.attr


def _absolute(node: ast.ImportFrom, module: str) -> str | None:
    package = module
    if not hasattr(sys.modules.get(module), "__path__"):
        package = module.rpartition(".")[0]
    with contextlib.suppress(ImportError):
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
    return None


def _of_session(cls: type) -> str | None:
    """The source of a class that no module's own is, as far as it is kept."""
    if origin(str(cls.__module__)) == "library":
        return None
    try:
        return _text(ast.parse(textwrap.dedent(inspect.getsource(cls))))
    except (OSError, TypeError, SyntaxError):
        return None


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _text(value: object) -> str:
    """A tree without docstrings and places; ``ast.dump`` differs between versions of Python."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = {name: getattr(value, name, None) for name in value._fields}
    if isinstance(value, _DOCUMENTED) and ast.get_docstring(value, clean=False) is not None:
        fields["body"] = value.body[1:]
    told = (f"{name}={_text(v)}" for name, v in fields.items() if v is not None and v != [])
    return f"{type(value).__name__}({','.join(told)})"
