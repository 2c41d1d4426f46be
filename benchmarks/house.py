"""Counts what the architecture costs: rooms, arrows, circles, parameters, spellings of options.

Usage: ``python benchmarks/house.py [ROOT ...] [--list]``

Each ROOT is a checkout (default: this one); several stand side by side in one table, so that a
change can be shown as before and after: ``git archive COMMIT | tar x -C FOLDER`` gives an older
one. Everything is read from the source by ``ast``; nothing is imported, and only the standard
library is needed. ``--list`` adds the names behind the counts.

A *room* is a module of the core (``oodbench/``); an *arrow* is an import of one room by another
that is run (not one under ``TYPE_CHECKING``). A name of the public API counts as the module that it
comes from. A *circle* is a set of rooms each of which reaches the others. A folder's ``__init__``
that holds nothing but a docstring is no room.
"""

from __future__ import annotations

import argparse
import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

CORE = "oodbench"
FOLDERS = {
    "oodbench": "oodbench",
    "oodbench.detectors": "detectors",
    "oodbench.datasets": "datasets",
}
PLUGINS = "msp knn palm abet ce a2d_npmix a2d npmix ptood".split()
OPTIONS = "batch_size devices epochs lr modality precision seed workers".split()
VAGUE = "found told had given mine ours saw sees noting named suits".split()
LONG = 400


@dataclass(frozen=True)
class Import:
    """One import of a module of ours: who imports, what, on which line, inside which function."""

    source: str
    target: str
    line: int
    function: str | None


class Module:
    """A source file, parsed."""

    def __init__(self, name: str, path: Path, root: Path) -> None:
        self.name = name
        self.path = path
        self.place = path.relative_to(root).as_posix()
        self.text = path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax; whoever asks for names alone waits for no parser."""
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        """Lines, as ``wc -l`` counts them."""
        return self.text.count("\n")

    @property
    def is_package(self) -> bool:
        """Whether it is a folder's ``__init__``."""
        return self.path.name == "__init__.py"

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing but its docstring."""
        return all(isinstance(node, ast.Expr) for node in self.tree.body)

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return (ast.get_docstring(self.tree) or "").partition("\n")[0]

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """All functions, methods and inner ones too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and any(
        "TYPE_CHECKING" in (getattr(one, "id", ""), getattr(one, "attr", ""))
        for one in ast.walk(node.test)
    )


def _import_statements(
    node: ast.AST, function: str | None = None
) -> Iterator[tuple[ast.Import | ast.ImportFrom, str | None]]:
    """The import statements that are run, each with the name of the function around it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, function
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _import_statements(child, function or child.name)
        elif isinstance(child, ast.expr):  # holds no statement
            continue
        elif _is_for_types(child):
            for other in getattr(child, "orelse", []):
                yield from _import_statements(other, function)
        else:
            yield from _import_statements(child, function)


class House:
    """The modules of one checkout and the imports among them."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.modules: dict[str, Module] = {}
        self._imports: dict[str, list[Import]] = {}
        for package, folder in FOLDERS.items():
            for path in sorted((self.root / folder).rglob("*.py")):
                parts = path.relative_to(self.root / folder).with_suffix("").parts
                name = ".".join([package, *(part for part in parts if part != "__init__")])
                self.modules[name] = Module(name, path, self.root)

    @cached_property
    def rooms(self) -> dict[str, Module]:
        """The modules of the core by their dotted names, without empty ``__init__`` files."""
        return {
            name: module
            for name, module in self.modules.items()
            if not name.startswith(("oodbench.detectors", "oodbench.datasets"))
            and not module.is_empty
        }

    @cached_property
    def public(self) -> dict[str, str]:
        """Names of the public API and the modules that they come from."""
        for node in self.modules[CORE].tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
                table = ast.literal_eval(node.value)
                return {name: f"{CORE}.{home}" for home, names in table.items() for name in names}
        return {}

    def _resolved(self, name: str) -> str | None:
        """The module of ours that the dotted name is, or stands in."""
        parent, _, last = name.rpartition(".")
        if parent == CORE and last in self.public and name not in self.modules:
            return self.public[last]
        while name and name not in self.modules:
            name = name.rpartition(".")[0]
        return name or None

    def imports_of(self, module: Module) -> list[Import]:
        """The imports of modules of ours by this one, without those for type checkers."""
        if module.name not in self._imports:
            self._imports[module.name] = self._read_imports(module)
        return self._imports[module.name]

    def _read_imports(self, module: Module) -> list[Import]:
        result = []
        for statement, function in _import_statements(module.tree):
            if isinstance(statement, ast.Import):
                names = [alias.name for alias in statement.names]
            else:
                base = statement.module or ""
                if statement.level:
                    up = module.name.split(".")
                    up = up[: len(up) - statement.level + module.is_package]
                    base = ".".join([*up, base] if base else up)
                names = [f"{base}.{alias.name}" for alias in statement.names]
            for name in names:
                target = self._resolved(name)
                if target is not None and target != module.name:
                    result.append(Import(module.name, target, statement.lineno, function))
        return result

    @cached_property
    def imports(self) -> list[Import]:
        """All imports of modules of ours, each once a statement and target."""
        everything = (self.imports_of(module) for module in self.modules.values())
        return list(dict.fromkeys(one for some in everything for one in some))

    def arrows(self, inside_functions: bool) -> dict[str, set[str]]:
        """For each room the rooms that it imports; the face ``oodbench`` itself is left out."""
        graph: dict[str, set[str]] = {name: set() for name in self.rooms if name != CORE}
        for one in self.imports:
            runs = inside_functions or one.function is None
            if runs and one.source in graph and one.target in graph:
                graph[one.source].add(one.target)
        return graph

    def pulled_in(self, name: str) -> set[str]:
        """The rooms that are loaded when the module is imported."""
        reached: set[str] = set()
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current in reached or current == CORE:
                continue
            reached.add(current)
            waiting.append(current.rpartition(".")[0])  # a folder's __init__ is run as well
            waiting += [
                one.target for one in self.imports_of(self.modules[current]) if one.function is None
            ]
        return {one for one in reached if one in self.rooms}

    def reach(self, inside_functions: bool) -> dict[str, set[str]]:
        """For each room all rooms that arrows lead to from it."""
        graph = self.arrows(inside_functions)
        result = {}
        for name in graph:
            reached: set[str] = set()
            waiting = [*graph[name]]
            while waiting:
                current = waiting.pop()
                if current not in reached:
                    reached.add(current)
                    waiting += graph[current]
            result[name] = reached
        return result

    def parameters(self) -> dict[str, int]:
        """Parameters of ``evaluate`` and of each command's function."""
        command_line = [m for m in self.rooms.values() if f"{m.name}.".startswith(f"{CORE}.cli.")]
        functions = {node.name: node for m in command_line for node in m.functions()}
        counts = {}
        for module in command_line:
            for name, function in _commands(module):
                if function in functions:
                    counts[f"oodbench {name}"] = _arity(functions[function])
        for module in self.rooms.values():
            for node in module.tree.body:
                if isinstance(node, ast.FunctionDef) and node.name == "evaluate":
                    counts["evaluate(...)"] = _arity(node)
        return counts


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Sets of more than one node that all reach one another (Tarjan's components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    result = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            component = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(component) > 1:
                result.append(component)

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return result


def _commands(module: Module) -> Iterator[tuple[str, str]]:
    """The names of commands and of the functions that do them.

    They are decorated (``@app.command("eval")``) or handed over (``app.command("eval")(f)``).
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef):
            calls = [(one, node.name) for one in node.decorator_list]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Call) and node.args:
            inner = node.args[0]
            while isinstance(inner, ast.Call) and inner.args:
                inner = inner.args[0]
            calls = [(node.func, ast.unparse(inner).rpartition(".")[2])]
        else:
            continue
        for call, function in calls:
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".command"):
                first = call.args[0] if call.args else None
                name = first.value if isinstance(first, ast.Constant) else function
                app = ast.unparse(call.func).split(".")[0].strip("_").removesuffix("app")
                yield f"{app.strip('_')} {name}".strip(), function


def _arity(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)


def spellings(module: Module, option: str) -> tuple[int, int]:
    """How often the module declares the option, and how often it hands it on.

    A declaration is a parameter, a field of a class or a text (``"batch_size"``, ``--batch-size``);
    it is handed on as a keyword argument.
    """
    flag = "--" + option.replace("_", "-")
    declared = handed_on = 0
    for node in ast.walk(module.tree):
        if isinstance(node, ast.arg):
            declared += node.arg == option
        elif isinstance(node, ast.ClassDef):
            fields = (n.target for n in node.body if isinstance(n, ast.AnnAssign))
            declared += any(isinstance(f, ast.Name) and f.id == option for f in fields)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            declared += node.value in (option, flag)
        elif isinstance(node, ast.keyword):
            handed_on += node.arg == option
    return declared, handed_on


def _identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def escapes(modules: Iterable[Module]) -> dict[str, int]:
    """The ways around the type checker, counted."""
    patterns = {
        "cast(Any, ...)": r"\bcast\(\s*\"?Any\b",
        'getattr(x, "name")': r"\bgetattr\([^()]*,\s*\"\w+\"",
        "__dict__": r"\b__dict__\b",
        "type: ignore": r"#\s*type:\s*ignore",
        "Row = dict[str, Any]": r"\bRow\b.*=\s*dict\[str, Any\]",
    }
    texts = [module.text for module in modules]
    return {what: sum(len(re.findall(p, t)) for t in texts) for what, p in patterns.items()}


def _names_of_plugins(root: Path) -> set[str]:
    """Registered names of detectors, methods, benchmarks and data sets."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = ("detectors", "methods", "benchmarks", "datasets")
    return {n for g in groups for n in project["entry-points"].get(f"{CORE}.{g}", {})}


def counts(house: House) -> dict[str, object]:
    """Everything that is counted, by what it is; in the table's order."""
    rooms = house.rooms
    sizes = {name: module.lines for name, module in rooms.items()}
    longest = max(sizes, key=sizes.__getitem__)
    spans = {
        f"{module.place}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in rooms.values()
        for node in module.functions()
    }
    slowest = max(spans, key=spans.__getitem__)
    outside, inside = (house.arrows(inside_functions=flag) for flag in (False, True))
    result: dict[str, object] = {
        "rooms of the core": len(rooms),
        "lines of the core": sum(sizes.values()),
        f"rooms over {LONG} lines": sum(size > LONG for size in sizes.values()),
        "longest room": f"{rooms[longest].place} {sizes[longest]}",
        "longest function": f"{slowest} {spans[slowest]}",
        "arrows": sum(map(len, outside.values())),
        "arrows, with those inside functions": sum(map(len, inside.values())),
        "circles": _sizes(circles(outside)),
        "circles, with imports inside functions": _sizes(circles(inside)),
    }
    for plugin in PLUGINS:
        name = f"{CORE}.detectors.{plugin}"
        found = len(house.pulled_in(name)) if name in house.modules else "–"
        result[f"rooms behind detectors/{plugin}.py"] = found
    result |= {f"parameters of `{what}`": n for what, n in sorted(house.parameters().items())}
    said = {m.place: len(re.findall("modalit(?:y|ies)", m.text, re.I)) for m in rooms.values()}
    result["mentions of `modality`: files"] = sum(n > 0 for n in said.values())
    result["mentions of `modality`: all"] = sum(said.values())
    for option in OPTIONS:
        every = [spellings(module, option) for module in rooms.values()]
        files = sum(any(one) for one in every)
        declared, handed_on = (sum(column) for column in zip(*every, strict=True))
        result[f"`{option}`: declared / handed on (files)"] = f"{declared} / {handed_on} ({files})"
    result |= {f"escapes: `{what}`": n for what, n in escapes(rooms.values()).items()}
    names = _names_of_plugins(house.root)
    result["texts that are a plug-in's name"] = sum(
        isinstance(node, ast.Constant) and node.value in names
        for module in rooms.values()
        for node in ast.walk(module.tree)
    )
    words = Counter(n for module in house.modules.values() for n in _identifiers(module.tree))
    result |= {f"identifiers `{word}` (with plug-ins)": words[word] for word in VAGUE}
    return result


def _sizes(components: list[set[str]]) -> str:
    sizes = " and ".join(str(len(one)) for one in components)
    return f"{len(components)} (of {sizes} rooms)" if components else "0"


def table(columns: Mapping[str, Mapping[str, object]]) -> str:
    """A Markdown table: a row for each thing counted, a column for each checkout."""
    titles = list(dict.fromkeys(title for column in columns.values() for title in column))
    lines = [f"| counted | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for title in titles:
        cells = (str(column.get(title, "–")) for column in columns.values())
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def details(house: House) -> str:
    """The names behind the counts."""
    lines = [f"## {house.root}", "", "Rooms and their lines:"]
    ordered = sorted(house.rooms.values(), key=lambda module: -module.lines)
    lines += [f"- {module.place} {module.lines}" for module in ordered]
    for flag, title in ((False, "Circles"), (True, "Circles, with imports inside functions")):
        lines += ["", f"{title}:"]
        lines += [f"- {', '.join(sorted(one))}" for one in circles(house.arrows(flag))]
    lines += ["", "Imports inside functions:"]
    lines += [
        f"- {one.source} -> {one.target} ({one.function}, line {one.line})"
        for one in house.imports
        if one.function and one.source in house.rooms
    ]
    for plugin in PLUGINS:
        name = f"{CORE}.detectors.{plugin}"
        if name in house.modules:
            lines += ["", f"Rooms behind detectors/{plugin}.py:"]
            lines.append("- " + ", ".join(sorted(house.pulled_in(name))))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("roots", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    parser.add_argument("--list", action="store_true", help="print the names behind the counts")
    options = parser.parse_args()
    houses = {str(root): House(root) for root in options.roots}
    print(table({name: counts(house) for name, house in houses.items()}))
    if options.list:
        for house in houses.values():
            print("\n" + details(house))


if __name__ == "__main__":
    main()
