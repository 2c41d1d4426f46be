"""Do the tests notice a change of the code? Changes it in one place at a time and runs them.

    python benchmarks/mutants.py detectors/knn.py
    python benchmarks/mutants.py oodbench/metrics oodbench/results --most 200 --seconds 900

A mutant is a module with one change: a comparison, an operator, a number, a condition that is
turned round, a statement that is left out. It is killed if a test fails (or never ends), and has
survived if none does. No file is changed, and a mutant costs little more than its tests: they are
run in a process that was forked from one which has imported them. There a change within a function
is put into the function; any other is put in place of the module when all is imported anew. Which
tests are run: those of the module (see TESTS), or what stands behind ``--tests``. Needs fork: Linux
or macOS.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = {
    "oodbench/caching": "tests/caching",
    "oodbench/data/samples.py": "tests/data/test_samples.py",
    "oodbench/data/augmentation.py": "tests/data/test_augmentation.py",
    "oodbench/data/transforms.py": "tests/data/test_transforms.py",
    "oodbench/extract.py": "tests/core/test_extract.py",
    "oodbench/metrics": "tests/metrics",
    "oodbench/results": "tests/results",
    "detectors": "tests/detectors/test_{name}.py",
    "detectors/_contrastive.py": "tests/detectors/test_supcon.py",
    "detectors/_figures.py": "tests/detectors/test_a2d.py",
    "detectors/_modalities.py": "tests/core/test_presets.py",
    "detectors/_multiood.py": "tests/detectors/test_a2d_npmix.py",
    "detectors/_neighbours.py": "tests/detectors/test_numerics.py",
    "detectors/ce_detection.py": "tests/networks/test_boxes.py",
    "detectors/multimodal_ce.py": "tests/networks/test_modalities.py",
}
"""Where the tests of a module or of a folder stand; the longest name that fits counts."""

SLOWEST = 20.0
"""Times the unchanged module's seconds, after which a mutant counts as never ending."""

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
WORDS = {"paper", "PAPER", "grid", "__all__"}
"""Names whose values are no code: what is said of a paper, what tuning tries, what is exported."""


@dataclass(frozen=True)
class Mutant:
    """A module's source with one change."""

    line: int
    change: str
    source: str
    function: str | None = None
    """The qualified name of the function that it is within, of nested ones the outermost."""


def changed(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand for a node instead."""
    other = copy.copy(node)
    match node:
        case ast.Compare(ops=[operator, *rest]) if type(operator) in COMPARISONS:
            other.ops = [COMPARISONS[type(operator)](), *rest]
            yield other
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in OPERATORS:
            other.op = OPERATORS[type(operator)]()
            yield other
        case ast.BoolOp(op=operator):
            other.op = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield other
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.If() | ast.While() | ast.IfExp():
            other.test = ast.UnaryOp(ast.Not(), node.test)
            yield other
        case ast.Expr(value=ast.Call()) | ast.Raise():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.Return(value=value) if value is not None:
            yield ast.Return(ast.Constant(None))


def is_code(node: ast.AST) -> bool:
    """Whether what a node holds is run, and not only said."""
    named = [getattr(t, "id", "") for t in getattr(node, "targets", [])]
    named.append(getattr(getattr(node, "target", None), "id", ""))
    return not WORDS.intersection(named) and not isinstance(node, ast.JoinedStr)


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of a module."""
    tree = ast.parse(source)

    def walk(node: ast.AST, classes: str = "", function: str | None = None) -> Iterator[Mutant]:
        for name, value in ast.iter_fields(node):
            within = function
            if name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                within = function or classes + node.name
            inner = f"{classes}{node.name}." if isinstance(node, ast.ClassDef) else classes
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            children = value if isinstance(value, list) else [value]
            for index, child in enumerate(children):
                if not isinstance(child, ast.AST) or not is_code(child):
                    continue
                for other in changed(child):
                    put(node, name, value, index, other)
                    text = ast.unparse(ast.fix_missing_locations(tree))
                    put(node, name, value, index, child)
                    shown = " -> ".join(ast.unparse(n).split("\n")[0] for n in (child, other))
                    yield Mutant(getattr(child, "lineno", 0), shown, text, within)
                yield from walk(child, inner, within)

    yield from walk(tree)


def put(node: ast.AST, name: str, value: object, index: int, child: ast.AST) -> None:
    """Set a field of a node, or one element of it."""
    if isinstance(value, list):
        value[index] = child
    else:
        setattr(node, name, child)


class Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module, with another source."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        self.module, self.path, self.source = module, path, source

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's place, if it is this one."""
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def exec_module(self, module: object) -> None:
        """Run the other source."""
        exec(compile(self.source, str(self.path), "exec"), vars(module))


def codes(code: types.CodeType, name: str) -> list[types.CodeType]:
    """The functions of a qualified name within compiled code."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    own = [one for one in inner if one.co_qualname == name]
    return own + [one for each in inner for one in codes(each, name)]


def put_into_function(path: Path, mutant: Mutant) -> bool:
    """Change a function that was imported already; False where it is not known which one."""
    if mutant.function is None:
        return False
    made = codes(compile(mutant.source, str(path), "exec"), mutant.function)
    there = [
        one
        for one in gc.get_objects()
        if type(one) is types.FunctionType  # not isinstance, which asks proxies what they are
        and one.__code__.co_filename == str(path)
        and one.__code__.co_qualname == mutant.function
    ]
    if len(made) != 1 or len(there) != 1:
        return False
    there[0].__code__ = made[0]
    return True


def forget_all() -> None:
    """Let everything of this repository be imported again."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("oodbench", "tests", "detectors", "datasets"):
            del sys.modules[name]


def passes(module: str, path: Path, mutant: Mutant | None, tests: list[str], limit: float) -> bool:
    """Whether the tests pass with a mutant, or without one, within a time."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        code = 1
        with contextlib.suppress(BaseException):
            if mutant is not None and not put_into_function(path, mutant):
                forget_all()
                sys.meta_path.insert(0, Instead(module, path, mutant.source))
            code = run_tests("-x", *tests)
        os._exit(int(code != 0))
    began = time.monotonic()
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() - began > limit:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0


def run_tests(*words: str) -> int:
    """Pytest's exit code; what it prints goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    before = os.dup(1), os.dup(2)
    for number in (1, 2):
        os.dup2(nowhere, number)
    try:
        return int(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *words]))
    finally:
        for number, stream in enumerate(before, 1):
            os.dup2(stream, number)
            os.close(stream)
        os.close(nowhere)


def tests_of(path: Path) -> list[str]:
    """The tests of a module."""
    name = path.as_posix()
    fitting = [key for key in TESTS if name == key or name.startswith(f"{key}/")]
    if not fitting:
        raise SystemExit(f"{path}: say which tests it has, with --tests or in TESTS.")
    paths = TESTS[max(fitting, key=len)].format(name=path.stem.lstrip("_"))
    if not (REPOSITORY / paths).exists():
        raise SystemExit(f"{path}: there is no {paths}; say which tests it has with --tests.")
    return [paths]


def modules(paths: list[str]) -> Iterator[Path]:
    """The modules below some paths, as they are named in the repository."""
    for path in paths:
        given = Path(path).resolve()
        paths = sorted(given.rglob("*.py")) if given.is_dir() else [given]
        yield from (p.relative_to(REPOSITORY) for p in paths if not p.name.startswith("__"))


def run(path: Path, tests: list[str], most: int, end: float, rng: random.Random) -> tuple[int, int]:
    """How many mutants of a module were killed, of how many; the others are printed."""
    whole = REPOSITORY / path
    source = whole.read_text(encoding="utf-8")
    folder = "oodbench." if path.parts[0] != "oodbench" else ""
    module = folder + ".".join(path.with_suffix("").parts)
    run_tests("--collect-only", *tests)
    began = time.monotonic()
    if not passes(module, whole, None, tests, 3600):
        raise SystemExit(f"{path}: {' '.join(tests)} fails without any change.")
    seconds = 30 + SLOWEST * (time.monotonic() - began)
    made = list(mutants(source))
    tried = killed = 0
    for mutant in sorted(rng.sample(made, min(most, len(made))), key=lambda m: m.line):
        if time.monotonic() > end:
            break
        tried += 1
        if passes(module, whole, mutant, tests, seconds):
            print(f"{path}:{mutant.line}: survived: {mutant.change}", flush=True)
        else:
            killed += 1
    print(f"{path}: {killed} of {tried} killed; there are {len(made)}", flush=True)
    return killed, tried


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="+", help="modules, or folders of them")
    parser.add_argument(
        "--tests", nargs="*", help="what is run; the module's own tests if not given"
    )
    parser.add_argument(
        "--most", type=int, default=10**6, help="mutants of a module, drawn at random"
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="after which no other is tried")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    options = parser.parse_args()
    os.environ["CI"] = "1"  # hypothesis draws the same examples each time
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.chdir(REPOSITORY)
    sys.path.insert(0, str(REPOSITORY))
    sys.dont_write_bytecode = True
    rng, end = random.Random(options.seed), time.monotonic() + options.seconds
    counts = [
        run(path, options.tests or tests_of(path), options.most, end, rng)
        for path in modules(options.paths)
    ]
    killed, tried = (sum(column) for column in zip(*counts, strict=True))
    print(f"{killed} of {tried} killed ({killed / max(tried, 1):.0%})")


if __name__ == "__main__":
    main()
