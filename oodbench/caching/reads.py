"""What code reads and stores outside of itself, told from its bytecode.

A function's outputs hang on module constants, on what it reaches through modules
(``config.scale``), and on the functions that it calls. All of these are named in its code, and in
the code of the functions, lambdas and comprehensions inside it.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from oodbench.caching.origin import origin

_TAKES_CONSTANT = frozenset(dis.hasconst)

Chain = tuple[str, ...]
"""A name and the attributes that are asked of it: ``config.scale`` is ``("config", "scale")``."""

_FILLING = frozenset(
    "append appendleft extend insert add update setdefault pop popleft clear remove discard".split()
)
_BY_NAME = frozenset("eval exec getattr globals locals vars attrgetter methodcaller".split())


@dataclass(frozen=True)
class Reads:
    """What a code object, with those inside it, reads and stores.

    Args:
        chains: global names, with the attributes that follow.
        imports: modules that it imports: name, level, and the names taken from it.
        stored: where it stores outside of itself: chains of globals, and variables of an outer
            function, that it assigns or whose items it assigns.
        filled: the same, of what it asks for ``append``, ``add`` and their kin, which fill a
            collection (but are other things of a tensor).
        stored_attributes: attributes, of anything, that it assigns or whose items it assigns.
        filled_attributes: the same, of ``append``, ``add`` and their kin.
        read_attributes: attributes that it reads for more than that.
        words: all names and all texts in it.
        by_name: whether it may look things up by a name that it has as text.
    """

    chains: tuple[Chain, ...]
    imports: tuple[tuple[str, int, Chain], ...]
    stored: frozenset[Chain]
    filled: frozenset[Chain]
    stored_attributes: frozenset[str]
    filled_attributes: frozenset[str]
    read_attributes: frozenset[str]
    words: frozenset[str]
    by_name: bool


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and all that are defined inside it."""
    waiting = [code]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [const for const in code.co_consts if isinstance(const, types.CodeType)]


@lru_cache(maxsize=8192)
def reads(code: types.CodeType) -> Reads:
    """What a code object reads and stores; see :class:`Reads`."""
    collected = _Collector()
    for part in nested(code):
        collected.add(part)
    return Reads(
        tuple(dict.fromkeys(collected.chains)),
        tuple(dict.fromkeys(collected.imports)),
        frozenset(collected.stored),
        frozenset(collected.filled),
        frozenset(collected.stored_attributes),
        frozenset(collected.filled_attributes),
        frozenset(collected.read_attributes),
        frozenset(collected.words),
        bool(collected.words & _BY_NAME),
    )


class _Collector:
    def __init__(self) -> None:
        self.chains: list[Chain] = []
        self.imports: list[tuple[str, int, Chain]] = []
        self.stored: set[Chain] = set()
        self.filled: set[Chain] = set()
        self.stored_attributes: set[str] = set()
        self.filled_attributes: set[str] = set()
        self.read_attributes: set[str] = set()
        self.words: set[str] = set()

    def add(self, code: types.CodeType) -> None:
        self.words.update(code.co_names)
        self.words.update(_texts(code.co_consts))
        steps = list(dis.get_instructions(code))
        attributes: dict[tuple[int, int], str] = {}  # by where `x.y = …` or `x.y += …` begins
        items: set[tuple[int, int]] = set()  # where `x[…] = …` and its kin begin
        for step in steps:
            if step.opname in ("STORE_ATTR", "DELETE_ATTR"):
                attributes[_begin(step)] = step.argval
            elif step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
                items.add(_begin(step))
        for i, step in enumerate(steps):
            name = step.opname
            if name in ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF"):
                self.stored.add((step.argval,))
            elif name in ("STORE_ATTR", "DELETE_ATTR"):
                self.stored_attributes.add(step.argval)
            elif name == "IMPORT_NAME":
                self._import(steps, i)
            elif name in ("LOAD_ATTR", "LOAD_METHOD"):
                if attributes.get(_begin(step)) == step.argval or _begin(step) in items:
                    self.stored_attributes.add(step.argval)
                elif _is_filled(steps, i):
                    self.filled_attributes.add(step.argval)
                else:
                    self.read_attributes.add(step.argval)
            elif name in ("LOAD_GLOBAL", "LOAD_NAME"):
                self._global(_chain(steps, i), _begin(step), attributes, items)
            elif name == "LOAD_DEREF" and _begin(step) in items:
                self.stored.add((step.argval,))
            elif name == "LOAD_DEREF" and _is_filled(steps, i):
                self.filled.add((step.argval,))

    def _import(self, steps: list[dis.Instruction], i: int) -> None:
        level, taken = (steps[i - 2].argval, steps[i - 1].argval) if i >= 2 else (0, None)
        level = level if isinstance(level, int) else 0
        self.imports.append((steps[i].argval, level, taken if isinstance(taken, tuple) else ()))

    def _global(
        self,
        chain: Chain,
        begin: tuple[int, int],
        attributes: dict[tuple[int, int], str],
        items: set[tuple[int, int]],
    ) -> None:
        if begin in attributes and attributes[begin] not in chain:
            self.stored.add((*chain, attributes[begin]))
            return
        self.chains.append(chain)
        if len(chain) > 1 and chain[-1] in _FILLING:
            self.filled.add(chain[:-1])
        elif begin in items or begin in attributes:
            self.stored.add(chain)


def _chain(steps: list[dis.Instruction], i: int) -> Chain:
    """The name that step ``i`` loads, and the attributes that are asked of it."""
    chain = [steps[i].argval]
    for later in steps[i + 1 :]:
        if later.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            break
        chain.append(later.argval)
    return tuple(chain)


def _is_filled(steps: list[dis.Instruction], i: int) -> bool:
    """Whether what step ``i`` loads is asked for a method that fills a collection."""
    asked = _chain(steps, i)[1:2]
    return bool(asked) and asked[0] in _FILLING


def _place(step: dis.Instruction) -> tuple[int, int, int, int]:
    at = step.positions
    if at is None or at.lineno is None or at.col_offset is None:
        return (-1, step.offset, -1, -1)  # Python was told to keep no columns: a place of its own
    return (at.lineno, at.col_offset, at.end_lineno or -1, at.end_col_offset or -1)


def _begin(step: dis.Instruction) -> tuple[int, int]:
    return _place(step)[:2]


def _texts(consts: tuple[object, ...]) -> Iterator[str]:
    for const in consts:
        if isinstance(const, str):
            yield const
        elif isinstance(const, tuple | frozenset):
            yield from _texts(tuple(const))


def instructions(code: types.CodeType) -> tuple[bytes, tuple[Any, ...]]:
    """The bytecode without the places of constants, and the constants in the order of their use.

    What is never used is left out: a docstring changes nothing that code does.
    """
    raw = bytearray(code.co_code)
    used: list[Any] = []
    place, begins = 0, 0
    for i in range(0, len(raw), 2):
        place = place << 8 | raw[i + 1]
        if raw[i] == dis.EXTENDED_ARG:
            continue
        if raw[i] in _TAKES_CONSTANT:
            used.append(code.co_consts[place])
            raw[begins + 1 : i + 2 : 2] = bytes((i - begins) // 2 + 1)
        place, begins = 0, i + 2
    return bytes(raw), tuple(used)


def names_of(code: types.CodeType) -> tuple[str, ...]:
    """What code reads by name; of oodbench's modules, which it may import, the last part."""
    return tuple(
        name.rpartition(".")[2] if origin(name) == "ours" else name for name in code.co_names
    )
