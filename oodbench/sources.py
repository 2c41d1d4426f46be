"""What packages declare, and what the source of a module says of the things in it; nothing runs.

So names can be listed with what they are and sorted by what they do, in a fraction of a second:
importing the modules would import torch.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any


def source(module: str) -> ast.Module | None:
    """The syntax tree of a module; None where there is no Python file."""
    found = version(module)
    return None if found is None else _parsed(*found)


def version(module: str) -> tuple[str, int] | None:
    """A module's Python file and when it was changed; None where there is no such file."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return spec.origin, Path(spec.origin).stat().st_mtime_ns


@functools.lru_cache(maxsize=64)
def _parsed(path: str, _changed: int) -> ast.Module:
    """A file's tree; one family of datasets is asked for it dozens of times."""
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def title(module: str) -> str:
    """The first line of a module's docstring; ``""`` where there is none."""
    tree = source(module)
    return "" if tree is None else first_line(ast.get_docstring(tree) or "")


def description(module: str, name: str) -> str:
    """One line on a thing: of its docstring, or of the ``description`` that it was made with.

    That of the module where neither is written there as plain text.
    """
    tree = source(module)
    if tree is None:
        return ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return first_line(ast.get_docstring(node) or "")
    value = _assigned(tree.body, name)
    for keyword in value.keywords if isinstance(value, ast.Call) else []:
        if keyword.arg == "description" and isinstance(keyword.value, ast.Constant):
            return first_line(str(keyword.value.value))
    return first_line(ast.get_docstring(tree) or "")


def attribute(module: str, name: str, of: str) -> Any:
    """The literal value of a class attribute, its own or inherited; None where it is not written.

    Args:
        module: where the class is.
        name: of the class.
        of: of the attribute.
    """
    tree = source(module)
    for node in tree.body if tree is not None else []:
        if isinstance(node, ast.ClassDef) and node.name == name:
            value = _literal(_assigned(node.body, of))
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            inherited = (attribute(module, base, of) for base in bases if base != name)
            return value if value is not None else next((v for v in inherited if v), None)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return attribute(_absolute(node, module), alias.name, of)
    return None


def first_line(text: str) -> str:
    """The first line of a text, without blanks around it."""
    return text.strip().partition("\n")[0].strip()


def _assigned(body: list[ast.stmt], name: str) -> ast.expr | None:
    """The expression that a name is given in some statements."""
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    return None


def _literal(value: ast.expr | None) -> Any:
    """What an expression is, as far as it can be read; sets may be in ``frozenset(...)``."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        value = value.args[0] if value.func.id == "frozenset" and value.args else None
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that an import in another one names."""
    name = "." * node.level + (node.module or "")
    return importlib.util.resolve_name(name, module.rpartition(".")[0] or None)


def points_of(group: str) -> list[EntryPoint]:
    """Entry points of a group, of each package whose declarations can be read."""
    try:
        return list(entry_points(group=group))
    except Exception:  # one package's file has a line that is none; the others' must be found
        points: list[EntryPoint] = []
        for distribution in distributions():
            with contextlib.suppress(Exception):
                points += [point for point in distribution.entry_points if point.group == group]
        return list({(point.name, point.value): point for point in points}.values())


def aliases_of(points: list[EntryPoint]) -> dict[str, str]:
    """Names whose entry point says that it is an alias, and the names that they stand for."""
    canonical = {(p.module, p.attr): p.name for p in points if "alias" not in p.extras}
    aliases = {p.name: (p.module, p.attr) for p in points if "alias" in p.extras}
    return {name: canonical[place] for name, place in aliases.items() if place in canonical}
