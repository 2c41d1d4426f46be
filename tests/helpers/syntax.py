"""The syntax of sources, parsed once in each process, whichever tests ask for it."""

from __future__ import annotations

import ast
import functools
import gc


@functools.cache
def tree(source: str) -> ast.Module:
    """The syntax of a file's text, which nobody changes."""
    collects = gc.isenabled()
    gc.disable()  # all that is made stays: to look for garbage in it takes as long again
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()


@functools.cache
def nodes(source: str) -> list[ast.AST]:
    """All nodes of the syntax."""
    return [*ast.walk(tree(source))]
